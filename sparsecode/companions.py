"""What belongs to a file of codes: the inputs that it was made from, by name, and its model."""

import os
from collections.abc import Iterable, Mapping, Sequence
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sparsecode.arrays import ArrayInput, is_array_path, open_array
from sparsecode.codes import SparseCodes
from sparsecode.errors import RefusedError
from sparsecode.images import ImageOptions, read_image, survey
from sparsecode.inputs import list_images

PictureShape = tuple[int, int, int]
_BLOCK = 4096


class Originals:
    """Rows of the inputs, found by the names of the codes and read when asked for.

    Parameters
    ----------
    inputs : sequence of path-like
        What ``encode`` was given: folders, images and globs, or one array file.
    codes : SparseCodes
        Their names say which inputs are meant; ``config`` how images were read.

    Attributes
    ----------
    picture_shape : tuple of int or None
        (h, w, c) if a row is a picture. Rows of an array are taken for one if they have that
        shape in the file, or a square number of values.

    Raises
    ------
    NoInputError, RefusedError
        There are no such inputs, or they lack some that the codes name.
    """

    picture_shape: PictureShape | None

    def __init__(self, inputs: Sequence[str | os.PathLike[str]], codes: SparseCodes) -> None:
        if any(is_array_path(path) for path in inputs):
            if len(inputs) > 1:
                raise RefusedError("give one array file as input, or images, but not both")
            array = open_array(inputs[0])
            self._read, names = self._array_reader(array), _names(array)
            self.picture_shape = _picture_shape(array.row_shape, array.shape[1])
        else:
            listing = list_images(inputs)
            paths = [file.path for file in listing]
            options = _image_options(codes, paths)
            self._read, names = self._image_reader(paths, options), iter(listing.names)
            self.picture_shape = (options.height, options.width, options.channels)
        self._place = _places(names, codes)

    def rows(self, index: NDArray[np.int64]) -> NDArray[Any]:
        """Read rows of the codes' inputs.

        Parameters
        ----------
        index : ndarray of int64
            Rows of the codes, in any order.

        Returns
        -------
        ndarray of shape (len(index), n_features)
            uint8 for images, else as the array file has them.
        """
        return self._read(self._place[index])

    def _image_reader(self, paths: list[str], options: ImageOptions) -> Any:
        def read(places: NDArray[np.int64]) -> NDArray[Any]:
            X = np.empty((len(places), options.n_features), np.uint8)
            for row, place in zip(X, places, strict=True):
                row[:] = read_image(paths[place], options).pixels.ravel()
            return X

        return read

    def _array_reader(self, array: ArrayInput) -> Any:
        def read(places: NDArray[np.int64]) -> NDArray[Any]:
            order = np.argsort(places, kind="stable")
            parts, ordered = [], places[order]
            starts = np.unique(ordered // _BLOCK) * _BLOCK
            for inside in np.split(ordered, np.searchsorted(ordered, starts[1:])):
                if len(inside):
                    rows: Any = array.read(int(inside[0]), int(inside[-1]) + 1)
                    rows = rows[inside - inside[0]]
                    parts.append(rows.toarray() if sparse.issparse(rows) else rows)
            X = np.concatenate(parts) if parts else np.empty((0, array.shape[1]), np.float32)
            return X[np.argsort(order, kind="stable")]

        return read


def model_beside(path: str | os.PathLike[str], config: Mapping[str, Any]) -> Path | None:
    """Find the model that made a file of codes, by its ``config``, if it lies beside it."""
    name = config.get("model")
    if not name:
        return None
    model = Path(path).with_name(Path(str(name)).name)
    return model if model.is_file() else None


def picture_shape_of(transformer: Any) -> PictureShape | None:
    """Find the shape (h, w, c) of the pictures that an estimator was fitted on.

    How images were read says it, or ``image_shape``; else rows of a square number of values are
    taken for grey pictures. None where they are not.
    """
    images = transformer.image_options_
    if images is not None:
        return images["height"], images["width"], images["channels"]
    n_features = transformer.n_features_in_
    return _picture_shape(tuple(transformer.image_shape or (n_features,)), n_features)


def _names(array: ArrayInput) -> Iterable[str]:
    for start in range(0, array.shape[0], _BLOCK):
        yield from array.names(start, start + _BLOCK)


def _places(names: Iterable[str], codes: SparseCodes) -> NDArray[np.int64]:
    """Find the codes' names among those of the inputs, which may be many more."""
    place = dict.fromkeys(codes.names, -1)
    for i, name in enumerate(names):
        if name in place:
            place[name] = i
    missing = [name for name in codes.names if place[name] < 0]
    if missing:
        raise RefusedError(
            f"the inputs lack {len(missing):,} of {len(codes):,} rows of the codes, such as "
            f"{missing[0]!r}; give the same inputs as to encode"
        )
    return np.array([place[name] for name in codes.names], dtype=np.int64)


def _image_options(codes: SparseCodes, paths: list[str]) -> ImageOptions:
    images = codes.metadata.get("config", {}).get("images")
    return survey(paths).options if images is None else ImageOptions.from_dict(images)


def _picture_shape(row_shape: tuple[int, ...], n_features: int) -> PictureShape | None:
    if len(row_shape) == 2:
        return row_shape[0], row_shape[1], 1
    if len(row_shape) == 3 and row_shape[2] in (1, 3):
        return row_shape[0], row_shape[1], row_shape[2]
    side = isqrt(n_features)
    return (side, side, 1) if side > 1 and side * side == n_features else None
