"""Hostile files: how many kinds of models, codes and arrays there are, and how many are refused.

    python -m benchmarks.reliability.hostile

From the root of the repository. Every kind (``tests/hostile_*.py``) is given to all its readers, in
a process that may fail. Refused means: with the error that is meant for it and the file's name.
Exits with 1 if anything else happened.
"""

import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import machine, print_console, print_table
from benchmarks.reliability.child import outcome
from sparsecode import SparseVAETransformer
from sparsecode.arrays import open_array
from sparsecode.errors import CodesFormatError, ModelFormatError, RefusedError
from sparsecode.persistence import describe_model, verify_model
from sparsecode.storage import describe_codes, iterate_codes, read_codes, verify_codes
from tests import hostile_arrays, hostile_codes, hostile_models

_SECONDS = 30
Reader = Callable[[Path], Any]


def _iterated(path: Path) -> int:
    return sum(map(len, iterate_codes(path, 100)))


def _all_read(path: Path) -> None:
    array = open_array(path)
    for start in range(0, array.shape[0], 1000):
        array.read(start, start + 1000)
        array.names(start, start + 1000)
        if array.has_labels:
            array.labels(start, start + 1000)


def judge(path: Path, readers: Sequence[Reader], verify: Reader | None, error: type) -> str:
    """Give a file to all readers; return "refused", or what happened instead."""
    for read in readers:
        try:
            read(path)
        except error as refusal:
            if str(path) not in str(refusal):
                return f"refused without its name: {refusal}"
        else:
            return f"{read.__name__} accepts it"
    return "refused" if verify is None or verify(path) else "verify accepts it"


def tally(
    names: Iterable[str], make: Callable[[str, Path], Path], check: Callable[[str, Path], str]
) -> tuple[int, list[str]]:
    """Make and judge every kind; return their number, and a line for each not refused."""
    failures, kinds = [], list(names)
    for name in kinds:
        with tempfile.TemporaryDirectory() as folder:
            path = make(name, Path(folder))
            result = outcome(partial(check, name, path), _SECONDS)
        if result != "refused":
            failures.append(f"{name}: {result}")
    return len(kinds), failures


def _check_model(name: str, path: Path) -> str:
    readers: list[Reader] = [SparseVAETransformer.load]
    readers += [] if name.startswith("weights") else [describe_model]
    return judge(path, readers, verify_model, ModelFormatError)


def _check_codes(name: str, path: Path) -> str:
    group, _, rest = name.partition(": ")
    readers: list[Reader] = [read_codes, _iterated]
    readers += [describe_codes] if group == "file" or rest in hostile_codes.STRUCTURE else []
    return judge(path, readers, verify_codes, CodesFormatError)


def _check_array(_: str, path: Path) -> str:
    return judge(path, [_all_read], None, RefusedError)


def main() -> None:
    """Judge all kinds, print the table, and fail if one is not refused."""
    with tempfile.TemporaryDirectory() as folder:
        model = hostile_models.small_model(Path(folder, "model.safetensors"))
        codes = hostile_codes.small_file(Path(folder, "codes.h5"))
    groups = {
        "models": tally(
            hostile_models.KINDS,
            lambda name, folder: hostile_models.make(name, folder, model),
            _check_model,
        ),
        "codes": tally(
            hostile_codes.KINDS,
            lambda name, folder: hostile_codes.make(name, folder, codes),
            _check_codes,
        ),
        "arrays in HDF5": tally(hostile_arrays.KINDS, hostile_arrays.make, _check_array),
    }
    rows = [
        {"files": name, "kinds": f"{n:,}", "refused": f"{n - len(failures):,}"}
        for name, (n, failures) in groups.items()
    ]
    print_table("Hostile files", rows)
    failures = [line for _, lines in groups.values() for line in lines]
    for line in failures:
        print_console(line)
    print_console(f"{len(failures)} failure(s). {machine()}.")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
