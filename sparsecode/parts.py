"""A job in parts, so that it can be killed at any moment and go on: plan, parts, done markers.

    out.h5.parts/plan.json         frozen before any work: inputs, model, size of parts
                 listing           the files to read, in order
                 model.safetensors where one was trained for this job
                 part-000000.h5    codes of the first inputs, whole or absent
                 part-000000.json  says that the part is done; written last

Whatever is not marked as done is done again. See docs/reliability.md.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sparsecode import files
from sparsecode.errors import OutputError, RefusedError

PLAN_VERSION = 1


@dataclass(frozen=True)
class Plan:
    """What decides every byte of the output; equal plans may go on with each other's parts.

    Attributes
    ----------
    inputs : str
        Hash of the inputs' names and order.
    start, stop : int
        Which of the inputs: all of them, or those of a shard.
    part_size : int
        Inputs in a part.
    model : str or None
        SHA-256 of the model's file; None where the job trains its own.
    training : mapping
        Parameters and options of that training.
    compression : str
        Of the output.
    version : int
        Of this file.
    """

    inputs: str
    start: int
    stop: int
    part_size: int
    model: str | None
    training: Mapping[str, Any] = field(default_factory=dict)
    compression: str = "gzip"
    version: int = PLAN_VERSION

    @property
    def ranges(self) -> list[range]:
        """Inputs of every part."""
        starts = range(self.start, self.stop, self.part_size)
        return [range(start, min(start + self.part_size, self.stop)) for start in starts]

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Say in words what another plan, read from a file, has different."""
        names = {
            "inputs": "the inputs", "start": "the shard", "stop": "the shard",
            "part_size": "--part-size", "model": "the model", "compression": "--compression",
            "version": "the version of the plan",
        }  # fmt: skip
        own = json.loads(json.dumps(asdict(self)))
        found = [names[key] for key in names if own[key] != other.get(key)]
        mine, theirs = own["training"], other.get("training") or {}
        changed = sorted(key for key in mine | theirs if mine.get(key) != theirs.get(key))
        return list(dict.fromkeys(found + changed))


@dataclass(frozen=True)
class PartDone:
    """What a marker says of its part.

    Attributes
    ----------
    sha256 : str
        Of the part's file.
    n_bytes, n_rows, n_failed : int
    figures : mapping
        Sums over the part's rows, for the summary of the job.
    """

    sha256: str
    n_bytes: int
    n_rows: int
    n_failed: int
    figures: Mapping[str, Any]


class Parts:
    """The folder of a job, ``<output>.parts``.

    Parameters
    ----------
    output : Path
    plan : Plan
    """

    def __init__(self, output: Path, plan: Plan) -> None:
        self.output = output
        self.folder = folder_of(output)
        self.plan = plan

    @property
    def model(self) -> Path:
        """Where the model trained for this job is kept until the job is done."""
        return self.folder / "model.safetensors"

    def path(self, part: int) -> Path:
        """Return the file of a part."""
        return self.folder / f"part-{part:06d}.h5"

    def begin(self, listing: bytes) -> None:
        """Make the folder, and freeze the plan and the listing in it."""
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make {self.folder}: {error.strerror or error}") from error
        files.write_whole(self.folder / "listing", listing)
        files.write_whole(self.folder / "plan.json", json.dumps(asdict(self.plan), indent=2))

    def done(self, part: int) -> PartDone | None:
        """Return what is known of a part, if it is done and its file is there."""
        try:
            found = json.loads(self._marker(part).read_bytes())
            done = PartDone(**found)
            return done if self.path(part).stat().st_size == done.n_bytes else None
        except (OSError, ValueError, TypeError):
            return None

    def mark(self, part: int, n_rows: int, n_failed: int, figures: Mapping[str, Any]) -> PartDone:
        """Say that a part, whose file is in place, is done."""
        data = self.path(part).read_bytes()
        done = PartDone(hashlib.sha256(data).hexdigest(), len(data), n_rows, n_failed, figures)
        files.write_whole(self._marker(part), json.dumps(asdict(done)))
        return done

    def discard(self, part: int) -> None:
        """Forget a part that turned out to be damaged."""
        self._marker(part).unlink(missing_ok=True)
        self.path(part).unlink(missing_ok=True)

    def is_whole(self, part: int, done: PartDone) -> bool:
        """Tell whether a part's file still has the bytes that were marked as done."""
        return hashlib.sha256(self.path(part).read_bytes()).hexdigest() == done.sha256

    def hold_work(self) -> bool:
        """Tell whether anything is kept that took time: a model, or a part."""
        return self.model.exists() or any(self.folder.glob("part-*.json"))

    def _marker(self, part: int) -> Path:
        return self.path(part).with_suffix(".json")


def folder_of(output: Path) -> Path:
    """Return where the parts of an output are kept until it is whole."""
    return output.with_name(output.name + ".parts")


def read_plan(output: Path) -> dict[str, Any] | None:
    """Return the plan that an interrupted job left; None where there is none."""
    path = folder_of(output) / "plan.json"
    try:
        plan = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RefusedError(f"{path} is damaged ({error}); begin anew with --no-resume") from error
    if not isinstance(plan, dict):
        raise RefusedError(f"{path} is damaged (no object); begin anew with --no-resume")
    return plan


def read_listing(output: Path) -> bytes:
    """Return the listing that an interrupted job froze."""
    return (folder_of(output) / "listing").read_bytes()


def remove_parts(output: Path) -> None:
    """Remove what a job kept; the plan first, since without one nothing is gone on with."""
    folder = folder_of(output)
    if folder.is_dir():
        (folder / "plan.json").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keep other processes from writing the same output (``<output>.lock``).

    The operating system lets go of the lock with the process, however it ends.

    Raises
    ------
    RefusedError
        Another process has it.
    """
    path = output.with_name(output.name + ".lock")
    lock = FileLock(str(path))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RefusedError(
            f"another process is writing {output}; wait for it, or choose another output"
        ) from error
    except OSError as error:
        raise OutputError(f"cannot lock {output}: {error.strerror or error}") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # whoever opened it meanwhile sees that it is gone
        lock.release()
