"""Read, check and describe codes in HDF5; `CodesWriter` writes them (see docs/file-format.md)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from sparsecode import hdf5
from sparsecode.codes import SparseCodes, csr_of
from sparsecode.codes_writer import FORMAT_VERSION, CodesWriter
from sparsecode.content import ContentHash, as_array
from sparsecode.errors import CodesFormatError, NoInputError, SparsecodeError, plain_text
from sparsecode.strict_json import parse_json

__all__ = [
    "CodesWriter",
    "describe_codes",
    "iterate_codes",
    "read_codes",
    "read_failures",
    "verify_codes",
    "write_codes",
]

_TEXTS = ("config_json", "model_sha256", "listing_sha256", "content_sha256")
_LISTS = ("failed_path", "failed_reason")


def write_codes(path: str | os.PathLike[str], codes: SparseCodes, overwrite: bool = False) -> None:
    """Write codes to an ``.h5``, all or nothing.

    Parameters
    ----------
    path : path-like
        The output.
    codes : SparseCodes
        What to write; ``activation_frequency`` and ``dead`` are computed anew.
    overwrite : bool, default=False
        Replace an existing file.

    Raises
    ------
    RefusedError, OutputError, ValueError
        See `CodesWriter`.
    """
    with CodesWriter(path, n_latents=codes.n_latents, overwrite=overwrite) as writer:
        writer.append(codes.matrix, codes.names, codes.obs)
        writer.finish(var=codes.var, metadata=codes.metadata)


def read_codes(path: str | os.PathLike[str]) -> SparseCodes:
    """Read codes, after checking their structure; needs neither torch nor trust in the file.

    Parameters
    ----------
    path : path-like
        An ``.h5`` that sparsecode wrote, or the same saved again by AnnData.

    Returns
    -------
    SparseCodes
        With ``config``, hashes and failures in ``metadata``.

    Raises
    ------
    NoInputError
        There is no such file.
    CodesFormatError
        It is something else, damaged, or of a later version. `verify_codes` also compares the
        hash of the content, which finds what a check of the structure cannot.
    """
    with _opened(path) as layout:
        indptr = _row_starts(layout)
        indices, data = (hdf5.read_values(item) for item in (layout.indices, layout.data))
        if problems := _entry_problems(indices, data, indptr, layout.shape[1]):
            raise ValueError("; ".join(problems))
        matrix = csr_of(data.astype(np.float32, copy=False), indices, indptr, layout.shape)
        return SparseCodes(
            matrix,
            hdf5.read_column(layout.obs, "_index"),
            {name: hdf5.read_column(layout.obs, name) for name in _order(layout.obs)},
            {name: hdf5.read_column(layout.var, name) for name in _order(layout.var)},
            _metadata(layout.own),
        )


def iterate_codes(path: str | os.PathLike[str], n_rows: int = 16384) -> Iterator[SparseCodes]:
    """Read codes some rows at a time, in order, in memory that does not depend on the file.

    Parameters
    ----------
    path : path-like
        An ``.h5`` that sparsecode wrote, or the same saved again by AnnData.
    n_rows : int, default=16384
        Rows in each piece but the last.

    Yields
    ------
    SparseCodes
        With the rows' names and columns; `var` and `metadata` are empty. One without rows when the
        file has none.

    Raises
    ------
    NoInputError, CodesFormatError
        As for `read_codes`.
    """
    with _opened(path) as layout:
        for start in range(0, max(layout.shape[0], 1), n_rows):
            yield _rows(layout, start, min(start + n_rows, layout.shape[0]))


def read_failures(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """Read the inputs without a row, and why.

    Parameters
    ----------
    path : path-like
        An ``.h5`` that sparsecode wrote.

    Returns
    -------
    list of (str, str)
        Names and reasons.

    Raises
    ------
    NoInputError, CodesFormatError
        As for `read_codes`.
    """
    with _opened(path) as layout:
        metadata = _metadata(layout.own)
        return list(zip(*(metadata[name] for name in _LISTS), strict=True))


def verify_codes(path: str | os.PathLike[str]) -> list[str]:
    """Read every byte that matters and say what is wrong.

    Parameters
    ----------
    path : path-like
        An ``.h5`` that sparsecode wrote.

    Returns
    -------
    list of str
        One sentence per problem; empty when the file is as it was written.

    Raises
    ------
    NoInputError
        There is no such file.
    """
    try:
        with _opened(path) as layout:
            return list(_problems(layout))
    except CodesFormatError as error:
        return [str(error)]


def describe_codes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Say what a file holds, without reading the codes.

    Parameters
    ----------
    path : path-like
        An ``.h5`` that sparsecode wrote.

    Returns
    -------
    dict
        ``n_samples``, ``n_latents``, ``nnz``, ``density``, ``obs_columns``, ``var_columns``,
        ``n_failed``, ``n_dead``, ``bytes``, ``format_version``, ``config`` and the hashes.

    Raises
    ------
    NoInputError, CodesFormatError
        As for `read_codes`.
    """
    with _opened(path) as layout:
        n_samples, n_latents = layout.shape
        nnz = layout.data.shape[0]
        metadata = _metadata(layout.own)
        failed = metadata.pop("failed_path")
        del metadata["failed_reason"]
        return {
            "n_samples": n_samples,
            "n_latents": n_latents,
            "nnz": nnz,
            "density": nnz / max(n_samples * n_latents, 1),
            "obs_columns": _order(layout.obs),
            "var_columns": _order(layout.var),
            "n_failed": len(failed),
            "n_dead": int(hdf5.read_column(layout.var, "dead").sum()),
            "bytes": layout.own.file.id.get_filesize(),
        } | metadata


