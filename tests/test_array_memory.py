"""A pass over an array file holds a batch of it, whatever the format."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

N_ROWS, WIDTH, BLOCK = 1_600_000, 32, 100_000
BYTES = N_ROWS * WIDTH * 4  # 205 MB, and the names would be another 100

# The peak of this process alone: what `resource` tells a child includes its parent.
PASS = """
import sys
import pyarrow.parquet
from sparsecode.arrays import open_array
from sparsecode.sources import ArraySource

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))

array = open_array(sys.argv[1])
array.read(0, 10), array.names(0, 10)
before, n_rows = peak(), 0
for batch in ArraySource(array).batches():
    assert len(batch.names) == batch.X.shape[0]
    n_rows += len(batch.names)
print(n_rows, peak() - before)
"""


def write_npy(path: Path, order: str = "C") -> None:
    rows = np.lib.format.open_memmap(
        path, "w+", np.float32, (N_ROWS, WIDTH), fortran_order=order == "F"
    )
    del rows  # a hole in the file, which is read as zeros


def write_npy_fortran(path: Path) -> None:
    write_npy(path, "F")


def write_h5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        X = file.create_dataset("X", (N_ROWS, WIDTH), "f4", chunks=(1000, WIDTH))
        for start in range(0, N_ROWS, BLOCK):
            X[start : start + BLOCK] = np.full((BLOCK, WIDTH), start + BLOCK == N_ROWS)


def write_h5ad(path: Path) -> None:
    """Write what AnnData does, without holding it: CSR, a text index and a categorical label."""
    n_values = N_ROWS * WIDTH // 2
    with h5py.File(path, "w") as file:
        X = file.create_group("X")
        X.attrs["encoding-type"], X.attrs["shape"] = "csr_matrix", (N_ROWS, WIDTH)
        X["indptr"] = np.arange(0, n_values + 1, WIDTH // 2)
        X["data"] = np.ones(n_values, np.float32)
        indices = np.tile(np.arange(WIDTH // 2, dtype=np.int32), N_ROWS)
        X.create_dataset("indices", data=indices, chunks=(65536,))
        obs = file.create_group("obs")
        obs["_index"] = np.array([f"cell {i}" for i in range(N_ROWS)], object)
        obs["label/codes"] = np.zeros(N_ROWS, np.int8)
        obs["label/categories"] = np.array(["one"], object)


def random_values() -> np.ndarray:
    return np.random.default_rng(0).random(N_ROWS * WIDTH, np.float32)


def write_parquet(path: Path) -> None:
    values = random_values()
    columns = {f"x{i}": values[i * N_ROWS : (i + 1) * N_ROWS] for i in range(WIDTH)}
    names = pa.array([f"name {i}" for i in range(N_ROWS)])
    pyarrow.parquet.write_table(pa.table({"name": names, **columns}), path)


def write_parquet_lists(path: Path) -> None:
    rows = pa.ListArray.from_arrays(np.arange(N_ROWS + 1, dtype=np.int32) * WIDTH, random_values())
    pyarrow.parquet.write_table(pa.table({"embedding": rows}), path)


# Parquet has a page of each column in memory, and of a column's dictionary: 2 MB.
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("write", "name", "most"),
    [
        (write_npy, "x.npy", BYTES / 4),
        (write_npy_fortran, "x.npy", BYTES / 4),
        (write_h5, "x.h5", BYTES / 4),
        (write_h5ad, "x.h5ad", BYTES / 4),
        (write_parquet, "x.parquet", BYTES / 2),
        (write_parquet_lists, "x.parquet", BYTES / 2),
    ],
)
def test_a_pass_holds_a_batch_and_not_the_file(
    tmp_path: Path, write: Callable[[Path], None], name: str, most: float
) -> None:
    path = tmp_path / name
    write(path)
    done = subprocess.run([sys.executable, "-c", PASS, path], capture_output=True, text=True)
    path.unlink()
    assert done.returncode == 0, done.stderr
    n_rows, growth = map(int, done.stdout.split())
    assert n_rows == N_ROWS
    assert growth < most
