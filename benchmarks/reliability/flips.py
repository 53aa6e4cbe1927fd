"""Flipped bits: how many of them `verify` finds, and whether one changes anything unseen.

    python -m benchmarks.reliability.flips                  # 1,000 in codes, 1,000 in a model
    python -m benchmarks.reliability.flips --count 100000

From the root of the repository. One bit of a good file is flipped, every second one in a byte that
is not zero, and a process that may crash verifies and reads the file. "Harmless" is a bit that
changes nothing that is read; "silent" one that does, unseen. Exits with 1 if one is silent, and
after a crash or a hang.
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import machine, print_console, print_table
from benchmarks.reliability.child import outcomes
from sparsecode import SparseVAETransformer
from sparsecode.codes import SparseCodes
from sparsecode.persistence import verify_model
from sparsecode.storage import read_codes, verify_codes
from tests.hostile_codes import small_file
from tests.hostile_models import small_model

OUTCOMES = ("detected", "harmless", "silent", "crashed", "hung", "raised")
_SECONDS = 30
_SHOWN = 20


def places(content: bytes, count: int, seed: int) -> Iterator[tuple[int, int]]:
    """Choose bits: a byte's place, and the number of the bit in it."""
    rng = random.Random(seed)
    busy = [i for i, byte in enumerate(content) if byte]
    for i in range(count):
        place = rng.choice(busy) if i % 2 else rng.randrange(len(content))
        yield place, rng.randrange(8)


def flipped(content: bytes, place: tuple[int, int]) -> bytes:
    """Flip one bit."""
    damaged = bytearray(content)
    damaged[place[0]] ^= 1 << place[1]
    return bytes(damaged)


def content_of_codes(codes: SparseCodes) -> list[Any]:
    """Return all that is read from a file of codes, to be compared."""
    matrix = codes.matrix
    columns = [*codes.obs.items(), *codes.var.items()]
    return [
        matrix.shape,
        *((part.dtype.str, part.tobytes()) for part in (matrix.data, matrix.indices)),
        matrix.indptr.tolist(),
        codes.names.tolist(),
        *((name, column.dtype.str, column.tolist()) for name, column in columns),
        dict(codes.metadata),
    ]


def content_of_model(model: SparseVAETransformer) -> list[Any]:
    """Return all that is read from a model, to be compared."""
    state = model.model_.state_dict()
    return [
        model.get_params(deep=False),
        model.model_.spec,
        model.history_,
        (model.n_iter_, model.n_features_in_, model.density_, model.likelihood_),
        (model.image_options_, model._unit_interval),
        *((name, tensor.dtype, tensor.numpy().tobytes()) for name, tensor in state.items()),
    ]


def judge_codes(good: bytes, path: Path, place: tuple[int, int]) -> str:
    """Flip a bit of a file of codes; say what comes of it."""
    path.write_bytes(flipped(good, place))
    if verify_codes(path):
        return "detected"
    found = content_of_codes(read_codes(path))
    path.write_bytes(good)
    return "harmless" if found == content_of_codes(read_codes(path)) else "silent"


def judge_model(good: bytes, path: Path, place: tuple[int, int]) -> str:
    """Flip a bit of a model; say what comes of it."""
    path.write_bytes(flipped(good, place))
    if verify_model(path):
        return "detected"
    found = content_of_model(SparseVAETransformer.load(path, device="cpu"))
    path.write_bytes(good)
    same = content_of_model(SparseVAETransformer.load(path, device="cpu"))
    return "harmless" if found == same else "silent"


def tally(
    make: Callable[[Path], bytes],
    judge: Callable[[bytes, Path, tuple[int, int]], str],
    count: int,
    seed: int = 0,
) -> tuple[Counter[str], list[str]]:
    """Flip bits of one file, each by itself; count what comes of them, and list the failures."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file")
        good = make(path)
        flips = list(places(good, count, seed))
        results = list(outcomes(partial(judge, good, path), flips, _SECONDS))
    counts = Counter(result.split()[0] for result in results)
    failures = [
        f"byte {place}, bit {bit}: {result}"
        for (place, bit), result in zip(flips, results, strict=True)
        if result not in ("detected", "harmless")
    ]
    return counts, failures


def main() -> None:
    """Flip, print the table, and fail if anything did."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--count", type=int, default=1000, help="bits in each file")
    options.add_argument("--seed", type=int, default=0, help="chooses them")
    args = options.parse_args()
    torch.set_num_threads(1)
    np.seterr(all="ignore")
    rows, failures = [], []
    for name, make, judge in (
        ("codes", small_file, judge_codes),
        ("model", small_model, judge_model),
    ):
        counts, found = tally(make, judge, args.count, args.seed)
        rows.append({"file": name} | {key: f"{counts[key]:,}" for key in OUTCOMES})
        failures += [f"{name}, {line}" for line in found]
    print_table("Flipped bits", rows)
    for line in failures[:_SHOWN]:
        print_console(line)
    print_console(f"{len(failures)} failure(s). {machine()}.")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