@dataclass(frozen=True)
class _Layout:
    """The parts of an open file, found to be there and of the right shape."""

    shape: tuple[int, int]
    indptr: h5py.Dataset
    indices: h5py.Dataset
    data: h5py.Dataset
    obs: h5py.Group
    var: h5py.Group
    own: h5py.Group


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[_Layout]:
    """Open a file; whatever its bytes do to h5py or to this module is one `CodesFormatError`."""
    try:
        with hdf5.open_read(os.fspath(path)) as file:
            yield _layout(file)
    except SparsecodeError:
        raise
    except FileNotFoundError as error:
        raise NoInputError(f"{path} does not exist; name an .h5 file of codes") from error
    except Exception as error:
        reason = plain_text(error)
        raise CodesFormatError(f"{path} cannot be read as sparsecode codes: {reason}") from error


def _layout(file: h5py.File) -> _Layout:
    own = _group(_group(file, "uns", "dict"), "sparsecode", "dict")
    version = hdf5.read_scalar(own, "format_version")
    if version != FORMAT_VERSION:
        found = plain_text(version)
        raise ValueError(f"its format_version is {found}; this sparsecode reads {FORMAT_VERSION}")
    x = _group(file, "X", "csr_matrix")
    n_samples, n_latents = hdf5.shape_attribute(x, "shape")
    if n_samples < 0 or not 1 <= n_latents < 2**31:
        raise ValueError(f"X has the impossible shape ({n_samples}, {n_latents})")
    indptr, indices, data = (hdf5.dataset(x, name) for name in ("indptr", "indices", "data"))
    if indptr.shape != (n_samples + 1,) or indices.shape != data.shape or data.ndim != 1:
        raise ValueError(
            f"X has shape ({n_samples}, {n_latents}), which does not fit its indptr, indices and "
            f"data of shapes {indptr.shape}, {indices.shape} and {data.shape}"
        )
    if (indptr.dtype.kind, indices.dtype.kind, data.dtype.kind) != ("i", "i", "f"):
        raise ValueError("X/indptr and X/indices must be integers and X/data floats")
    obs, var = _group(file, "obs", "dataframe"), _group(file, "var", "dataframe")
    for item in (indptr, indices, data):
        hdf5.check_values(item)
    for frame, length in ((obs, n_samples), (var, n_latents)):
        _check_frame(frame, length)
    _texts(own)
    return _Layout((n_samples, n_latents), indptr, indices, data, obs, var, own)


def _group(parent: h5py.Group, name: str, kind: str) -> h5py.Group:
    where = f"{parent.name.rstrip('/')}/{name}"
    if not hdf5.is_group(parent, name):
        raise ValueError(f"{where} is missing or a link, or no group")
    group = parent[name]
    if hdf5.text_attribute(group, "encoding-type") != kind:
        raise ValueError(f"{where} is not a group of encoding-type {kind!r}")
    return group


def _order(frame: h5py.Group) -> list[str]:
    names = hdf5.texts_attribute(frame, "column-order")
    if len({"_index", *names}) <= len(names):
        raise ValueError(f"{frame.name} lists a column twice, or its index")
    return names


def _check_frame(frame: h5py.Group, length: int) -> None:
    """Check that all columns can be read, and before any is, that none claims to be longer."""
    for name in ("_index", *_order(frame)):
        values, categories = hdf5.column_parts(frame, name)
        for item in filter(None, (values, categories)):
            hdf5.check_values(item)
        if values.shape != (length,):
            raise ValueError(f"{frame.name}/{name} does not have {length} entries")


def _texts(own: h5py.Group) -> dict[str, Any]:
    texts: dict[str, Any] = {name: hdf5.read_scalar(own, name) for name in _TEXTS}
    if not all(isinstance(text, str) for text in texts.values()):
        raise ValueError(f"not all of {', '.join(_TEXTS)} are text")
    config = parse_json(texts.pop("config_json"))
    if not isinstance(config, dict):
        raise ValueError("config_json is not an object")
    lists = [hdf5.dataset(own, name) for name in _LISTS]
    for item in lists:
        hdf5.check_values(item)
    if lists[0].shape != lists[1].shape:
        raise ValueError("failed_path and failed_reason differ in length")
    return {"format_version": FORMAT_VERSION, "config": config} | texts


def _metadata(own: h5py.Group) -> dict[str, Any]:
    lists = {name: hdf5.read_values(own[name]).tolist() for name in _LISTS}
    return _texts(own) | lists


