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
        size = max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES // (4 * self.n_features)))
        for start in range(0, self.array.shape[0], size):
            stop = min(start + size, self.array.shape[0])
            index = np.arange(start, stop)
            if self.rows is not None:
                index = self.rows[(self.rows >= start) & (self.rows < stop)]
            if len(index):
                yield self._batch(self.array.read(start, stop)[index - start], index)

    def sample(self, n_rows: int, rng: np.random.Generator) -> "ArraySource":
        """At most ``n_rows`` rows, in order."""
        return ArraySource(self.array, _choose(self.n_listed, n_rows, rng))

    def _batch(self, X: Matrix, index: NDArray[np.intp]) -> RowBatch:
        obs = {}
        if self.array.labels is not None:
            obs["label"] = [self.array.labels[i] for i in index]
        return RowBatch(X, [self.array.names[i] for i in index], obs)


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
