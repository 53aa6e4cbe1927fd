"""Arrays in files (embeddings, pixels), read a batch of rows at a time."""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.lib import format as npy
from scipy import sparse
from scipy.sparse import csr_array

from sparsecode import rows_hdf5, rows_parquet
from sparsecode.errors import NoInputError, RefusedError, SparsecodeError, plain_text

# Of a file, to tell it from another of the same size.
_SAMPLES, _SAMPLE_BYTES = 256, 4096


class _Rows(Protocol):
    """Rows that can be read in slices."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __getitem__(self, key: slice, /) -> Any: ...


class _Texts(Protocol):
    """One text per row, read in slices."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: slice, /) -> list[str]: ...


@dataclass(frozen=True, eq=False)
class ArrayInput:
    """An array in a file, with what is known about its rows; nothing of it is held in memory.

    Parameters
    ----------
    path : str
        Where it came from.
    """

    path: str
    _rows: _Rows = field(repr=False)
    _names: _Texts | None = field(default=None, repr=False)
    _labels: _Texts | None = field(default=None, repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and of features; further dimensions are flattened."""
        n_rows, *rest = self._rows.shape
        return n_rows, prod(rest)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row before it is flattened: (h, w) or (h, w, c) for images."""
        return tuple(self._rows.shape[1:])

    @property
    def sha256(self) -> str:
        """Identity of the array, short of reading it: of shape, type, size and samples of its file.

        The samples are 256 blocks of 4 KiB, spread evenly from its beginning to its end.
        """
        size = Path(self.path).stat().st_size
        digest = hashlib.sha256(f"{self._rows.shape} {self._rows.dtype} {size}".encode("ascii"))
        with Path(self.path).open("rb") as file:
            for i in range(_SAMPLES):
                file.seek(max(0, size - _SAMPLE_BYTES) * i // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
        return digest.hexdigest()

    @property
    def chunk_rows(self) -> int:
        """Number of rows that the file keeps together, so that reading one reads all of them."""
        return getattr(self._rows, "chunk_rows", 1)

    @property
    def has_labels(self) -> bool:
        """Whether the rows have labels in the file."""
        return self._labels is not None

    def read(self, start: int, stop: int) -> np.ndarray | csr_array:
        """Read rows `start` to `stop` (exclusive), of which there may be fewer at the end.

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

    def names(self, start: int, stop: int) -> list[str]:
        """Read the names of rows `start` to `stop` (exclusive), or make them.

        Returns
        -------
        list of str
            From AnnData's index or Parquet's column ``name``, else ``row_0000000`` and so on.

        Raises
        ------
        RefusedError
            The file is damaged, or changed since it was opened.
        """
        if self._names is None:
            return [f"row_{i:07d}" for i in range(*slice(start, stop).indices(self.shape[0]))]
        with _refusing(self.path):
            return self._names[start:stop]

    def labels(self, start: int, stop: int) -> list[str]:
        """Read the labels of rows `start` to `stop` (exclusive), if it `has_labels`.

        Returns
        -------
        list of str
            From AnnData's ``obs`` column ``label`` or Parquet's column ``label``; "" is missing.

        Raises
        ------
        RefusedError
            There are none, or the file is damaged, or changed since it was opened.
        """
        with _refusing(self.path):
            if self._labels is None:
                raise ValueError("its rows have no labels")
            return self._labels[start:stop]


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
        ``.parquet`` (needs ``sparsecode[parquet]``) of numeric columns, or of one column of lists;
        its columns ``name`` and ``label`` are no features but say what a row is.

    Returns
    -------
    ArrayInput
        Rows are read when asked for; only those of an ``.npz`` are held in memory.

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
        if not stat.S_ISREG(Path(text).stat().st_mode):
            raise ValueError("it is not a regular file")
        rows, names, labels = _OPENERS[Path(text).suffix.lower()](text)
        _check(rows)
        if any(texts is not None and len(texts) != rows.shape[0] for texts in (names, labels)):
            raise ValueError("its obs does not have one entry per row")
        return ArrayInput(text, rows, names, labels)


_Opened = tuple[_Rows, _Texts | None, _Texts | None]


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
        raise RefusedError(f"{path!r} cannot be used as input: {plain_text(error)}") from error


def _check(rows: _Rows) -> None:
    if rows.dtype.kind not in "biuf":
        raise ValueError(f"its values have type {rows.dtype}; save it as numbers of one type")
    if len(rows.shape) < 2:
        raise ValueError(f"its shape is {rows.shape}; (samples, features) is needed")
    if 0 in rows.shape:
        raise ValueError(f"its shape is {rows.shape}; there is nothing to encode")


@dataclass(frozen=True)
class _NpyRows:
    """Rows of an ``.npy`` file; a slice of them is read, for pages of a map count as memory."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool
    offset: int

    @property
    def n_bytes(self) -> int:
        return self.offset + prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, key: slice) -> np.ndarray:
        start, stop, _ = key.indices(self.shape[0])
        n_rows, width = max(stop - start, 0), prod(self.shape[1:])
        if self.is_fortran:  # the map lives as long as this call
            rows = np.memmap(self.path, self.dtype, "r", self.offset, self.shape, "F")
            return np.array(rows[start:stop], order="C")
        at = self.offset + start * width * self.dtype.itemsize
        with Path(self.path).open("rb") as file:
            file.seek(at)
            values = np.fromfile(file, self.dtype, n_rows * width)
        if len(values) < n_rows * width:
            raise ValueError("it became shorter while it was read")
        return values.reshape(n_rows, *self.shape[1:])


def _open_npy(path: str) -> _Opened:
    with Path(path).open("rb") as file:
        version = npy.read_magic(file)
        if version not in _NPY_HEADERS:
            raise ValueError(f"its .npy version {version} is none of {list(_NPY_HEADERS)}")
        shape, is_fortran, dtype = _NPY_HEADERS[version](file)
        if dtype.hasobject:
            raise ValueError("it holds Python objects; save it as numbers of one type")
        rows = _NpyRows(path, shape, dtype, is_fortran, file.tell())
        size = os.fstat(file.fileno()).st_size
    if size < rows.n_bytes:
        raise ValueError(
            f"it has {size} bytes, but its array needs {rows.n_bytes}: it is cut short"
        )
    return rows, None, None


# Version 3.0 is for names of fields that are not Latin; arrays of numbers have no fields.
_NPY_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


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


_OPENERS = {
    ".npy": _open_npy,
    ".npz": _open_npz,
    ".h5": rows_hdf5.open_rows,
    ".h5ad": rows_hdf5.open_rows,
    ".parquet": rows_parquet.open_rows,
}
