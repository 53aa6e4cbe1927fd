"""Fuzz the readers of model files: whatever the bytes, at most one kind of error.

    python tests/fuzz/fuzz_model.py -max_total_time=30          # with sparsecode[fuzz]
    python tests/fuzz/fuzz_model.py -runs=1000000 corpus/       # longer; keeps what it learns
    python tests/fuzz/fuzz_model.py crash-1234                  # once more, what went wrong

From the root of the repository. It begins with a good model and hostile ones; libFuzzer's other
options work. ``tests/test_fuzz.py`` calls the same target without atheris.
"""

import sys
import tempfile
from pathlib import Path

from fuzzing import changed, fuzz, listed

import sparsecode
from sparsecode.errors import ModelFormatError
from sparsecode.persistence import describe_model, verify_model
from tests import hostile_models

_SKIPPED = ("header: header of", "configuration: a million", "configuration: nested", "file: ")
_PATH = Path(tempfile.mkdtemp(prefix="sparsecode-fuzz-"), "model.safetensors")


def target(data: bytes) -> None:
    """Give bytes to every reader of models; all but `ModelFormatError` ends the run."""
    _PATH.write_bytes(data)
    problems = verify_model(_PATH)
    for read in (describe_model, sparsecode.SparseVAETransformer.load):
        try:
            read(_PATH)
        except ModelFormatError as error:
            if str(_PATH) not in str(error):
                raise AssertionError("the error does not name the file") from error
        else:
            if read is not describe_model and problems:
                raise AssertionError(f"loaded, though {problems}")


def seeds() -> list[bytes]:
    """Return a good model and those hostile ones that are small."""
    good = hostile_models.small_model(_PATH)
    return [good, *listed(hostile_models.KINDS, hostile_models.make, good, _SKIPPED)]


def mutated(data: bytes, seed: int) -> bytes:
    """Change some bytes, of the header more often than of the weights."""
    return changed(data, seed, first=3000)


if __name__ == "__main__":
    fuzz(target, seeds(), sys.argv)
