"""HDF5 without its traps: a file that cannot crash the process, datasets that cannot lie.

The HDF5 library may end the process with a segmentation fault when one of its own reads or writes
fails, and h5py's bridge to Python file objects ignores short reads and short writes. Every file is
therefore opened through `SteadyFile`, which never fails inside HDF5 and reports afterwards.
"""

import io
import math
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sparsecode import files

# The libraries' own upper bound for deflate is 1032:1, so a real dataset never claims more.
MAX_COMPRESSION = 1100
# A global heap collection: 16 bytes with its size, then objects of 16 bytes and their content.
_HEAP, _HEAP_HEADER = b"GCOL\1\0\0\0", 16
_HEAP_SIZE, _HEAP_OBJECT = struct.Struct("<Q"), struct.Struct("<H6xQ")
_BLOCK = 1 << 18
_MAX_ATTRIBUTE = 1024
# Each text of a block may be as long as the file, again and again.
_MIN_TEXTS, _MAX_TEXTS = 64, 1024
_TEXT_BYTES = 1 << 30


class SteadyFile(io.FileIO):
    """An unbuffered file that never raises inside HDF5; call `check` after HDF5 returns.

    After the first failure, writes stay in memory and are read back from there, so that HDF5 sees
    a consistent file until it has closed it. The caller then throws the file away.
    """

    def __init__(self, path: str, mode: str) -> None:
        opener = files.open_new if "w" in mode else files.open_regular
        super().__init__(path, mode, opener=lambda name, _: opener(name))
        self._error: BaseException | None = None
        self._unwritten: list[tuple[int, bytes]] = []
        self._heaps: set[int] = set()

    def check(self) -> None:
        """Raise the first failure since opening, if there was one."""
        if self._error is not None:
            raise self._error

    def readinto(self, buffer: Any) -> int:
        """Fill the whole buffer, with zeros past the end of the file as HDF5's own driver does."""
        start, done = self.tell(), 0
        view = memoryview(buffer).cast("B")
        try:
            while count := super().readinto(view[done:]):
                done += count
        except BaseException as error:
            self._error = self._error or error
        view[done:] = bytes(len(view) - done)
        for at, data in self._unwritten:
            low, high = max(start, at), min(start + len(view), at + len(data))
            if low < high:
                view[low - start : high - start] = data[low - at : high - at]
        if not self._unwritten:
            self._check_heaps(view, start)
        return len(view)

    def _check_heaps(self, view: memoryview, start: int) -> None:
        """Hide damaged collections of texts, in which HDF5 would walk for ever.

        They need not begin where a read does, for HDF5 reads ahead.
        """
        content = bytes(view)
        at = content.find(_HEAP)
        while at >= 0:
            if start + at not in self._heaps and not self._is_heap(start + at):
                self._error = self._error or ValueError("a collection of its texts is damaged")
                view[at : at + 4] = bytes(4)
            at = content.find(_HEAP, at + 1)

    def _is_heap(self, at: int) -> bool:
        """Tell whether a collection is whole, or none at all."""
        begin = self._peek(at, _HEAP_HEADER)
        if len(begin) < _HEAP_HEADER:
            return True  # no room for one
        size = _HEAP_SIZE.unpack_from(begin, 8)[0]
        left = os.fstat(self.fileno()).st_size - at
        if size > left or not _has_objects(self._peek(at, size)):
            return False
        self._heaps.add(at)
        return True

    def _peek(self, at: int, size: int) -> bytes:
        place = self.tell()
        self.seek(at)
        content = self.read(size)
        self.seek(place)
        return content

    def write(self, buffer: Any) -> int:
        """Write the whole buffer, or keep it in memory once anything has failed."""
        start, done = self.tell(), 0
        view = memoryview(buffer).cast("B")
        try:
            while self._error is None and done < len(view):
                done += files.write(self.fileno(), view[done:])
        except BaseException as error:
            self._error = error
        if done < len(view):
            self._unwritten.append((start, view.tobytes()))
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Resize the file; a failure is kept for `check`."""
        try:
            if self._error is None:
                files.truncate(self.fileno(), self.tell() if size is None else size)
        except BaseException as error:
            self._error = error
        return size or 0


def _has_objects(heap: bytes) -> bool:
    """Tell whether the objects of a global heap collection lie within it, one after another."""
    at = _HEAP_HEADER
    while at + _HEAP_HEADER <= len(heap):
        index, length = _HEAP_OBJECT.unpack_from(heap, at)
        needed = length if index == 0 else _HEAP_HEADER + length + -length % 8
        if not _HEAP_HEADER <= needed <= len(heap) - at:
            return False
        at += needed
    return True


@contextmanager
def open_read(path: str | Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading: regular files only, without locks.

    Raises
    ------
    OSError, ValueError
        The file is missing, not a regular file, not HDF5, damaged, or could not be read.
    """
    with SteadyFile(str(path), "rb") as raw:
        try:
            with h5py.File(raw, "r") as file:
                if file.id.get_create_plist().get_sizes() != (8, 8):
                    raise ValueError("its addresses are not of 8 bytes")
                yield file
        finally:
            raw.check()