def _row_starts(layout: _Layout) -> np.ndarray:
    indptr = hdf5.read_values(layout.indptr)
    if indptr[0] != 0 or indptr[-1] != layout.data.shape[0] or (np.diff(indptr) < 0).any():
        raise ValueError("X/indptr does not rise from 0 to the number of stored values")
    return indptr


def _rows(layout: _Layout, start: int, stop: int) -> SparseCodes:
    indptr = hdf5.read_values(layout.indptr, start, stop + 1)
    first, last = int(indptr[0]), int(indptr[-1])
    n_values, is_last = layout.data.shape[0], stop == layout.shape[0]
    is_whole = (start > 0 or first == 0) and (not is_last or last == n_values)
    if not (is_whole and 0 <= first <= last <= n_values) or (np.diff(indptr) < 0).any():
        raise ValueError("X/indptr does not rise from 0 to the number of stored values")
    indices = hdf5.read_values(layout.indices, first, last)
    data = hdf5.read_values(layout.data, first, last)
    if problems := _entry_problems(indices, data, indptr - first, layout.shape[1]):
        raise ValueError("; ".join(problems))
    shape = (stop - start, layout.shape[1])
    return SparseCodes(
        csr_of(data.astype(np.float32, copy=False), indices, indptr - first, shape),
        hdf5.read_column(layout.obs, "_index", start, stop),
        {name: hdf5.read_column(layout.obs, name, start, stop) for name in _order(layout.obs)},
    )


def _entry_problems(
    indices: np.ndarray,
    data: np.ndarray,
    indptr: np.ndarray,
    n_latents: int,
    offset: int = 0,
    previous: int = -1,
) -> list[str]:
    """Check a run of stored values that begins at `offset`, after the latent `previous`."""
    begins = np.zeros(len(indices), dtype=bool)
    low, high = np.searchsorted(indptr, [offset, offset + len(indices)])
    begins[indptr[low:high] - offset] = True
    descends = (np.diff(indices.astype(np.int64), prepend=previous) <= 0) & ~begins
    findings = {
        f"X/indices leaves the range 0 to {n_latents - 1}": (indices < 0) | (indices >= n_latents),
        "X/indices does not rise within a row": descends,
        "X/data holds NaN or infinity": ~np.isfinite(data),
        "X/data holds explicit zeros": data == 0,
    }
    return [problem for problem, found in findings.items() if found.any()]


def _problems(layout: _Layout) -> Iterator[str]:
    indptr = _row_starts(layout)
    content = ContentHash()
    counts = np.zeros(layout.shape[1], dtype=np.int64)
    offset, previous = 0, -1
    for indices, data in zip(hdf5.blocks(layout.indices), hdf5.blocks(layout.data), strict=True):
        if found := _entry_problems(indices, data, indptr, layout.shape[1], offset, previous):
            yield from found
            return
        counts += np.bincount(indices, minlength=layout.shape[1])
        offset, previous = offset + len(indices), int(indices[-1])
    yield from _frame_problems(layout, counts)
    _hash_all(layout, content)
    stored = _metadata(layout.own)["content_sha256"]
    if content.hexdigest() != stored:
        stored = plain_text(stored)
        yield f"the content does not have the hash {stored} that was stored when it was written"


def _frame_problems(layout: _Layout, counts: np.ndarray) -> Iterator[str]:
    for frame in (layout.obs, layout.var):
        columns = {"_index", *_order(frame)}
        if columns != set(frame):
            held, listed = (plain_text(sorted(names)) for names in (frame, columns))
            yield f"{frame.name} holds {held}, but its columns are {listed}"
    names = hdf5.read_column(layout.obs, "_index")
    if len(set(names)) != len(names):
        yield "obs/_index names a row twice"
    frequency = counts / max(layout.shape[0], 1)
    if not np.array_equal(hdf5.read_column(layout.var, "activation_frequency"), frequency):
        yield "var/activation_frequency is not that of the codes"


def _hash_all(layout: _Layout, content: ContentHash) -> None:
    content.update("X/shape", np.array(layout.shape, dtype=np.int64))
    for item in (layout.indptr, layout.indices, layout.data):
        _hash(item, content)
    for frame in (layout.obs, layout.var):
        content.update(f"{frame.name[1:]}/column-order", np.array(_order(frame), dtype=object))
        for name in ("_index", *_order(frame)):
            _hash(hdf5.dataset(frame, name), content)
    for name in ("format_version", *_TEXTS, *_LISTS):
        if name != "content_sha256":
            _hash(hdf5.dataset(layout.own, name), content)


def _hash(item: h5py.Dataset, content: ContentHash) -> None:
    path = item.name[1:]
    if item.shape == ():
        content.update(path, as_array(hdf5.read_scalar(item.parent, path.rpartition("/")[2])))
        return
    content.update(path, np.empty(0, dtype=object if hdf5.is_string(item) else item.dtype))
    for block in hdf5.blocks(item):
        content.update(path, block)
