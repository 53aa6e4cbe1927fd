"""Fuzz the readers of HDF5: whatever the bytes, at most one kind of error for each reader.

    python tests/fuzz/fuzz_codes.py -max_total_time=30          # with sparsecode[fuzz]
    python tests/fuzz/fuzz_codes.py -runs=1000000 corpus/       # longer; keeps what it learns
    python tests/fuzz/fuzz_codes.py crash-1234                  # once more, what went wrong

From the root of the repository. It begins with a good file and hostile ones, read as codes and as
rows to encode; libFuzzer's other options work. ``tests/test_fuzz.py`` calls the same target without
atheris.
"""

import sys
import tempfile
from pathlib import Path

from fuzzing import changed, fuzz, listed

from sparsecode.arrays import open_array
from sparsecode.errors import CodesFormatError, RefusedError
from sparsecode.storage import describe_codes, iterate_codes, read_codes, verify_codes
from tests import hostile_codes

_SKIPPED = ("file: a", "codes: a bomb", "codes: config of 5", "codes: a version of a billion")
_PATH = Path(tempfile.mkdtemp(prefix="sparsecode-fuzz-"), "codes.h5")


def _iterated(path: Path) -> list[object]:
    return list(iterate_codes(path, 100))


def target(data: bytes) -> None:
    """Give bytes to every reader of HDF5; all but the error that is meant for it ends the run."""
    _PATH.write_bytes(data)
    problems = verify_codes(_PATH)
    for read in (describe_codes, _iterated, read_codes):
        try:
            read(_PATH)
        except CodesFormatError as error:
            if not problems:
                raise AssertionError("verified, but cannot be read") from error
    try:
        array = open_array(_PATH)
        array.read(0, 100)
        array.names(0, 100)
    except RefusedError:
        pass


def seeds() -> list[bytes]:
    """Return a good file and small hostile ones, without checksums that would stop a change."""
    good = hostile_codes.old_file(_PATH)
    return [good, *listed(hostile_codes.KINDS, hostile_codes.make, good, _SKIPPED)]


def mutated(data: bytes, seed: int) -> bytes:
    """Change some bytes, of the metadata more often than of the values."""
    return changed(data, seed, first=len(data))


if __name__ == "__main__":
    fuzz(target, seeds(), sys.argv)
