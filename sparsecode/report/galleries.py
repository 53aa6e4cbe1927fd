"""Rows of pictures: reconstructions at several p, samples, traversals, an image explained."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from sparsecode.codes import SparseCodes
from sparsecode.diagnostics import explained_variance
from sparsecode.diagnostics.reconstruction import without_entries
from sparsecode.report.pictures import PictureStyle, tile

Gallery = dict[str, Any]
_N_SHOWN, _N_SAMPLES, _N_TRAVERSED, _N_STEPS = 10, 30, 8, 7
_N_EXPLAINED, _N_PARTS = 3, 10
# Traversals go beyond the values seen: within them a change is often too small for the eye.
_BEYOND = 2.0


class ModelView(Protocol):
    """What the report asks of a model; `sparsecode.model_view.ModelView` answers."""

    p: float

    def decode(self, codes: csr_array) -> NDArray[Any]:
        """Codes to rows."""

    def codes_at(self, X: NDArray[Any], p: float) -> csr_array:
        """Codes of rows, with the threshold that makes a share `p` of them zero."""

    def sample(self, n: int) -> NDArray[Any]:
        """Draw from the prior, and decode."""

    def costs(self, X: NDArray[Any]) -> dict[str, float]:
        """Rate and distortion, nats per row."""

    def recovery(self, codes: csr_array) -> tuple[NDArray[Any], NDArray[Any]]:
        """Inclusion probabilities of rows drawn from codes, and which latents the codes have."""

    def history(self) -> list[dict[str, Any]]:
        """Figures of each epoch."""


def reconstructions(
    view: ModelView, X: NDArray[Any], rows: NDArray[np.int64], style: PictureStyle
) -> Gallery:
    """Originals above what is left of them at the model's p, and with more and fewer zeros."""
    shown = np.arange(min(_N_SHOWN, len(X)))
    lines = [{"label": "original", "tiles": _tiles(style.images(X[shown]))}]
    scaled = X / np.float32(255) if X.dtype == np.uint8 else X
    for p in _several_p(view.p):
        codes = view.codes_at(X, p)
        decoded = view.decode(codes)
        explained = explained_variance(scaled, decoded)
        l0 = codes.nnz / codes.shape[0]
        label = f"p = {p:.4g}, {l0:.1f} non-zeros, explains {100 * explained:.1f} %"
        if p == view.p:
            label += " (as trained)"
        lines.append({"label": label, "tiles": _tiles(style.images(decoded[shown]))})
    text = (
        f"The first of {len(rows):,} rows drawn at random, and their codes at other thresholds: "
        "the model was trained for one p, and decodes more or fewer non-zeros without training."
    )
    return {"id": "reconstructions", "title": "Reconstructions", "text": text, "rows": lines}


def _several_p(p: float) -> list[float]:
    """With twice the non-zeros, as trained, and with a half, a quarter and an eighth of them."""
    return [1 - (1 - p) * factor for factor in (2.0, 1.0, 0.5, 0.25, 0.125) if (1 - p) * factor < 1]


def samples(view: ModelView, style: PictureStyle) -> Gallery:
    """Draw from the prior, and decode."""
    drawn = style.images(view.sample(_N_SAMPLES))
    text = "Decoded draws from the prior: independent latents, on with probability 1 - p."
    return {
        "id": "samples",
        "title": "Samples from the model",
        "text": text,
        "rows": [{"label": "", "tiles": _tiles(drawn)}],
    }


def traversals(
    view: ModelView, codes: SparseCodes, order: NDArray[np.int64], style: PictureStyle
) -> Gallery:
    """One row's latent taken from zero to its largest values, for the leading latents."""
    matrix, lines = codes.matrix.tocsc(), []
    for latent in order[:_N_TRAVERSED]:
        column = matrix[:, [latent]]
        if not column.nnz:
            continue
        # The row of median strength: a typical one for this latent.
        middle = np.argsort(np.abs(column.data), kind="stable")[column.nnz // 2]
        row, high = int(column.indices[middle]), float(np.percentile(column.data, 99)) * _BEYOND
        low = 0 if high > 0 else float(column.data.min()) * _BEYOND
        values = np.linspace(low, max(high, 0), _N_STEPS)
        steps = np.repeat(codes.matrix[[row]].toarray(), _N_STEPS, axis=0)
        steps[:, latent] = values
        tiles = _tiles(style.images(view.decode(csr_array(steps))))
        for each, value in zip(tiles, values, strict=True):
            each["caption"] = f"{value:.2f}"
        label = f"latent {latent}, in {codes.names[row]}"
        lines.append({"label": label, "latent": int(latent), "tiles": tiles})
    text = (
        "One latent set to values from zero to twice its 99th percentile, all others as they are."
    )
    return {"id": "traversals", "title": "Traversals", "text": text, "rows": lines}


def explained(
    view: ModelView,
    codes: SparseCodes,
    X: NDArray[Any] | None,
    rows: NDArray[np.int64],
    style: PictureStyle,
) -> Gallery:
    """Pictures as the sum of what their strongest latents change."""
    lines = []
    for i, row in enumerate(rows[:_N_EXPLAINED]):
        tiles = [] if X is None else [_tile(style.images(X[[i]])[0], "original")]
        lines.append(
            {"label": str(codes.names[row]), "tiles": tiles + _parts(view, codes, row, style)}
        )
    text = (
        f"What each latent changes, {style.change_colours}, the largest changes first, with its "
        "value. Their sum, from the decoder's empty picture on, is the reconstruction; exactly so "
        "for a linear decoder."
    )
    return {"id": "explained", "title": "Images as sums of latents", "text": text, "rows": lines}


def _parts(
    view: ModelView, codes: SparseCodes, row: np.int64, style: PictureStyle
) -> list[dict[str, Any]]:
    code = codes.matrix[[row]]
    whole, nothing = view.decode(code), view.decode(csr_array(code.shape, dtype=code.dtype))
    tiles = [
        _tile(style.images(whole)[0], f"decoded, {code.nnz} latents"),
        _tile(style.images(nothing)[0], "empty code"),
    ]
    if not code.nnz:
        return tiles
    change = whole - view.decode(without_entries(code, np.arange(code.nnz)))
    order = np.argsort(-np.square(change).sum(axis=1), kind="stable")[:_N_PARTS]
    for picture, entry in zip(style.changes(change[order]), order, strict=True):
        latent, value = int(code.indices[entry]), float(code.data[entry])
        part = _tile(picture, f"latent {latent}: {value:+.2f}", is_change=True)
        tiles.append({**part, "latent": latent})
    return tiles


def _tiles(images: NDArray[np.uint8]) -> list[dict[str, Any]]:
    return [_tile(image, "") for image in images]


def _tile(image: NDArray[np.uint8], caption: str, is_change: bool = False) -> dict[str, Any]:
    return {"uri": tile(image, is_change), "caption": caption}
