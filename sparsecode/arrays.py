"""Arrays in files (embeddings, pixels), read a batch of rows at a time."""

import hashlib
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from scipy import sparse
from scipy.sparse import csr_array

from sparsecode import hdf5
from sparsecode.errors import NoInputError, RefusedError, SparsecodeError


class _Rows(Protocol):
    """Rows that can be read in slices."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __getitem__(self, key: slice, /) -> Any: ...


@dataclass(frozen=True, eq=False)
class ArrayInput:
    """An array in a file, with what is known about its rows.

    Parameters
    ----------
    path : str
        Where it came from.
    names : list of str
        One per row: from AnnData's index, else ``row_0000000`` and so on.
    labels : list of str or None
        From AnnData's ``obs`` column ``label``.
    """

    path: str
    names: list[str]
    labels: list[str] | None
    _rows: _Rows = field(repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and of features; further dimensions are flattened."""
        n_rows, *rest = self._rows.shape
        return n_rows, int(np.prod(rest))

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row before it is flattened: (h, w) or (h, w, c) for images."""
        return tuple(self._rows.shape[1:])

    @property
    def sha256(self) -> str:
        """Identity of the array, short of reading it: a hash of its shape, type and bytes."""
        size = Path(self.path).stat().st_size
        said = f"{self._rows.shape} {self._rows.dtype} {size}"
        return hashlib.sha256(said.encode("ascii")).hexdigest()

    def read(self, start: int, stop: int) -> np.ndarray | csr_array:
        """Read rows `start` to `stop` (exclusive).

        Returns
        -------
        ndarray or csr_array of shape (stop - start, n_features)
            In the type that the file has.

        Raises
        ------
        RefusedError
            The file is damaged, or changed since it was opened.
        """
        with _refusing(self.path):
            rows = self._rows[start:stop]
            return rows if sparse.issparse(rows) else rows.reshape(len(rows), self.shape[1])


def is_array_path(path: str | os.PathLike[str]) -> bool:
    """Tell by its extension whether a file holds an array rather than an image."""
    return Path(path).suffix.lower() in _OPENERS


def open_array(path: str | os.PathLike[str]) -> ArrayInput:
    """Open an array whose rows are samples.

    Parameters
    ----------
    path : path-like
        ``.npy``; ``.npz`` with one array, one called ``X``, or a SciPy sparse matrix; ``.h5`` or
        ``.h5ad`` with ``X`` (dense, or AnnData's CSR) or a single dataset of 2 or more dimensions;
        ``.parquet`` of numeric columns (needs ``sparsecode[parquet]``).

    Returns
    -------
    ArrayInput
        Read lazily from ``.npy``, ``.h5`` and ``.h5ad``.

    Raises
    ------
    NoInputError
        The file does not exist.
    RefusedError
        It is damaged or holds no numeric array of 2 or more dimensions.
    """
    text = os.fspath(path)
    if not is_array_path(text):
        raise RefusedError(f"{text!r} is not an array file; known are {' '.join(_OPENERS)}")
    with _refusing(text):
        rows, names, labels = _OPENERS[Path(text).suffix.lower()](text)
        _check(rows)
        names = names or [f"row_{i:07d}" for i in range(rows.shape[0])]
        if len(names) != rows.shape[0] or len(labels or names) != len(names):
            raise ValueError("its obs does not have one entry per row")
        return ArrayInput(text, names, labels, rows)


_Opened = tuple[_Rows, list[str] | None, list[str] | None]


@contextmanager
def _refusing(path: str) -> Iterator[None]:
    """Turn whatever a foreign file does to its reader into one error with the file's name."""
    try:
        yield
    except SparsecodeError:
        raise
    except FileNotFoundError as error:
        raise NoInputError(f"{path!r} does not exist; name an array file") from error
    except Exception as error:
        raise RefusedError(f"{path!r} cannot be used as input: {error}") from error


def _check(rows: _Rows) -> None:
    if rows.dtype.kind not in "biuf":
        raise ValueError(f"its values have type {rows.dtype}; save it as numbers of one type")
    if len(rows.shape) < 2:
        raise ValueError(f"its shape is {rows.shape}; (samples, features) is needed")
    if 0 in rows.shape:
        raise ValueError(f"its shape is {rows.shape}; there is nothing to encode")


def _open_npy(path: str) -> _Opened:
    return np.lib.format.open_memmap(path, mode="r"), None, None


def _open_npz(path: str) -> _Opened:
    with np.load(path, allow_pickle=False) as archive:
        keys = list(archive)
        if {"format", "shape", "data"} <= set(keys):
            return _sparse_npz(path), None, None
        if "X" not in keys and len(keys) != 1:
            raise ValueError(f'it holds {keys}; call one array "X", or save a single one')
        return archive["X" if "X" in keys else keys[0]], None, None


def _sparse_npz(path: str) -> csr_array:
    matrix = sparse.load_npz(path)
    if matrix.format in ("csr", "csc", "bsr"):
        matrix.check_format(full_check=True)  # SciPy's conversions trust the indices
    return csr_array(matrix)


def _open_parquet(path: str) -> _Opened:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise RefusedError(
            f"{path!r} needs pyarrow; install it with: pip install 'sparsecode[parquet]'"
        ) from error
    table = parquet.read_table(path)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    if bad := [name for name, values in columns.items() if values.dtype.kind not in "biuf"]:
        raise ValueError(f"its columns {bad} are not numeric; leave them out")
    if not columns:
        raise ValueError("it has no columns")
    return np.column_stack(list(columns.values())), None, None


@dataclass(frozen=True)
class _DenseHdf5:
    """Rows of a dataset; the file is opened for each read, so this can cross processes."""

    path: str
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype

    def __getitem__(self, key: slice) -> np.ndarray:
        with hdf5.open_read(self.path) as file:
            return file[self.key][key]


@dataclass(frozen=True, eq=False)
class _SparseHdf5:
    """Rows of AnnData's CSR; only the row starts stay in memory."""

    path: str
    shape: tuple[int, int]
    dtype: np.dtype
    indptr: np.ndarray = field(repr=False)

    def __getitem__(self, key: slice) -> csr_array:
        first, last, _ = key.indices(self.shape[0])
        indptr = self.indptr[first : max(first, last) + 1]
        with hdf5.open_read(self.path) as file:
            indices, data = (
                file["X"][name][indptr[0] : indptr[-1]] for name in ("indices", "data")
            )
        rows = csr_array((data, indices, indptr - indptr[0]), (len(indptr) - 1, self.shape[1]))
        rows.check_format(full_check=True)
        return rows


def _open_hdf5(path: str) -> _Opened:
    with hdf5.open_read(path) as file:
        rows = _sparse_rows(path, file) if _is_group(file, "X") else _dense_rows(path, file)
        if not _is_group(file, "obs"):
            return rows, None, None
        obs = file["obs"]
        return rows, _texts(obs, obs.attrs.get("_index", "_index")), _texts(obs, "label")


def _is_group(file: h5py.File, name: str) -> bool:
    return file.get(name, getclass=True) is h5py.Group


def _texts(obs: h5py.Group, name: str) -> list[str] | None:
    return [str(value) for value in hdf5.read_column(obs, name)] if name in obs else None


def _dense_rows(path: str, file: h5py.File) -> _DenseHdf5:
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
    return _DenseHdf5(path, key, item.shape, item.dtype)


def _sparse_rows(path: str, file: h5py.File) -> _SparseHdf5:
    group = file["X"]
    kind = group.attrs.get("encoding-type")
    if kind != "csr_matrix":
        raise ValueError(f"its X is a {kind}; save it as a CSR matrix or a dense array")
    n_rows, n_columns = (int(size) for size in group.attrs["shape"])
    indptr, indices, data = (hdf5.dataset(group, name) for name in ("indptr", "indices", "data"))
    starts = hdf5.read_values(indptr)
    rises = len(starts) == n_rows + 1 and starts[0] == 0 and (np.diff(starts) >= 0).all()
    if not rises or not starts[-1] == len(indices) == len(data):
        raise ValueError("its X/indptr does not fit its shape, indices and data")
    return _SparseHdf5(path, (n_rows, n_columns), data.dtype, starts)


_OPENERS = {
    ".npy": _open_npy,
    ".npz": _open_npz,
    ".h5": _open_hdf5,
    ".h5ad": _open_hdf5,
    ".parquet": _open_parquet,
}
