"""Inputs -> named batches of rows: images and rows of an array look the same from here."""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, tee
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sparsecode.arrays import ArrayInput, is_array_path, open_array
from sparsecode.errors import ImageError, RefusedError
from sparsecode.image_pool import CHUNK, ImagePool
from sparsecode.images import DecodedImage, ImageOptions
from sparsecode.listing import ImageFile, Listing

Matrix: TypeAlias = NDArray[Any] | sparse.csr_array

_BATCH_BYTES = 64 << 20
_MAX_BATCH_ROWS = 4096
# Decoders should not wait for a batch to be encoded, nor an encoder for a whole folder.
_BATCH_IMAGES = 256


@dataclass(frozen=True)
class Failure:
    """One input without a row.

    Attributes
    ----------
    path : str
        Name as listed.
    reason : str
        Why it could not be read.
    """

    path: str
    reason: str


@dataclass(frozen=True)
class RowBatch:
    """Rows with their names.

    Attributes
    ----------
    X : ndarray or csr_array of shape (n, d)
    names : list of str
    obs : dict of str to sequence
        Columns for the rows: label, width, height.
    failures : list of Failure
        Inputs met on the way that gave no row.
    stop : int
        Place, in the source, after the last input that this batch covers.
    """

    X: Matrix
    names: list[str]
    obs: dict[str, Any]
    stop: int
    failures: list[Failure] = field(default_factory=list)


class Source(Protocol):
    """Rows to encode, readable more than once."""

    n_listed: int
    n_features: int
    sha256: str
    decode_seconds: float

    def batches(self, ranges: Iterable[range] | None = None) -> Iterator[RowBatch]:
        """All rows, or those in ranges of inputs, in order; no batch crosses a range's end."""

    def sample(self, n_rows: int, rng: np.random.Generator) -> "Source":
        """At most ``n_rows`` of them, in order."""


