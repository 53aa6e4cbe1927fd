"""`.h5` and `.h5ad` -> rows, their names and labels, each read a slice at a time.

Files are opened for each read, so what is here can cross processes and holds no file open.
"""

from dataclasses import dataclass, field

import h5py
import numpy as np
from scipy.sparse import csr_array

from sparsecode import hdf5

_MAX_COLUMNS = 2**31


@dataclass(frozen=True)
class DenseRows:
    """Rows of a dataset, of which `chunk_rows` are stored, and so read, together."""

    path: str
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype
    chunk_rows: int

    def __getitem__(self, key: slice) -> np.ndarray:
        with hdf5.open_read(self.path) as file:
            return file[self.key][key]


@dataclass(frozen=True)
class SparseRows:
    """Rows of AnnData's CSR; no more of it is in memory than the rows asked for."""

    path: str
    shape: tuple[int, int]
    dtype: np.dtype

    def __getitem__(self, key: slice) -> csr_array:
        first, last, _ = key.indices(self.shape[0])
        with hdf5.open_read(self.path) as file:
            X = file["X"]
            starts = hdf5.read_values(X["indptr"], first, max(first, last) + 1)
            starts = _checked(starts, len(X["indices"]))
            indices, data = (X[name][starts[0] : starts[-1]] for name in ("indices", "data"))
        rows = csr_array((data, indices, starts - starts[0]), (len(starts) - 1, self.shape[1]))
        rows.check_format(full_check=True)
        return rows


@dataclass(frozen=True, eq=False)
class TextColumn:
    """A column of AnnData's `obs` as text; of a categorical one, the categories are held."""

    path: str
    name: str
    length: int
    categories: np.ndarray | None = field(repr=False)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: slice) -> list[str]:
        first, last, _ = key.indices(self.length)
        with hdf5.open_read(self.path) as file:
            item, _ = hdf5.column_parts(file["obs"], self.name)
            values = hdf5.read_values(item, first, max(first, last))
            if self.categories is not None:
                values = hdf5.pick(values, self.categories, item.name)
        return [str(value) for value in values]


def open_rows(
    path: str,
) -> tuple[DenseRows | SparseRows, TextColumn | None, TextColumn | None]:
    """Open rows, names (AnnData's index) and labels (its column "label").

    Raises
    ------
    OSError, ValueError
        The file is damaged, lies about itself or holds no rows.
    """
    with hdf5.open_read(path) as file:
        rows = _sparse_rows(path, file) if hdf5.is_group(file, "X") else _dense_rows(path, file)
        if not hdf5.is_group(file, "obs"):
            return rows, None, None
        index = hdf5.text_attribute(file["obs"], "_index") or "_index"
        return rows, _column(path, file, index), _column(path, file, "label")


def _column(path: str, file: h5py.File, name: str) -> TextColumn | None:
    if name not in file["obs"]:
        return None
    item, categories = hdf5.column_parts(file["obs"], name)
    hdf5.check_values(item)
    known = None if categories is None else hdf5.read_categories(categories)
    return TextColumn(path, name, len(item), known)


def _dense_rows(path: str, file: h5py.File) -> DenseRows:
    key = "X"
    if key not in file:
        found: list[str] = []
        file.visititems(
            lambda name, item: (
                found.append(name) if isinstance(item, h5py.Dataset) and item.ndim >= 2 else None
            )
        )
        if len(found) != 1:
            raise ValueError(f'it has no "X", and {found or "no"} datasets of 2 or more dimensions')
        key = found[0]
    group, _, name = key.rpartition("/")
    item = hdf5.dataset(file[f"/{group}"], name)
    hdf5.check_size(item)
    return DenseRows(path, key, item.shape, item.dtype, item.chunks[0] if item.chunks else 1)


def _sparse_rows(path: str, file: h5py.File) -> SparseRows:
    group = file["X"]
    kind = hdf5.text_attribute(group, "encoding-type")
    if kind != "csr_matrix":
        raise ValueError(f"its X is a {kind}; save it as a CSR matrix or a dense array")
    n_rows, n_columns = hdf5.shape_attribute(group, "shape")
    if not 1 <= n_columns < _MAX_COLUMNS:
        raise ValueError(f"its X has {n_columns} columns")
    indptr, indices, data = (hdf5.dataset(group, name) for name in ("indptr", "indices", "data"))
    for item in (indptr, indices, data):
        hdf5.check_values(item)
    are_integers = indptr.dtype.kind in "iu" and indices.dtype.kind in "iu"
    fits = are_integers and len(indptr) == n_rows + 1 and indptr[0] == 0
    if not fits or not indptr[-1] == len(indices) == len(data):
        raise ValueError("its X/indptr does not fit its shape, indices and data")
    return SparseRows(path, (n_rows, n_columns), data.dtype)


def _checked(starts: np.ndarray, n_values: int) -> np.ndarray:
    # Compared, not subtracted: the difference of unsigned numbers is never below zero.
    rises = (starts[1:] >= starts[:-1]).all()
    if not len(starts) or not rises or starts[0] < 0 or starts[-1] > n_values:
        raise ValueError("its X/indptr falls, or leaves its indices and data")
    return starts.astype(np.int64)
