"""What an encoding is asked to do, and whether that was done, begun or is new."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import Any

from sparsecode import files
from sparsecode.errors import NoInputError, RefusedError, SparsecodeError
from sparsecode.file_fitting import InputOptions
from sparsecode.inputs import list_images
from sparsecode.listing import Listing
from sparsecode.merging import shard_path
from sparsecode.parts import Parts, Plan, read_listing, read_plan, remove_parts
from sparsecode.persistence import describe_model
from sparsecode.sources import ArraySource, open_array_source
from sparsecode.storage import describe_codes
from sparsecode.transformer import SparseVAETransformer

# A part takes about a second: little is lost by a kill, and little time goes to synchronising.
_IMAGES_IN_A_PART, _ROWS_IN_A_PART = 2048, 16384
# They change how a model is trained, not which one.
_NOT_OF_MODEL = ("device", "verbose")


@dataclass(frozen=True)
class EncodeOptions:
    """How an encoding is run; nothing of it changes a row.

    Attributes
    ----------
    part_size : int or None
        Inputs in a part, which is what a kill can lose; None is 2,048 images or 16,384 rows.
    compression : {"gzip", "gzip9", "lzf", "none"}
        Of the output.
    shard : (int, int)
        Which share of the inputs, from 1, and of how many.
    resume : bool
        Go on with the parts of an interrupted run; else they are removed.
    max_errors : int or None
        Give up when more inputs have failed.
    """

    part_size: int | None = None
    compression: str = "gzip"
    shard: tuple[int, int] = (1, 1)
    resume: bool = True
    max_errors: int | None = None

    def __post_init__(self) -> None:
        index, of = self.shard
        if not 1 <= index <= of:
            raise RefusedError(f"--shard {index}/{of} is out of range; I/N with 1 <= I <= N")
        if self.part_size is not None and self.part_size < 1:
            raise RefusedError(f"--part-size {self.part_size} is not positive")


@dataclass(frozen=True, eq=False)
class Inputs:
    """What was found: an array, or a listing of images."""

    array: ArraySource | None
    listing: Listing | None

    @classmethod
    def find(cls, inputs: Sequence[str | PathLike[str]], options: InputOptions) -> "Inputs":
        """Look for the inputs, without reading them."""
        array = None if options.listed else open_array_source(inputs)
        if array is not None:
            return cls(array, None)
        return cls(None, list_images(inputs, options.selection, options.listed))

    @property
    def sha256(self) -> str:
        """Identity of the inputs: the names of images, or a sample of an array's bytes."""
        return self.listing.sha256 if self.listing else self.array.sha256  # type: ignore[union-attr]

    def __len__(self) -> int:
        return len(self.listing) if self.listing else self.array.n_listed  # type: ignore[union-attr]


@dataclass(frozen=True, eq=False)
class Job:
    """One encoding, compared with what earlier runs left.

    Attributes
    ----------
    inputs : Inputs
    output : Path
        To write; that of the shard where there are several.
    model : Path
        Given, or to be trained and saved there.
    trains : bool
        No model was given.
    parts : Parts
    shard : (int, int)
    n_vanished : int
        Images of an interrupted run that are gone; they will be listed as failed.
    """

    inputs: Inputs
    output: Path
    model: Path
    trains: bool
    parts: Parts
    shard: tuple[int, int]
    n_vanished: int = 0

    @property
    def plan(self) -> Plan:
        """What decides every byte."""
        return self.parts.plan

    @property
    def n_listed(self) -> int:
        """Inputs of this job."""
        return self.plan.stop - self.plan.start

    def missing(self) -> list[int]:
        """Parts that are not done."""
        return [i for i in range(len(self.plan.ranges)) if self.parts.done(i) is None]

    def is_done(self) -> bool:
        """Tell whether the output is there and is that of this very job."""
        return self.output.exists() and not self.differences()

    def differences(self) -> list[str]:
        """Say in words how an existing output differs from what this job would write."""
        try:
            found = describe_codes(self.output)
        except SparsecodeError:
            return ["all (it is no whole file of codes)"]
        config = found["config"]
        differs = {
            "the inputs": found["listing_sha256"] != self.plan.inputs,
            "the shard": tuple(config.get("shard", (1, 1))) != self.shard,
            **self._model_differences(found["model_sha256"], config),
        }
        return [what for what, is_other in differs.items() if is_other]

    def _model_differences(self, sha256: str, config: Mapping[str, Any]) -> dict[str, bool]:
        if not self.trains:
            return {"the model": sha256 != self.plan.model}
        same = config.get("training") == json.loads(json.dumps(self.plan.training))
        return {
            "the model or how it was trained": not same,
            f"the model {self.model} (gone)": same and not self.model.is_file(),
        }


def output_of(output: str | PathLike[str], shard: tuple[int, int]) -> Path:
    """Return the file that a run writes: the output, or its own shard of it."""
    return Path(output) if shard == (1, 1) else shard_path(output, *shard)


