"""Pictures of `benchmarks.density`: samples, and what single latents do."""

import math
from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from benchmarks.common import Features
from sparsecode import SparseVAETransformer

SIDE = 28
# Factors of the largest code of the latent.
_FACTORS = np.linspace(0, 3, 7)
_N_ROWS = 6


def samples(path: Path, drawn: Mapping[str, NDArray]) -> None:
    """Draw the images (n, d) of each model in a square."""
    figure, axes = plt.subplots(1, len(drawn), figsize=(4 * len(drawn), 4.3), layout="compressed")
    for axis, (label, images) in zip(np.atleast_1d(axes), drawn.items(), strict=True):
        grid = math.isqrt(len(images))
        rows = images[: grid * grid].reshape(grid, grid, SIDE, SIDE).swapaxes(1, 2)
        _show(axis, rows.reshape(grid * SIDE, grid * SIDE))
        axis.set_title(label, fontsize=12)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def traversals(path: Path, coder: SparseVAETransformer, rows: NDArray) -> None:
    """Draw images with their largest latent turned from nothing to three times its value."""
    codes = coder.transform(rows[:200]).toarray()
    chosen = _one_image_per_latent(codes)[:_N_ROWS]
    figure, axes = plt.subplots(
        len(chosen), len(_FACTORS) + 1, figsize=(9, 1.2 * len(chosen)), layout="compressed"
    )
    for line, image in zip(axes, chosen, strict=True):
        latent = int(codes[image].argmax())
        turned = np.repeat(codes[image : image + 1], len(_FACTORS), axis=0)
        turned[:, latent] *= _FACTORS
        _show(line[0], rows[image].reshape(SIDE, SIDE) / 255)
        line[0].set_ylabel(f"{latent}", rotation=0, ha="right", va="center")
        for axis, picture in zip(line[1:], coder.inverse_transform(turned), strict=True):
            _show(axis, picture.reshape(SIDE, SIDE))
    for axis, title in zip(axes[0], ["image", *(f"× {f:g}" for f in _FACTORS)], strict=True):
        axis.set_title(title, fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _one_image_per_latent(codes: Features) -> list[int]:
    """Return images whose largest latents differ, in order."""
    _, first = np.unique(codes.argmax(1), return_index=True)
    return sorted(int(i) for i in first)


def _show(axis: Axes, picture: NDArray) -> None:
    axis.imshow(picture, cmap="gray_r", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_visible(False)
