"""The atlas of latents: figures, labels, top samples and picture sheets of each."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecode.codes import SparseCodes
from sparsecode.companions import Originals
from sparsecode.diagnostics import Diagnostics, latent_changes, top_samples
from sparsecode.report.pictures import PictureStyle, sheet

# Latents whose pictures share a sheet: the page decodes only the sheets that it shows.
PER_SHEET = 64
_N_CHANGE_ROWS = 8
_TOP_LABELS = 4
# Top images in all: a page of a large model shows fewer for each latent.
_MOST_IMAGES = 12_288

Decode = Callable[[Any], NDArray[Any]]


def atlas(
    codes: SparseCodes,
    diagnostics: Diagnostics,
    importance: NDArray[np.float64] | None,
    originals: Originals | None,
    decode: Decode | None,
    style: PictureStyle | None,
) -> dict[str, Any]:
    """Collect what the page shows of each latent, column by column.

    Parameters
    ----------
    codes : SparseCodes
    diagnostics : Diagnostics
        Of these codes.
    importance : ndarray of shape (n_latents,) or None
        Explained variance lost without each latent.
    originals, decode, style
        For the pictures; None leaves those out that need it.

    Returns
    -------
    dict
        For JSON.
    """
    k = codes.n_latents
    n_top = int(np.clip(_MOST_IMAGES // k, 2, 6))
    top = top_samples(codes.matrix, max(n_top, _N_CHANGE_ROWS))
    names = sorted({int(row) for row in top[:, :n_top].ravel() if row >= 0})
    columns = _columns(diagnostics)
    if importance is not None:
        columns["importance"] = importance
    return {
        "n": k,
        "columns": {name: _rounded(values) for name, values in columns.items()},
        "status": _status(diagnostics),
        "histograms": diagnostics.histograms.counts.tolist(),
        "edges": _rounded(diagnostics.histograms.edges),
        "labels": _labels(diagnostics),
        "top": top[:, :n_top].tolist(),
        "names": {row: str(codes.names[row]) for row in names},
        "sheets": _sheets(codes, top, n_top, originals, decode, style),
    }


def _columns(diagnostics: Diagnostics) -> dict[str, NDArray[np.float64]]:
    columns = {
        "frequency": diagnostics.frequency,
        "mean": diagnostics.mean_value,
        "energy": diagnostics.energy,
        "kurtosis": diagnostics.latent_kurtosis,
    }
    if diagnostics.rates is not None:
        columns["rate"] = diagnostics.rates.spike + diagnostics.rates.slab
    if diagnostics.information is not None:
        columns["information"] = diagnostics.information
    return columns


def _status(diagnostics: Diagnostics) -> list[str]:
    status = np.full(diagnostics.n_latents, "", dtype=object)
    for name, which in (
        ("collapsed", diagnostics.collapsed),
        ("always on", diagnostics.always_on),
        ("dead", diagnostics.dead),
    ):
        status[which] = name
    return status.tolist()


def _labels(diagnostics: Diagnostics) -> dict[str, Any] | None:
    """For each latent, the labels in whose rows it is on most often, and how often."""
    if diagnostics.by_label is None:
        return None
    classes, _, shares = diagnostics.by_label
    best = np.argsort(-shares, axis=1, kind="stable")[:, :_TOP_LABELS]
    return {
        "classes": [str(name) for name in classes],
        "best": best.tolist(),
        "shares": [_rounded(row) for row in np.take_along_axis(shares, best, axis=1)],
    }


def _sheets(
    codes: SparseCodes,
    top: NDArray[np.int64],
    n_top: int,
    originals: Originals | None,
    decode: Decode | None,
    style: PictureStyle | None,
) -> dict[str, Any] | None:
    if style is None:
        return None
    height, width = style.cell
    sheets: dict[str, Any] = {"per": PER_SHEET, "height": height, "width": width, "n_top": n_top}
    sheets["colours"] = style.change_colours
    starts = range(0, codes.n_latents, PER_SHEET)
    if decode is not None:
        sheets["changes"] = [_change_sheet(codes, start, top, decode, style) for start in starts]
    if originals is not None:
        tops = [top[start : start + PER_SHEET, :n_top] for start in starts]
        sheets["images"] = [_image_sheet(part, originals, style) for part in tops]
    return sheets


def _change_sheet(
    codes: SparseCodes, start: int, top: NDArray[np.int64], decode: Decode, style: PictureStyle
) -> str:
    latents = np.arange(start, min(start + PER_SHEET, codes.n_latents))
    rows = top[latents, :_N_CHANGE_ROWS]
    changes = latent_changes(codes.matrix, latents, rows, decode)
    return sheet(style.changes(changes)[:, None], is_change=True)


def _image_sheet(top: NDArray[np.int64], originals: Originals, style: PictureStyle) -> str:
    wanted, place = np.unique(top[top >= 0], return_inverse=True)
    height, width = style.cell
    colours = () if style.shape[2] == 1 else (3,)
    images = np.zeros((*top.shape, height, width, *colours), np.uint8)
    if len(wanted):
        images[top >= 0] = style.images(originals.rows(wanted))[place]
    return sheet(images)


def _rounded(values: NDArray[Any]) -> list[float | None]:
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in values]
