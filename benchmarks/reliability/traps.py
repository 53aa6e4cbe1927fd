"""Traps in folders: whether `sparsecode encode` accounts for every one of them.

    python -m benchmarks.reliability.traps

From the root of the repository. A folder of good images and traps is encoded by a real process, and
so is one whose files vanish, or become something else, between listing and reading. Every trap must
be where it is expected: among the rows, among the failures with a reason, or passed over because it
is no image. Exits with 1 if one is not, or if the process hangs or ends with another code.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks.common import machine, print_console, print_table
from sparsecode import SparseVAETransformer
from sparsecode.images import ImageOptions
from sparsecode.storage import read_codes, verify_codes
from tests.hostile_models import bind_socket

_ROOT = Path(__file__).parents[2]
_SECONDS = 300
_SOME_FAILED = 3
_SIZE = 8
# Something happens to the files as soon as they are listed.
_MEANWHILE = """
import sys
from sparsecode import inputs
from benchmarks.reliability import traps

listing = inputs._listing

def listed(*arguments):
    found = listing(*arguments)
    traps.change_all(sys.argv[2])
    return found

inputs._listing = listed
from sparsecode.cli import main
main()
"""


class Trap(NamedTuple):
    """Something in a folder.

    Parameters
    ----------
    make : callable
        Makes it, given a path.
    name : str
        Its path below the folder, as bytes in the file system's encoding.
    row : str or None
        What its row is called, if it has one.
    failure : str or None
        What it is called among the failures.
    meanwhile : callable, optional
        What happens to it once it is listed.
    """

    make: Callable[[Path], object]
    name: str
    row: str | None = None
    failure: str | None = None
    meanwhile: Callable[[Path], object] | None = None


def _image(path: Path) -> None:
    seed = sum(os.fsencode(path.name))
    pixels = np.random.default_rng(seed).integers(0, 256, (_SIZE, _SIZE), dtype=np.uint8)
    with path.open("wb") as file:
        Image.fromarray(pixels).save(file, "PNG")


def _hole(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


def _unreadable(path: Path) -> None:
    _image(path)
    path.chmod(0)


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def _folder_of_one(path: Path) -> None:
    path.mkdir()
    _image(path / "x.png")


def _replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        if path.is_dir():
            (path / "x.png").unlink()
            path.rmdir()
        else:
            path.unlink()
        make(path)

    return replace


def _odd(raw: bytes, row: str) -> Trap:
    return Trap(_image, os.fsdecode(raw), row)


def _no_row(make: Callable[[Path], object], name: str) -> Trap:
    return Trap(make, name, failure=name)


TRAPS = {
    "FIFO": _no_row(os.mkfifo, "fifo.jpg"),
    "socket": _no_row(bind_socket, "socket.png"),
    "link to itself": _no_row(_link("self.png"), "self.png"),
    "link to nothing": _no_row(_link("nowhere"), "nothing.png"),
    "link to /dev/zero": _no_row(_link("/dev/zero"), "zero.png"),
    "link to /dev/null": _no_row(_link("/dev/null"), "null.png"),
    "link to memory": _no_row(_link("/proc/self/mem"), "memory.png"),
    "link to a folder above": Trap(_link(".."), "above"),
    "link to this folder": Trap(_link("."), "here.png"),
    "folder called an image": Trap(Path.mkdir, "folder.png"),
    "empty file": _no_row(Path.touch, "empty.png"),
    "text": _no_row(lambda path: path.write_text("hello"), "text.jpg"),
    "hole of a tebibyte": _no_row(_hole, "hole.png"),
    "name not in UTF-8": _odd(b"bad\xff.png", "bad%FF.png"),
    "name with a line feed": _odd(b"a\nb.png", "a%0Ab.png"),
    "name that clears the screen": _odd(b"\33[2J.png", "%1B[2J.png"),
    "name with an escaped NUL": _odd(b"%00.png", "%2500.png"),
    "name like an option": _odd(b"--help.png", "--help.png"),
    "name from right to left": _odd("\u202egnp.png".encode(), "\u202egnp.png"),
    "name of 255 bytes": _odd(b"n" * 251 + b".png", "n" * 251 + ".png"),
    "good image": _odd(b"good.png", "good.png"),
}
if os.geteuid():  # to root everything is readable
    TRAPS["unreadable file"] = _no_row(_unreadable, "unreadable.png")
CHANGES = {
    "file that vanishes": Trap(_image, "gone.png", failure="gone.png", meanwhile=Path.unlink),
    "file that becomes a folder": Trap(
        _image, "folder.png", failure="folder.png", meanwhile=_replaced(Path.mkdir)
    ),
    "file that becomes a FIFO": Trap(
        _image, "fifo.png", failure="fifo.png", meanwhile=_replaced(os.mkfifo)
    ),
    "file that becomes a link to itself": Trap(
        _image, "self.png", failure="self.png", meanwhile=_replaced(_link("self.png"))
    ),
    "file that becomes empty": Trap(
        _image, "empty.png", failure="empty.png", meanwhile=lambda path: path.write_bytes(b"")
    ),
    "folder that becomes a file": Trap(
        _folder_of_one, "a", failure="a/x.png", meanwhile=_replaced(Path.touch)
    ),
    "folder that vanishes": Trap(
        _folder_of_one, "b", failure="b/x.png", meanwhile=_replaced(lambda _: None)
    ),
    "file that stays": Trap(_image, "good.png", "good.png"),
}


@dataclass
class Result:
    """What an encoding of a folder of traps came to.

    Parameters
    ----------
    outcomes : dict of str to str
        By trap: "row", "failed: reason", "passed over", or what is wrong.
    problems : list of str
        One line for each trap that is elsewhere than expected, and for the process.
    """

    outcomes: dict[str, str]
    problems: list[str]


def change_all(folder: str) -> None:
    """Let happen what happens to the files of `CHANGES` once they are listed."""
    for trap in CHANGES.values():
        if trap.meanwhile:
            trap.meanwhile(Path(folder, trap.name))


def small_model(path: Path) -> None:
    """Save a model of images."""
    X = np.random.default_rng(0).random((60, _SIZE * _SIZE), dtype=np.float32)
    model = SparseVAETransformer(8, max_iter=1, hidden_sizes=(), random_state=0, device="cpu")
    model.fit(X)
    model.image_options_ = ImageOptions(_SIZE, _SIZE, 1).to_dict()
    model.save(path)


def spring(traps: dict[str, Trap], work: Path, *options: str) -> Result:
    """Make traps in a new folder and encode it; say what became of each."""
    folder, output, failures = work / "images", work / "out.h5", work / "failures.jsonl"
    folder.mkdir()
    for trap in traps.values():
        trap.make(folder / trap.name)
    small_model(work / "m.safetensors")
    program = ["-m", "sparsecode"] if traps is not CHANGES else ["-c", _MEANWHILE]
    arguments = ["encode", folder, output, "-m", work / "m.safetensors", "--failures", failures]
    try:
        done = subprocess.run(
            [sys.executable, *program, *map(str, arguments), *options],
            capture_output=True,
            timeout=_SECONDS,
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return Result({}, [f"it hangs: no end in {_SECONDS} s"])
    if done.returncode != _SOME_FAILED:
        said = done.stderr.decode(errors="backslashreplace")
        return Result({}, [f"it ended with {done.returncode}: {said}"])
    lines = failures.read_text(encoding="utf-8").splitlines()
    reasons = {entry["path"]: entry["reason"] for entry in map(json.loads, lines)}
    problems = verify_codes(output)
    problems += ["its messages hold a control character"] if b"\33" in done.stderr else []
    return _compared(traps, set(read_codes(output).names), reasons, problems)


def _compared(
    traps: dict[str, Trap], rows: set[str], reasons: dict[str, str], problems: list[str]
) -> Result:
    outcomes = {}
    for name, trap in traps.items():
        if trap.row is not None:
            outcomes[name] = "row" if trap.row in rows else "MISSING"
        elif trap.failure is not None:
            outcomes[name] = f"failed: {reasons.get(trap.failure) or 'MISSING'}"
        else:
            outcomes[name] = "passed over"
    wanted = {trap.row for trap in traps.values()} - {None}
    failed = {trap.failure for trap in traps.values()} - {None}
    problems += [f"row {name!r} is there, or not" for name in sorted(wanted ^ rows, key=str)]
    problems += [
        f"failure {name!r} is there, or not" for name in sorted(failed ^ reasons.keys(), key=str)
    ]
    return Result(outcomes, problems)


def main() -> None:
    """Spring all traps, print the table, and fail if one is not accounted for."""
    problems: list[str] = []
    for title, traps in (("Traps", TRAPS), ("Changes between listing and reading", CHANGES)):
        with tempfile.TemporaryDirectory() as folder:
            result = spring(traps, Path(folder))
        print_table(title, [{"what": k, "outcome": v} for k, v in result.outcomes.items()])
        problems += [f"{title}: {problem}" for problem in result.problems]
    for line in problems:
        print_console(line)
    n_traps = len(TRAPS) + len(CHANGES)
    print_console(f"{n_traps} traps, {len(problems)} problem(s). {machine()}.")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
