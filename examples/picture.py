"""Draw digits, their reconstructions and the few latents behind each: docs/images/codes.png.

.venv/bin/pip install matplotlib
.venv/bin/sparsecode encode examples/digits digits.h5 -k 256 --p 0.95
.venv/bin/python examples/picture.py digits.safetensors docs/images/codes.png
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from PIL import Image

from sparsecode import SparseVAETransformer

N_LATENTS_SHOWN = 8
DIGITS = Path(__file__).parent / "digits"


def show(axes: Axes, picture: NDArray, title: str = "", limit: float | None = None) -> None:
    """Draw one image: grey in [0, 1], or a change of one in red and blue around zero."""
    if limit is None:
        axes.imshow(picture, cmap="gray_r", vmin=0, vmax=1)
    else:
        axes.imshow(picture, cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes.set_title(title, fontsize=8, pad=3)
    axes.set_axis_off()


def contributions(
    transformer: SparseVAETransformer, code: NDArray, latents: NDArray
) -> NDArray[np.float32]:
    """Return what the picture loses without each of these latents, one row each."""
    without = np.repeat(code[None], len(latents), axis=0)
    without[np.arange(len(latents)), latents] = 0
    return transformer.inverse_transform(code[None]) - transformer.inverse_transform(without)


def main() -> None:
    """Parse the arguments and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()

    transformer = SparseVAETransformer.load(args.model, device="cpu")
    paths = [sorted((DIGITS / str(label)).glob("*.png"))[7] for label in (0, 2, 3, 5, 8)]
    X = np.stack([np.asarray(Image.open(path)).ravel() for path in paths])
    codes = transformer.transform(X)
    reconstructions = transformer.inverse_transform(codes)

    columns = 3 + N_LATENTS_SHOWN
    figure, grid = plt.subplots(len(X), columns, figsize=(columns * 0.95, len(X) * 1.12))
    for i, row in enumerate(grid):
        code = codes[[i]].toarray()[0]
        order = np.argsort(-np.abs(code))[:N_LATENTS_SHOWN]
        show(row[0], X[i].reshape(28, 28) / 255, "image" if i == 0 else "")
        show(row[1], reconstructions[i].reshape(28, 28), "decoded" if i == 0 else "")
        n_active = np.count_nonzero(code)
        row[2].text(0.5, 0.5, f"{n_active} of\n{len(code)}\nlatents", ha="center", va="center")
        row[2].set_axis_off()
        changes = contributions(transformer, code, order)
        limit = np.abs(changes).max()
        for axes, j, change in zip(row[3:], order, changes, strict=True):
            show(axes, change.reshape(28, 28), f"#{j}: {code[j]:.2f}", limit)
    figure.tight_layout(pad=0.3)
    figure.savefig(args.output, dpi=130)


if __name__ == "__main__":
    main()