def prepare(
    inputs: Sequence[str | PathLike[str]],
    output: str | PathLike[str],
    model: str | PathLike[str] | None,
    options: InputOptions,
    parameters: Mapping[str, Any],
    run: EncodeOptions,
) -> Job:
    """Find the inputs and what was done before; nothing is written.

    Raises
    ------
    NoInputError
        Nothing to read, or no model.
    RefusedError
        The request contradicts itself, or the parts of an interrupted run.
    """
    if model is None and run.shard != (1, 1):
        raise RefusedError(
            "--shard needs a model that all shards share: train it with fit, give -m"
        )
    path = output_of(output, run.shard)
    found = Inputs.find(inputs, options)
    training = {} if model else _training(options, parameters)
    plan = _plan(found, run, None if model is None else _sha256(Path(model)), training)
    model_path = Path(output).with_suffix(".safetensors") if model is None else Path(model)
    job = Job(found, path, model_path, model is None, Parts(path, plan), run.shard)
    return _resumed(job) if run.resume else job


def begin(job: Job, overwrite: bool, resume: bool) -> None:
    """Make the folder of parts, unless it is there.

    Raises
    ------
    RefusedError
        Another output is in the way.
    OutputError
        Nothing can be written there.
    """
    if job.output.exists() and not overwrite:
        raise RefusedError(
            f"{job.output} exists, and is not what this run would write: "
            f"{_joined(job.differences())} differ; choose another name, or replace it with "
            "--overwrite (overwrite=True)"
        )
    if resume and read_plan(job.output) is not None:
        return
    if job.trains:
        files.check_output(job.model, overwrite)
    remove_parts(job.output)
    job.parts.begin(job.inputs.listing.to_bytes() if job.inputs.listing else b"")


def forecast(job: Job, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Say what a job would do.

    Parameters
    ----------
    job : Job
    parameters : mapping
        Of a training.

    Returns
    -------
    dict
        Plain values; ``output_bytes_about`` rests on half the size of the values before they are
        compressed.
    """
    parts = len(job.plan.ranges)
    done = parts - len(job.missing())
    n_latents, p = _sparsity(job, parameters)
    values = job.n_listed * n_latents * (1 - p)
    return {
        "inputs": job.n_listed,
        "kind": "rows of an array" if job.inputs.array else "images",
        "output": str(job.output),
        "state": "complete" if job.is_done() else ("interrupted" if done else "new"),
        "model": f"{job.model}{' (to be trained)' if job.trains else ''}",
        "latents": n_latents,
        "p": p,
        "parts": parts,
        "parts_done": done,
        "output_bytes_about": int(values * 4 + job.n_listed * 32),
        "free_bytes": shutil.disk_usage(job.output.absolute().parent).free,
    }


def _sparsity(job: Job, parameters: Mapping[str, Any]) -> tuple[int, float]:
    if not job.trains:
        model = describe_model(job.model)
        return model["n_latents"], model["p"]
    defaults = signature(SparseVAETransformer).parameters
    k, p = (parameters.get(name, defaults[name].default) for name in ("n_components", "p"))
    return k, p


def _plan(
    found: Inputs, run: EncodeOptions, model: str | None, training: Mapping[str, Any]
) -> Plan:
    index, of = run.shard
    n = len(found)
    part_size = run.part_size or (_IMAGES_IN_A_PART if found.listing else _ROWS_IN_A_PART)
    start, stop = n * (index - 1) // of, n * index // of
    return Plan(found.sha256, start, stop, part_size, model, training, run.compression)


def _resumed(job: Job) -> Job:
    """Compare with the plan of an interrupted run, and take its listing where images are gone."""
    existing = read_plan(job.output)
    differences = [] if existing is None else job.plan.differences(existing)
    if existing is None or not differences:
        return job
    new: list[str] = []
    if job.inputs.listing and "the inputs" in differences:
        frozen = Listing.from_bytes(read_listing(job.output))
        before, now = set(frozen.names), set(job.inputs.listing.names)
        new = sorted(now - before)
        parts = Parts(job.output, _refrozen(job.plan, existing))
        if not new and not parts.plan.differences(existing):
            inputs = Inputs(None, frozen)
            return replace(job, inputs=inputs, parts=parts, n_vanished=len(before - now))
    examples = f" ({len(new):,} are new, such as {new[0]!r})" if new else ""
    raise RefusedError(
        f"{job.parts.folder} holds an interrupted run in which {_joined(differences)} differ"
        f"{examples}; run that command again, or begin anew with --no-resume"
    )


def _refrozen(plan: Plan, existing: Mapping[str, Any]) -> Plan:
    own = asdict(plan) | {key: existing.get(key) for key in ("inputs", "start", "stop")}
    return Plan(**own)


def _training(options: InputOptions, parameters: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in parameters.items() if key not in _NOT_OF_MODEL}
    return {
        "parameters": json.loads(json.dumps(kept, default=lambda value: type(value).__name__)),
        "images": options.of_model(),
    }


def _sha256(model: Path) -> str:
    if not model.is_file():
        raise NoInputError(f"the model {model} does not exist")
    return hashlib.sha256(model.read_bytes()).hexdigest()


def _joined(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