class ImageSource:
    """Images of a listing, decoded to one size by worker processes.

    Parameters
    ----------
    listing : Listing
    options : ImageOptions
    on_error : {"skip", "fail"}
        List a broken image as failed, or raise.
    n_workers : int, optional
        Processes; as many as there are CPUs by default, 0 for none.
    time_limit : float, default=60.0
        Seconds that one image may take.
    """

    def __init__(
        self,
        listing: Listing,
        options: ImageOptions,
        on_error: str = "skip",
        n_workers: int | None = None,
        time_limit: float = 60.0,
    ) -> None:
        self.listing = listing
        self.options = options
        self.on_error = on_error
        self.n_workers = (os.cpu_count() or 1) if n_workers is None else n_workers
        self.time_limit = time_limit
        self.n_listed = len(listing)
        self.n_features = options.n_features
        self.sha256 = listing.sha256
        self.decode_seconds = 0.0

    def batches(self, ranges: Iterable[range] | None = None) -> Iterator[RowBatch]:
        """All images, or those in ranges, in order."""
        size = max(1, min(_BATCH_IMAGES, _BATCH_BYTES // self.n_features))
        spans = list(_spans(ranges or [range(self.n_listed)], size))
        n_workers = min(self.n_workers, -(-sum(map(len, spans)) // CHUNK))
        with ImagePool(self.options, n_workers, self.time_limit) as pool:
            asked, chunks = tee(
                self.listing[part.start : part.stop] for part in _spans(spans, CHUNK)
            )
            paths = ([file.path for file in chunk] for chunk in asked)
            # Decoders may be a batch ahead, so that they work while one is encoded.
            decoded = pool.decode(paths, n_workers + -(-size // CHUNK))
            pairs = chain.from_iterable(map(zip, chunks, decoded))
            for span in spans:
                batch = list(islice(pairs, len(span)))
                self.decode_seconds = pool.busy_seconds / max(1, n_workers)
                yield self._batch(batch, span.stop)

    def sample(self, n_rows: int, rng: np.random.Generator) -> "ImageSource":
        """At most ``n_rows`` images, in order."""
        kept = self.listing.sample(_choose(self.n_listed, n_rows, rng).tolist())
        return ImageSource(kept, self.options, self.on_error, self.n_workers, self.time_limit)

    def _batch(
        self, pairs: Sequence[tuple[ImageFile, DecodedImage | ImageError]], stop: int
    ) -> RowBatch:
        read = [(file, image) for file, image in pairs if not isinstance(image, ImageError)]
        X = np.empty((len(read), self.n_features), np.uint8)
        for row, (_, image) in zip(X, read, strict=True):
            row[:] = image.pixels.ravel()
        obs: dict[str, Any] = {
            "width": np.array([image.width for _, image in read], np.int32),
            "height": np.array([image.height for _, image in read], np.int32),
        }
        if self.listing.has_labels:
            obs["label"] = np.array([file.label or "" for file, _ in read], dtype=object)
        failures = [
            Failure(file.name, str(error)) for file, error in pairs if isinstance(error, ImageError)
        ]
        if failures and self.on_error == "fail":
            raise ImageError(f"{failures[0].path}: {failures[0].reason}")
        return RowBatch(X, [file.name for file, _ in read], obs, stop, failures)


class ArraySource:
    """Rows of one array file.

    Parameters
    ----------
    array : ArrayInput
    rows : ndarray of int, optional
        Which rows, rising; all when None.
    """

    def __init__(self, array: ArrayInput, rows: NDArray[np.intp] | None = None) -> None:
        self.array = array
        self.rows = rows
        self.n_listed = array.shape[0] if rows is None else len(rows)
        self.n_features = array.shape[1]
        self.sha256 = array.sha256
        self.decode_seconds = 0.0

    def batches(self, ranges: Iterable[range] | None = None) -> Iterator[RowBatch]:
        """All rows, or those in ranges, in order."""
        size = self._slice_rows()
        if self.rows is None:
            for span in _spans(ranges or [range(self.n_listed)], size):
                yield self._batch(span.start, span.stop, span.stop)
            return
        starts, done = np.unique(self.rows // size) * size, 0
        for index in np.split(self.rows, np.searchsorted(self.rows, starts[1:])):
            if len(index):
                done += len(index)
                yield self._batch(int(index[0]), int(index[-1]) + 1, done, index - index[0])

    def sample(self, n_rows: int, rng: np.random.Generator) -> "ArraySource":
        """At most ``n_rows`` rows, in order."""
        chosen = _choose(self.n_listed, n_rows, rng)
        return ArraySource(self.array, chosen if self.rows is None else self.rows[chosen])

    def _slice_rows(self) -> int:
        """Count the rows to read at once: whole chunks of the file, where these are not huge."""
        most = max(1, _BATCH_BYTES // (4 * self.n_features))
        size, chunk = min(_MAX_BATCH_ROWS, most), self.array.chunk_rows
        return size - size % chunk if chunk <= size else -(-chunk // -(-chunk // most))

    def _batch(
        self, first: int, last: int, stop: int, picked: NDArray[np.intp] | None = None
    ) -> RowBatch:
        begin = time.perf_counter()
        X, names = self.array.read(first, last), self.array.names(first, last)
        obs = {}
        if self.array.has_labels:
            obs["label"] = np.array(self.array.labels(first, last), dtype=object)
        if picked is not None:
            obs = {column: values[picked] for column, values in obs.items()}
            X, names = X[picked], [names[i] for i in picked]
        self.decode_seconds += time.perf_counter() - begin
        return RowBatch(X, names, obs, stop)


def open_array_source(inputs: Sequence[str | os.PathLike[str]]) -> ArraySource | None:
    """Open the array file named by ``inputs``; None if they are not arrays.

    Raises
    ------
    RefusedError
        Arrays mixed with images, or more than one array.
    """
    arrays = [path for path in inputs if is_array_path(path)]
    if not arrays:
        return None
    if len(inputs) > 1:
        raise RefusedError(
            f"give one array file at a time, or images: got {len(arrays)} array files among "
            f"{len(inputs)} inputs"
        )
    return ArraySource(open_array(arrays[0]))


def read_all(source: Source) -> Matrix:
    """Stack all rows of a source, uint8 staying uint8.

    Raises
    ------
    RefusedError
        The source has no row that can be read.
    """
    parts = [batch.X for batch in source.batches()]
    if not sum(part.shape[0] for part in parts):
        raise RefusedError("none of the inputs could be read")
    return stacked(parts)


def stacked(parts: Sequence[Matrix]) -> Matrix:
    """Stack matrices, all CSR or all dense, one below the other."""
    if sparse.issparse(parts[0]):
        return sparse.csr_array(sparse.vstack(parts, format="csr"))
    return np.concatenate(parts)


def _spans(ranges: Iterable[range], size: int) -> Iterator[range]:
    """Cut ranges into pieces of at most `size`."""
    for whole in ranges:
        for start in range(whole.start, whole.stop, size):
            yield range(start, min(start + size, whole.stop))


def _choose(n: int, n_wanted: int, rng: np.random.Generator) -> NDArray[np.intp]:
    return np.sort(rng.choice(n, size=min(n, n_wanted), replace=False))
