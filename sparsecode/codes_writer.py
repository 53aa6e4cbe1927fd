"""`CodesWriter`: codes to HDF5, batch by batch, all or nothing (see docs/file-format.md)."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from scipy.sparse import csr_array

from sparsecode import files, hdf5
from sparsecode.content import ContentHash, as_array
from sparsecode.errors import OutputError
from sparsecode.strict_json import parse_json

FORMAT_VERSION = 1
_FIELDS = {
    "config": {},
    "model_sha256": "",
    "listing_sha256": "",
    "failed_path": (),
    "failed_reason": (),
}
COMPRESSIONS: dict[str, dict[str, Any]] = {
    "gzip": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
    "gzip9": {"compression": "gzip", "compression_opts": 9, "shuffle": True},
    "lzf": {"compression": "lzf", "shuffle": True},
    "none": {},
}
"""Filters by name; only h5py reads lzf, everything reads the others."""

_DEFAULT_CHUNK = 16384
_CHUNKS = {"X/data": 65536, "X/indices": 65536}


class CodesWriter:
    """Write codes batch by batch; the file appears, whole, when `finish` returns.

    Use it in a ``with`` block. Any error, or leaving the block without `finish`, removes the
    temporary file (``<path>.tmp``) and leaves `path` as it was. Two writers of one path at the
    same time are the caller's to prevent.

    Parameters
    ----------
    path : path-like
        The output.
    n_latents : int
        Number of columns, from 1 to 2**31 - 1.
    overwrite : bool, default=False
        Replace an existing file.
    compression : {"gzip", "gzip9", "lzf", "none"}, default="gzip"
        Of every column but the row starts.

    Raises
    ------
    RefusedError
        The output exists and `overwrite` is false, or its folder does not exist.
    OutputError
        From ``with`` and from any method: the disk is full or the output cannot be written.

    Examples
    --------
    >>> with CodesWriter("out.h5", n_latents=256) as writer:  # doctest: +SKIP
    ...     for batch in batches:
    ...         writer.append(batch.matrix, batch.names, batch.obs)
    ...     writer.finish(metadata={"model_sha256": model.sha256})
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        n_latents: int,
        overwrite: bool = False,
        compression: str = "gzip",
    ) -> None:
        if compression not in COMPRESSIONS:
            raise ValueError(
                f"compression={compression!r} is unknown; choose one of {', '.join(COMPRESSIONS)}"
            )
        self._filters = COMPRESSIONS[compression]
        if not 1 <= n_latents < 2**31:
            raise ValueError(f"n_latents={n_latents!r} is out of range; 1 to 2**31 - 1 is needed")
        self.path = Path(path)
        self.n_latents = n_latents
        files.check_output(self.path, overwrite)
        self._temporary = files.temporary_name(self.path)
        self._raw: hdf5.SteadyFile | None = None
        self._n_samples = self._n_entries = 0
        self._counts = np.zeros(n_latents, dtype=np.int64)
        self._content = ContentHash()
        self._columns: dict[str, hdf5.Column] = {}

    def __enter__(self) -> Self:
        with self._writing():
            self._raw = hdf5.SteadyFile(str(self._temporary), "w+b")
            self._file = h5py.File(self._raw, "w", libver=("v108", "v108"))
            hdf5.encode(self._file, "anndata", "0.1.0")
            hdf5.encoded_group(self._file, "X", "csr_matrix", "0.1.0")
            hdf5.encoded_group(self._file, "obs", "dataframe", "0.2.0")
            hdf5.encoded_group(self._file, "var", "dataframe", "0.2.0")
            uns = hdf5.encoded_group(self._file, "uns", "dict", "0.1.0")
            hdf5.encoded_group(uns, "sparsecode", "dict", "0.1.0")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._discard()

    def append(
        self,
        matrix: csr_array,
        names: Sequence[str] | np.ndarray,
        obs: Mapping[str, Any] | None = None,
    ) -> None:
        """Add rows.

        Parameters
        ----------
        matrix : csr_array of shape (n_rows, n_latents)
            Codes; stored as float32, sorted, without explicit zeros.
        names : sequence of str, of length n_rows
            UTF-8 text without NUL, different for every row of the file.
        obs : mapping of str to sequence of length n_rows, optional
            Columns of numbers, booleans or text; the same names and types in every batch.

        Raises
        ------
        ValueError
            The batch does not fit the file; nothing of it was written.
        """
        self._require_open()
        batch = _batch(matrix, self.n_latents, names, obs or {})
        self._require_same_columns(batch)
        ends = self._n_entries + batch["X/indptr"]
        batch["X/indptr"] = ends if self._columns else np.append(np.int64(0), ends)
        self._counts += np.bincount(batch["X/indices"], minlength=self.n_latents)
        self._n_entries += len(batch["X/data"])
        self._n_samples += len(batch["obs/_index"])
        with self._writing():
            for path, values in batch.items():
                self._add(path, values)

    def finish(
        self,
        *,
        var: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Write what belongs to the whole file and put it in place.

        Parameters
        ----------
        var : mapping of str to sequence of length n_latents, optional
            More columns about the latents; ``activation_frequency`` and ``dead`` are always
            computed from the codes themselves.
        metadata : mapping, optional
            ``config`` (a JSON object), ``model_sha256``, ``listing_sha256``, ``failed_path`` and
            ``failed_reason`` (sequences of str of one length); what is left out is empty.

        Raises
        ------
        ValueError
            An unknown or unfit entry.
        """
        self._require_open()
        fields = _fields(metadata or {})
        columns = self._var_columns(var or {})
        if not self._columns:
            self.append(csr_array((0, self.n_latents), dtype=np.float32), [])
        with self._writing():
            for name, values in columns.items():
                self._add(f"var/{name}", values)
            self._add_fields(fields)
            for column in self._columns.values():
                column.flush()
            self._close_matrix_and_frames()
            self._add_scalar("content_sha256", self._content.hexdigest())
            self._publish()

    def _require_open(self) -> None:
        if self._raw is None:
            raise ValueError(f"the writer of {self.path} is closed; open another one")

    def _require_same_columns(self, batch: Mapping[str, np.ndarray]) -> None:
        if not self._columns:
            return
        first = {path: column.dtype for path, column in self._columns.items()}
        this = {path: values.dtype for path, values in batch.items()}
        if first != this:
            differing = sorted(path for path, _ in first.items() ^ this.items())
            raise ValueError(
                f"columns {sorted(set(differing))} differ in name or type from the first batch; "
                "give every batch the same columns"
            )

    def _var_columns(self, extra: Mapping[str, Any]) -> dict[str, np.ndarray]:
        names = np.array([f"latent_{i:05d}" for i in range(self.n_latents)], dtype=object)
        computed = {
            "_index": names,
            "activation_frequency": self._counts / max(self._n_samples, 1),
            "dead": self._counts == 0,
        }
        return computed | {
            name: _column(name, values, self.n_latents)
            for name, values in extra.items()
            if name not in computed
        }

    def _add(self, path: str, values: np.ndarray) -> None:
        if path not in self._columns:
            group, name = path.rsplit("/", 1)
            chunk = _CHUNKS.get(path, _DEFAULT_CHUNK)
            filters = {} if path == "X/indptr" else self._filters
            self._columns[path] = hdf5.Column(self._file[group], name, values.dtype, chunk, filters)
            if group != "X":
                kind = "string-array" if values.dtype == object else "array"
                hdf5.encode(self._file[path], kind, "0.2.0")
        self._content.update(path, values)
        self._columns[path].append(values)

    def _add_fields(self, fields: Mapping[str, Any]) -> None:
        for name, value in fields.items():
            if isinstance(value, np.ndarray):
                self._add(f"uns/sparsecode/{name}", value)
            else:
                self._content.update(f"uns/sparsecode/{name}", as_array(value))
                self._add_scalar(name, value)

    def _add_scalar(self, name: str, value: str | int) -> None:
        text = isinstance(value, str)
        item = self._file["uns/sparsecode"].create_dataset(
            name, data=value, dtype=h5py.string_dtype() if text else np.int64
        )
        hdf5.encode(item, "string" if text else "numeric-scalar", "0.2.0")

    def _close_matrix_and_frames(self) -> None:
        shape = np.array([self._n_samples, self.n_latents], dtype=np.int64)
        self._content.update("X/shape", shape)
        self._file["X"].attrs["shape"] = shape
        for frame in ("obs", "var"):
            paths = [path for path in self._columns if path.startswith(f"{frame}/")]
            order = _text([path[4:] for path in paths if path != f"{frame}/_index"], "column")
            self._content.update(f"{frame}/column-order", order)
            attributes = self._file[frame].attrs
            attributes["_index"] = "_index"
            attributes.create("column-order", order, dtype=h5py.string_dtype())

    def _publish(self) -> None:
        assert self._raw is not None  # for the type checker; `finish` has looked
        self._file.close()
        self._raw.check()
        files.sync(self._raw.fileno())
        self._raw.close()
        files.publish(self._temporary, self.path)
        self._raw = None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn whatever goes wrong with the disk into one `OutputError`, and clean up."""
        try:
            yield
            if self._raw is not None:
                self._raw.check()
        except OSError as error:
            self._discard()
            raise OutputError(
                f"{self.path} could not be written ({error.strerror or error}); nothing there was "
                "changed. Free some space, or choose another place, and run again"
            ) from error
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        if self._raw is not None:
            with suppress(Exception):  # the error that led here is the one to report
                self._file.close()
            with suppress(OSError):
                self._raw.close()
            with suppress(OSError):
                self._temporary.unlink()
            self._raw = None


def _batch(
    matrix: csr_array, n_latents: int, names: Sequence[str] | np.ndarray, obs: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Check one batch and return its values by path; X/indptr holds the rows' ends."""
    codes = csr_array(matrix, dtype=np.float32, copy=True)
    codes.sum_duplicates()
    codes.eliminate_zeros()
    if codes.shape[1] != n_latents:
        raise ValueError(f"the codes have {codes.shape[1]} columns; {n_latents} are needed")
    if not np.isfinite(codes.data).all():
        raise ValueError("the codes hold NaN or infinity, which no reader could tell from damage")
    n_rows = codes.shape[0]
    columns = {name: _column(name, values, n_rows) for name, values in obs.items()}
    return {
        "X/data": codes.data,
        "X/indices": codes.indices.astype(np.int32),
        "X/indptr": codes.indptr[1:].astype(np.int64),
        "obs/_index": _checked_length("names", _text(names, "names"), n_rows),
        **{f"obs/{name}": values for name, values in columns.items()},
    }


def _column(name: str, values: Any, length: int) -> np.ndarray:
    if name == "_index" or not name.isprintable() or "/" in name or name in ("", "."):
        raise ValueError(f"column name {name!r} cannot be stored; use plain words without '/'")
    array = np.asarray(values)
    if array.dtype.kind in "biuf" and array.dtype.itemsize <= 8:
        array = array.astype(array.dtype.newbyteorder("<"))
    else:
        array = _text(values, f"column {name!r}")
    return _checked_length(f"column {name!r}", array, length)


def _checked_length(what: str, values: np.ndarray, length: int) -> np.ndarray:
    if values.shape != (length,):
        raise ValueError(f"{what} has shape {values.shape}; ({length},) is needed")
    return values


def _text(values: Sequence[str] | np.ndarray, what: str) -> np.ndarray:
    """Return text as an object array, once HDF5 is sure to accept it."""
    for value in values:
        if not isinstance(value, str):
            raise ValueError(f"{what} holds {value!r}; text is needed")
        if "\0" in value or not (value.isascii() or _is_unicode(value)):
            raise ValueError(
                f"{what} holds {value!r}, which HDF5 cannot store; percent-encode NUL and bytes "
                "that are not UTF-8"
            )
    array = np.empty(len(values), dtype=object)
    array[:] = list(values)
    return array


def _is_unicode(value: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _fields(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Check the metadata and return the fields of uns/sparsecode."""
    known = _FIELDS | dict.fromkeys(("format_version", "content_sha256"))
    if unknown := sorted(metadata.keys() - known):
        raise ValueError(f"metadata {unknown} are unknown; known are {sorted(_FIELDS)}")
    given = _FIELDS | dict(metadata)
    config = json.dumps(given["config"], sort_keys=True, ensure_ascii=False, allow_nan=False)
    if not isinstance(parse_json(config), dict):  # nothing is written that could not be read
        raise ValueError("config is not a JSON object")
    failed = {name: _text(given[name], name) for name in ("failed_path", "failed_reason")}
    if len({len(values) for values in failed.values()}) != 1:
        raise ValueError("failed_path and failed_reason differ in length; one reason per path")
    scalars = {"config_json": config} | {
        name: given[name] for name in ("model_sha256", "listing_sha256")
    }
    _text(list(scalars.values()), "metadata")
    return {"format_version": FORMAT_VERSION} | scalars | failed
