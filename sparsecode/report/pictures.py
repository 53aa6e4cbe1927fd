"""Rows of data as pictures for the page: tiles, and sheets of many."""

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecode.companions import PictureShape
from sparsecode.images import encode_picture

# Larger pictures are averaged down: the atlas of a large model must fit into a page.
_LARGEST_SIDE = 32


def _diverging_palette() -> NDArray[np.uint8]:
    """Blue over white to red; 0 is at 128."""
    blue, white, red = (np.array(colour) for colour in ((33, 82, 168), (250,) * 3, (178, 40, 45)))
    t = (np.arange(256)[:, None] - 128) / 127
    colours = np.where(t < 0, white + (white - blue) * t, white + (red - white) * t)
    return np.clip(colours, 0, 255).astype(np.uint8)


_DIVERGING = _diverging_palette()


@dataclass(frozen=True)
class PictureStyle:
    """How rows become pictures.

    Attributes
    ----------
    shape : (h, w, c)
    low, high : float
        Values drawn black and white.
    """

    shape: PictureShape
    low: float
    high: float

    @classmethod
    def of(cls, rows: NDArray[Any], shape: PictureShape) -> "PictureStyle":
        """Choose the range of some rows; uint8 counts as [0, 1], as for the estimator."""
        if rows.dtype == np.uint8:
            return cls(shape, 0.0, 1.0)
        low, high = (float(end) for end in np.percentile(rows, [0.5, 99.5]))
        if low >= -0.05 and high <= 1.05:
            return cls(shape, 0.0, 1.0)
        return cls(shape, low, high if high > low else low + 1)

    @property
    def change_colours(self) -> str:
        """What the colours of a change mean, in words."""
        if self.shape[2] == 1:
            return "red where it adds, blue where it takes away"
        return "grey where it changes nothing"

    @property
    def cell(self) -> tuple[int, int]:
        """Height and width of a drawn picture."""
        height, width, _ = self.shape
        step = self._step
        return -(-height // step), -(-width // step)

    @property
    def _step(self) -> int:
        return -(-max(self.shape[:2]) // _LARGEST_SIDE)

    def images(self, rows: NDArray[Any]) -> NDArray[np.uint8]:
        """Draw rows (n, d): (n, h, w) grey or (n, h, w, 3)."""
        if rows.dtype == np.uint8:
            rows = rows / np.float32(255)
        scaled = (rows.astype(np.float32) - self.low) / (self.high - self.low)
        return _squeezed(np.clip(self._reduced(scaled) * 255 + 0.5, 0, 255).astype(np.uint8))

    def changes(self, rows: NDArray[Any]) -> NDArray[np.uint8]:
        """Draw changes (n, d), each by its own largest: indices into the palette, or RGB."""
        rows = self._reduced(np.asarray(rows, dtype=np.float32))
        largest = np.abs(rows).reshape(len(rows), -1).max(axis=1)
        rows = rows / np.where(largest > 0, largest, 1).reshape(-1, 1, 1, 1)
        return _squeezed((rows * 127 + 128).round().astype(np.uint8))

    def _reduced(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        images = rows.reshape(-1, *self.shape)
        step = self._step
        if step == 1:
            return images
        height, width = self.cell
        pad = (
            (0, 0),
            (0, height * step - self.shape[0]),
            (0, width * step - self.shape[1]),
            (0, 0),
        )
        padded = np.pad(images, pad, mode="edge")
        return padded.reshape(len(images), height, step, width, step, -1).mean(axis=(2, 4))


def tile(image: NDArray[np.uint8], is_change: bool = False) -> str:
    """Encode one drawn picture as a data URI."""
    palette = _DIVERGING if is_change and image.ndim == 2 else None
    data = encode_picture(np.ascontiguousarray(image), palette)
    kind = "png" if data[:4] == b"\x89PNG" else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def sheet(images: NDArray[np.uint8], is_change: bool = False) -> str:
    """Encode pictures (rows, columns, h, w[, 3]) side by side as one data URI."""
    n_rows, n_columns, height, width, *colours = images.shape
    joined = images.swapaxes(1, 2).reshape(n_rows * height, n_columns * width, *colours)
    return tile(joined, is_change)


def _squeezed(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return images[..., 0] if images.shape[3] == 1 else images
