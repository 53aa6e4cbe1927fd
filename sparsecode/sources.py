"""Inputs -> named batches of rows: images and rows of an array look the same from here."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sparsecode.arrays import ArrayInput, is_array_path, open_array
from sparsecode.errors import ImageError, RefusedError
from sparsecode.images import DecodedImage, ImageOptions, read_image
from sparsecode.inputs import ImageFile, Listing

Matrix: TypeAlias = NDArray[Any] | sparse.csr_array

_BATCH_BYTES = 64 << 20
_MAX_BATCH_ROWS = 4096


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
    """

    X: Matrix
    names: list[str]
    obs: dict[str, Any]
    failures: list[Failure] = field(default_factory=list)


class Source(Protocol):
    """Rows to encode, readable more than once."""

    n_listed: int
    n_features: int
    sha256: str

    def batches(self) -> Iterator[RowBatch]:
        """All rows, in order."""

    def sample(self, n_rows: int, rng: np.random.Generator) -> "Source":
        """At most ``n_rows`` of them, in order."""


class ImageSource:
    """Images of a listing, decoded to one size by a few threads (Pillow releases the GIL).

    Parameters
    ----------
    listing : Listing
    options : ImageOptions
    on_error : {"skip", "fail"}
        List a broken image as failed, or raise.
    """

    def __init__(self, listing: Listing, options: ImageOptions, on_error: str) -> None:
        self.listing = listing
        self.options = options
        self.on_error = on_error
        self.n_listed = len(listing)
        self.n_features = options.n_features
        self.sha256 = listing.sha256

    def batches(self) -> Iterator[RowBatch]:
        """All images, in order."""
        size = max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES // self.n_features))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, self.n_listed, size):
                files = self.listing.files[start : start + size]
                yield self._batch(files, list(pool.map(self._read, files)))

    def sample(self, n_rows: int, rng: np.random.Generator) -> "ImageSource":
        """At most ``n_rows`` images, in order."""
        kept = tuple(self.listing.files[i] for i in _choose(self.n_listed, n_rows, rng))
        return ImageSource(replace(self.listing, files=kept), self.options, self.on_error)

    def _read(self, file: ImageFile) -> DecodedImage | ImageError:
        try:
            return read_image(file.path, self.options)
        except ImageError as error:
            if self.on_error == "fail":
                raise ImageError(f"{file.name}: {error}") from error
            return error

    def _batch(
        self, files: Sequence[ImageFile], results: list[DecodedImage | ImageError]
    ) -> RowBatch:
        pairs = list(zip(files, results, strict=True))
        read = [(file, image) for file, image in pairs if not isinstance(image, ImageError)]
        X = np.empty((len(read), self.n_features), np.uint8)
        for row, (_, image) in zip(X, read, strict=True):
            row[:] = image.pixels.ravel()
        obs: dict[str, Any] = {
            "width": np.array([image.width for _, image in read], np.int32),
            "height": np.array([image.height for _, image in read], np.int32),
        }
        if self.listing.labels is not None:
            obs["label"] = [file.label for file, _ in read]
        failures = [
            Failure(file.name, str(error)) for file, error in pairs if isinstance(error, ImageError)
        ]
        return RowBatch(X, [file.name for file, _ in read], obs, failures)


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
        self.sha256 = ""

    def batches(self) -> Iterator[RowBatch]:
        """All rows, in order."""
        n_rows, size = self.array.shape[0], self._slice_rows()
        if self.rows is None:
            for start in range(0, n_rows, size):
                yield self._batch(start, min(start + size, n_rows))
            return
        starts = np.unique(self.rows // size) * size
        for index in np.split(self.rows, np.searchsorted(self.rows, starts[1:])):
            if len(index):
                yield self._batch(int(index[0]), int(index[-1]) + 1, index - index[0])

    def sample(self, n_rows: int, rng: np.random.Generator) -> "ArraySource":
        """At most ``n_rows`` rows, in order."""
        chosen = _choose(self.n_listed, n_rows, rng)
        return ArraySource(self.array, chosen if self.rows is None else self.rows[chosen])

    def _slice_rows(self) -> int:
        """Count the rows to read at once: whole chunks of the file, where these are not huge."""
        most = max(1, _BATCH_BYTES // (4 * self.n_features))
        size, chunk = min(_MAX_BATCH_ROWS, most), self.array.chunk_rows
        return size - size % chunk if chunk <= size else -(-chunk // -(-chunk // most))

    def _batch(self, start: int, stop: int, picked: NDArray[np.intp] | None = None) -> RowBatch:
        X, names = self.array.read(start, stop), self.array.names(start, stop)
        obs = {}
        if self.array.has_labels:
            obs["label"] = self.array.labels(start, stop)
        if picked is None:
            return RowBatch(X, names, obs)
        obs = {column: [values[i] for i in picked] for column, values in obs.items()}
        return RowBatch(X[picked], [names[i] for i in picked], obs)


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
    if sparse.issparse(parts[0]):
        return sparse.csr_array(sparse.vstack(parts))
    return np.concatenate(parts)


def _choose(n: int, n_wanted: int, rng: np.random.Generator) -> NDArray[np.intp]:
    return np.sort(rng.choice(n, size=min(n, n_wanted), replace=False))
