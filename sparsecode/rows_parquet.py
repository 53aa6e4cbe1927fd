"""`.parquet` -> rows, their names and labels, each read a slice at a time."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from sparsecode.errors import RefusedError

# Columns that say something about a row and are never features.
NAME, LABEL = "name", "label"
_BATCH_BYTES = 8 << 20
_PAGE_BUFFER = 1 << 16


@dataclass(eq=False)
class _Cursor:
    """A place in a file, from which rows are read in order; a row group is never held whole."""

    position: int
    batches: Any
    rest: Any = None

    def take(self, start: int, stop: int) -> list[Any]:
        """Record batches of rows `start` to `stop`; rows before them are passed over."""
        parts = []
        while self.position < stop:
            batch = next(self.batches, None) if self.rest is None else self.rest
            if batch is None:
                raise ValueError("it has fewer rows than it says")
            end = min(self.position + len(batch), stop)
            if end > start:
                low = max(start - self.position, 0)
                parts.append(batch.slice(low, end - self.position - low))
            self.rest = (
                batch.slice(end - self.position) if end < self.position + len(batch) else None
            )
            self.position = end
        return parts


@dataclass(frozen=True, eq=False)
class _Columns:
    """Some columns of a file; a slice that follows the one before goes on where that ended.

    The place is taken out of `cursors` while it is in use, so threads do not disturb each other.
    """

    path: str
    names: tuple[str, ...]
    row_bytes: int
    bounds: tuple[int, ...] = field(repr=False)
    cursors: list[_Cursor] = field(default_factory=list, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "cursors": []}

    def read(self, start: int, stop: int) -> list[Any]:
        if start >= stop:
            return []
        group = int(np.searchsorted(self.bounds, start, side="right")) - 1
        try:
            cursor = self.cursors.pop()
        except IndexError:
            cursor = self._open(group)
        if not self.bounds[group] <= cursor.position <= start:
            cursor = self._open(group)
        parts = cursor.take(start, stop)
        if stop < self.bounds[-1]:
            self.cursors.append(cursor)
        return parts

    def _open(self, group: int) -> _Cursor:
        # So read, each column is in memory a page at a time, not a whole row group of it.
        file = _pyarrow().parquet.ParquetFile(
            self.path, pre_buffer=False, buffer_size=_PAGE_BUFFER, page_checksum_verification=True
        )
        if file.metadata.num_rows != self.bounds[-1]:
            raise ValueError("its number of rows has changed")
        batches = file.iter_batches(
            batch_size=max(1, min(1 << 16, _BATCH_BYTES // self.row_bytes)),
            row_groups=range(group, file.num_row_groups),
            columns=list(self.names),
        )
        return _Cursor(self.bounds[group], batches)


@dataclass(frozen=True, eq=False)
class PlainRows:
    """Rows whose features are columns of numbers."""

    columns: _Columns
    shape: tuple[int, int]
    dtype: np.dtype

    def __getitem__(self, key: slice) -> np.ndarray:
        start, stop, _ = key.indices(self.shape[0])
        rows = np.empty((max(stop - start, 0), self.shape[1]), self.dtype)
        at = 0
        for part in self.columns.read(start, stop):
            for feature, name in enumerate(self.columns.names):
                column = part.column(name)
                _check_whole(name, column)
                rows[at : at + len(part), feature] = column.to_numpy(zero_copy_only=False)
            at += len(part)
        return rows


@dataclass(frozen=True, eq=False)
class ListRows:
    """Rows that are the lists of one column, as embeddings are usually stored."""

    columns: _Columns
    shape: tuple[int, int]
    dtype: np.dtype

    def __getitem__(self, key: slice) -> np.ndarray:
        start, stop, _ = key.indices(self.shape[0])
        (name,) = self.columns.names
        rows = np.empty((max(stop - start, 0), self.shape[1]), self.dtype)
        at = 0
        for part in self.columns.read(start, stop):
            rows[at : at + len(part)] = _matrix(name, part.column(name), self.shape[1])
            at += len(part)
        return rows


@dataclass(frozen=True, eq=False)
class TextColumn:
    """A column as text; a missing label is "", a missing name is refused."""

    columns: _Columns

    def __len__(self) -> int:
        return self.columns.bounds[-1]

    def __getitem__(self, key: slice) -> list[str]:
        start, stop, _ = key.indices(len(self))
        (name,) = self.columns.names
        values: list[Any] = []
        for part in self.columns.read(start, stop):
            column = part.column(name)
            if name == NAME:
                _check_whole(name, column)
            values += column.to_pylist()
        return ["" if value is None else str(value) for value in values]


def open_rows(path: str) -> tuple[PlainRows | ListRows, TextColumn | None, TextColumn | None]:
    """Open rows, names (the column "name") and labels (the column "label").

    Raises
    ------
    RefusedError
        pyarrow is not installed.
    OSError, ValueError
        The file is damaged, or holds columns that are neither features nor these two.
    """
    arrow = _import_pyarrow(path)
    with arrow.parquet.ParquetFile(path) as file:
        schema, metadata = file.schema_arrow, file.metadata
    if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
        raise ValueError(f"its columns {twice} are there twice")
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    bounds = tuple(int(bound) for bound in np.cumsum([0, *sizes]))
    if bounds[-1] != metadata.num_rows or any(low > high for low, high in pairwise(bounds)):
        raise ValueError("its row groups do not add up to its rows")
    texts = {
        name: TextColumn(_Columns(path, (name,), 64, bounds))
        for name in (NAME, LABEL)
        if name in schema.names and _is_scalar(arrow, schema.field(name).type)
    }
    features = [column for column in schema if column.name not in texts]
    return _features(arrow, path, features, bounds), texts.get(NAME), texts.get(LABEL)


def _features(
    arrow: Any, path: str, features: list[Any], bounds: tuple[int, ...]
) -> PlainRows | ListRows:
    lists = [column.name for column in features if _is_list(arrow, column.type)]
    numbers = [column.name for column in features if _is_number(arrow, column.type)]
    if bad := [column.name for column in features if column.name not in lists + numbers]:
        raise ValueError(f"its columns {bad} are not numeric; leave them out")
    if not features:
        raise ValueError("it has no columns of numbers")
    if lists and len(features) == 1:
        return _list_rows(arrow, path, features[0], bounds)
    if lists:
        raise ValueError(f"its columns {lists} are lists; keep one of them alone, or numbers alone")
    dtype = np.result_type(*(_dtype(column.type) for column in features))
    columns = _Columns(path, tuple(numbers), len(numbers) * dtype.itemsize, bounds)
    return PlainRows(columns, (bounds[-1], len(numbers)), dtype)


def _list_rows(arrow: Any, path: str, column: Any, bounds: tuple[int, ...]) -> ListRows:
    """Open lists of one fixed size, or of the size that the first one has."""
    width = column.type.list_size if arrow.types.is_fixed_size_list(column.type) else 0
    if not width and bounds[-1]:
        (first,) = _Columns(path, (column.name,), _BATCH_BYTES, bounds).read(0, 1)
        _check_whole(column.name, first.column(0))
        width = len(first.column(0)[0])
    dtype = _dtype(column.type.value_type)
    columns = _Columns(path, (column.name,), max(1, width * dtype.itemsize), bounds)
    return ListRows(columns, (bounds[-1], width), dtype)


def _matrix(name: str, column: Any, width: int) -> np.ndarray:
    _check_whole(name, column)
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    if (odd := lengths[lengths != width]).size:
        raise ValueError(f"its column {name!r} has lists of {odd[0]} numbers and of {width}")
    values = column.flatten()
    _check_whole(name, values)
    return values.to_numpy(zero_copy_only=False).reshape(len(column), width)


def _check_whole(name: str, values: Any) -> None:
    if values.null_count:
        raise ValueError(f"its column {name!r} has missing values; fill them in or leave it out")


def _is_number(arrow: Any, kind: Any) -> bool:
    types = arrow.types
    return types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)


def _dtype(kind: Any) -> np.dtype:
    return np.dtype(kind.to_pandas_dtype())


def _is_list(arrow: Any, kind: Any) -> bool:
    types = arrow.types
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return is_list and _is_number(arrow, kind.value_type)


def _is_scalar(arrow: Any, kind: Any) -> bool:
    """Text or a number, which may be kept in a dictionary."""
    types = arrow.types
    kind = kind.value_type if types.is_dictionary(kind) else kind
    is_text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    return is_text or _is_number(arrow, kind)


def _import_pyarrow(path: str) -> Any:
    try:
        return _pyarrow()
    except ImportError as error:
        raise RefusedError(
            f"{path!r} needs pyarrow; install it with: pip install 'sparsecode[parquet]'"
        ) from error


def _pyarrow() -> Any:
    import pyarrow
    import pyarrow.parquet

    return pyarrow