def dataset(group: h5py.Group, name: str) -> h5py.Dataset:
    """Return a dataset whose values lie in this very file, all of them.

    Raises
    ------
    ValueError
        It is missing, a link, virtual, or (partly) without storage, which would read as zeros.
    """
    where = f"{group.name.rstrip('/')}/{name}"
    if not _is_inside(group, name):
        raise ValueError(f"{where} is missing or a link; a dataset in the file is needed")
    item = group[name]
    if not isinstance(item, h5py.Dataset) or item.shape is None:
        raise ValueError(f"{where} is not a dataset with values")
    if item.is_virtual or item.external:
        raise ValueError(f"{where} keeps its values in another file")
    if item.chunks is None:
        complete = item.id.get_storage_size() >= item.size * item.id.get_type().get_size()
    else:
        grid = [-(-size // chunk) for size, chunk in zip(item.shape, item.chunks, strict=True)]
        complete = item.id.get_num_chunks() == math.prod(grid)
    if not complete:
        raise ValueError(f"{where} has shape {item.shape} but not all of its values were stored")
    return item


def _is_inside(group: h5py.Group, name: str) -> bool:
    # A longer path could lead through a link to another file.
    return "/" not in name and isinstance(group.get(name, getlink=True), h5py.HardLink)


def is_group(parent: h5py.Group, name: str) -> bool:
    """Tell whether there is a group of that name.

    Raises
    ------
    ValueError
        There is a link, which may lead to another file, or nowhere.
    """
    if "/" in name or not isinstance(parent.get(name, getlink=True), h5py.HardLink | None):
        raise ValueError(f"its {name} is a link; save it in the file itself")
    return parent.get(name, getclass=True) is h5py.Group


def _attribute(item: h5py.Group, name: str, rank: int, kind: type) -> Any:
    """Read an attribute, or None; h5py may crash over damaged ones of other types."""
    if name not in item.attrs:
        return None
    found = h5py.h5a.open(item.id, name.encode("utf-8"))
    shape = found.shape
    if len(shape) == rank and 0 in shape:
        return ()
    is_right = len(shape) == rank and isinstance(found.get_type(), kind)
    if not is_right or math.prod(shape) > _MAX_ATTRIBUTE:
        raise ValueError(f"{item.name} has an attribute {name} of another kind than it should")
    return item.attrs[name]


def text_attribute(item: h5py.Group, name: str) -> str | None:
    """Read an attribute that is one text; None where there is none.

    Raises
    ------
    ValueError
        It is not a text.
    """
    value = _attribute(item, name, 0, h5py.h5t.TypeStringID)
    return value.decode("utf-8") if isinstance(value, bytes) else value


def texts_attribute(item: h5py.Group, name: str) -> list[str]:
    """Read an attribute that is a list of texts.

    Raises
    ------
    ValueError
        It is missing, something else, or has more than some hundred entries.
    """
    values = _attribute(item, name, 1, h5py.h5t.TypeStringID)
    if values is None:
        raise ValueError(f"{item.name} has no attribute {name}")
    return [str(value) for value in values]


def shape_attribute(item: h5py.Group, name: str) -> tuple[int, int]:
    """Read an attribute that is a pair of integers.

    Raises
    ------
    ValueError
        It is missing or something else.
    """
    values = _attribute(item, name, 1, h5py.h5t.TypeIntegerID)
    if values is None or len(values) != 2:
        raise ValueError(f"{item.name} has no attribute {name} of two integers")
    return int(values[0]), int(values[1])


def read_scalar(group: h5py.Group, name: str) -> str | int:
    """Read a dataset that is one text, or one integer.

    Raises
    ------
    ValueError
        It is something else.
    """
    item = dataset(group, name)
    if item.shape != () or not (is_string(item) or item.dtype.kind in "iu"):
        raise ValueError(f"{item.name} is not one text or one integer")
    check_size(item)
    value = item[()]
    return value.decode("utf-8") if isinstance(value, bytes) else int(value)


def check_size(item: h5py.Dataset) -> None:
    """Refuse a dataset that claims more than its stored bytes could decompress to.

    Raises
    ------
    ValueError
        Reading it would allocate memory out of all proportion to the file.
    """
    claimed = item.nbytes
    if item.chunks is not None and item.size:
        claimed = max(claimed, math.prod(item.chunks) * item.dtype.itemsize)
    if claimed > MAX_COMPRESSION * max(item.id.get_storage_size(), 1):
        raise ValueError(f"{item.name} claims {claimed} bytes, more than its storage can hold")


def is_string(item: h5py.Dataset) -> bool:
    """Tell whether a dataset holds text of variable length."""
    info = h5py.check_string_dtype(item.dtype)
    return info is not None and info.length is None


def blocks(item: h5py.Dataset, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
    """Yield rows of a 1-D dataset, a bounded piece at a time; text as object arrays of `str`.

    Raises
    ------
    ValueError
        Text is not UTF-8, or adds up to more bytes than the file has (repeated references).
    """
    check_size(item)
    text = is_string(item)
    budget = item.file.id.get_filesize()
    texts = min(max(_TEXT_BYTES // budget, _MIN_TEXTS), _MAX_TEXTS)
    step = texts if text else _BLOCK
    first, last, _ = slice(start, stop).indices(item.shape[0])
    for at in range(first, last, step):
        block = item[at : min(at + step, last)]
        if text:
            budget -= sum(map(len, block))
            if budget < 0:
                raise ValueError(f"{item.name} holds more text than the file has bytes")
            block = np.array([value.decode("utf-8") for value in block], dtype=object)
        yield block


def check_values(item: h5py.Dataset) -> None:
    """Refuse what is not a 1-D dataset of numbers, booleans or text.

    Raises
    ------
    ValueError
        It has other dimensions, another type, or claims more than its storage can hold.
    """
    if item.ndim != 1:
        raise ValueError(f"{item.name} has {item.ndim} dimensions; 1 is needed")
    if item.dtype.kind not in "biuf" and not is_string(item):
        raise ValueError(f"{item.name} has type {item.dtype}; numbers or text are needed")
    check_size(item)


def read_values(item: h5py.Dataset, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Read a 1-D dataset of numbers, booleans or text, or its rows `start` to `stop`.

    Raises
    ------
    ValueError
        It is not 1-D, or of another type.
    """
    check_values(item)
    if is_string(item):
        return np.concatenate([np.empty(0, dtype=object), *blocks(item, start, stop)])
    return item[start:stop]


def read_column(
    group: h5py.Group, name: str, start: int = 0, stop: int | None = None
) -> np.ndarray:
    """Read a data frame's column, or its rows `start` to `stop`.

    Numbers, text, or AnnData's categories (missing ones are "").
    """
    values, categories = column_parts(group, name)
    picked = read_values(values, start, stop)
    return picked if categories is None else pick(picked, read_categories(categories), values.name)


def column_parts(group: h5py.Group, name: str) -> tuple[h5py.Dataset, h5py.Dataset | None]:
    """Return a column's values, or the codes and the categories of a categorical one."""
    if not _is_inside(group, name) or group.get(name, getclass=True) is not h5py.Group:
        return dataset(group, name), None
    return dataset(group[name], "codes"), dataset(group[name], "categories")


def read_categories(item: h5py.Dataset) -> np.ndarray:
    """Read all categories, and behind them "" for the code -1, which is a missing value."""
    return np.append(read_values(item).astype(object), "")


def pick(codes: np.ndarray, categories: np.ndarray, name: str) -> np.ndarray:
    """Return the categories that codes mean; ValueError where a code means none."""
    if codes.dtype.kind not in "iu":
        raise ValueError(f"{name} has type {codes.dtype}; integers are needed")
    known = len(categories) - 1
    if len(codes) and not -1 <= codes.min() <= codes.max() < known:
        raise ValueError(f"{name} has codes outside of its {known} categories")
    return categories[codes]


class Column:
    """A growing 1-D dataset, written a whole chunk at a time so that each is compressed once."""

    def __init__(
        self, group: h5py.Group, name: str, dtype: np.dtype, chunk: int, filters: dict[str, Any]
    ) -> None:
        text = dtype.kind == "O"  # HDF5 takes no checksum for it; gzip's own covers the references
        self.dtype = dtype
        self._chunk = chunk
        self._pending = np.empty(0, dtype=dtype)
        self._dataset = group.create_dataset(
            name,
            shape=(0,),
            dtype=h5py.string_dtype() if text else dtype,
            maxshape=(None,),
            chunks=(chunk,),
            fletcher32=not text,
            **filters,
        )

    def append(self, values: np.ndarray) -> None:
        """Add values; those that do not fill a chunk wait in memory."""
        self._pending = np.concatenate([self._pending, values])
        self._write(len(self._pending) // self._chunk * self._chunk)

    def flush(self) -> None:
        """Write what is left."""
        self._write(len(self._pending))

    def _write(self, count: int) -> None:
        if count:
            stored = self._dataset.shape[0]
            self._dataset.resize((stored + count,))
            self._dataset[stored:] = self._pending[:count]
            self._pending = self._pending[count:].copy()


def encode(item: h5py.Group | h5py.Dataset, kind: str, version: str) -> None:
    """Set the two attributes by which AnnData recognises an element."""
    item.attrs["encoding-type"] = kind
    item.attrs["encoding-version"] = version


def encoded_group(parent: h5py.Group, name: str, kind: str, version: str) -> h5py.Group:
    """Create a group that AnnData recognises."""
    group = parent.create_group(name)
    encode(group, kind, version)
    return group
