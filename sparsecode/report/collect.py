"""Everything that the page and the JSON show, as plain values."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecode._version import __version__
from sparsecode.codes import SparseCodes
from sparsecode.companions import Originals, PictureShape
from sparsecode.diagnostics import (
    Diagnostics,
    Drift,
    explained_variance_removed,
    reliability,
)
from sparsecode.report import galleries
from sparsecode.report.atlas import atlas
from sparsecode.report.galleries import ModelView
from sparsecode.report.pictures import PictureStyle

_SAMPLE_ROWS = 1000
# Importance decodes a row for each of its non-zeros: few rows of dense codes are enough work.
_DECODED_ROWS, _LEAST_ROWS = 60_000, 50
_SEED = 0


def collect(
    codes: SparseCodes,
    diagnostics: Diagnostics,
    *,
    title: str,
    view: ModelView | None = None,
    originals: Originals | None = None,
    picture_shape: PictureShape | None = None,
    drift: Drift | None = None,
) -> dict[str, Any]:
    """Collect the figures of a report.

    Parameters
    ----------
    codes : SparseCodes
    diagnostics : Diagnostics
        Of these codes.
    title : str
    view : ModelView, optional
        Without it, figures that need the model are left out, and `notes` says so.
    originals : Originals, optional
        Without it, figures that need the inputs are.
    picture_shape : tuple (h, w, c), optional
        Without it, no pictures are drawn.
    drift : Drift, optional
        Against the codes of other data.

    Returns
    -------
    dict
        For JSON: figures under the keys ``summary``, ``verdicts``, ``charts``, ``pairs``,
        ``model``, ``galleries``, ``atlas``, ``drift`` and ``notes``.
    """
    rng = np.random.default_rng(_SEED)
    rows = rng.permutation(len(codes))[:_SAMPLE_ROWS]
    X = None if originals is None else originals.rows(rows)
    style = _style(codes, rows, view, X, picture_shape)
    importance = None
    if view is not None and X is not None:
        unit = X / np.float32(255) if X.dtype == np.uint8 else X
        n = max(_LEAST_ROWS, int(_DECODED_ROWS / max(diagnostics.l0.mean(), 1)))
        importance = explained_variance_removed(codes.matrix[rows[:n]], unit[:n], view.decode)
    return {
        "title": title,
        "version": __version__,
        "notes": _notes(view, originals, style),
        "summary": list(diagnostics.summary().items()),
        "verdicts": [vars(verdict) for verdict in diagnostics.verdicts],
        "charts": _charts(diagnostics),
        "pairs": _pairs(diagnostics),
        "model": None if view is None else _model(view, codes, rows, X),
        "drift": None if drift is None else _drift(drift),
        "galleries": _galleries(codes, rows, view, X, style, diagnostics, importance),
        "atlas": atlas(
            codes, diagnostics, importance, originals, None if view is None else view.decode, style
        ),
    }


def _style(
    codes: SparseCodes,
    rows: NDArray[np.int64],
    view: ModelView | None,
    X: NDArray[Any] | None,
    shape: PictureShape | None,
) -> PictureStyle | None:
    if shape is None:
        return None
    if X is not None:
        return PictureStyle.of(X, shape)
    return None if view is None else PictureStyle.of(view.decode(codes.matrix[rows]), shape)


def _notes(
    view: ModelView | None, originals: Originals | None, style: PictureStyle | None
) -> list[str]:
    notes = []
    if view is None:
        notes.append(
            "Without the model (-m): no decoder pictures, reconstructions, samples, traversals, "
            "rate, distortion, calibration or training curves."
        )
    if originals is None:
        notes.append(
            "Without the inputs (--inputs): no originals, top-activating images, "
            "reconstructions or importance of latents."
        )
    if style is None and (view is not None or originals is not None):
        notes.append("The rows are not pictures of a known shape, so none are drawn.")
    return notes


def _charts(diagnostics: Diagnostics) -> dict[str, Any]:
    l0_counts, edges = diagnostics.l0_histogram()
    asked = None if diagnostics.p is None else diagnostics.n_latents * (1 - diagnostics.p)
    counts, value_edges = diagnostics.histograms
    return {
        "l0": {
            "counts": l0_counts.tolist(),
            "edges": edges.tolist(),
            "mean": float(diagnostics.l0.mean()),
            "asked": asked,
        },
        "frequency": [round(float(f), 5) for f in np.sort(diagnostics.frequency)[::-1]],
        "expected": None if diagnostics.p is None else 1 - diagnostics.p,
        "values": {"counts": counts.sum(axis=0).tolist(), "edges": value_edges.tolist()},
    }


def _pairs(diagnostics: Diagnostics) -> list[dict[str, Any]]:
    return [
        {"first": int(a), "second": int(b), "together": int(n), "correlation": round(float(r), 4)}
        for a, b, n, r in zip(*diagnostics.pairs, strict=True)
    ]


def _model(
    view: ModelView, codes: SparseCodes, rows: NDArray[np.int64], X: NDArray[Any] | None
) -> dict[str, Any]:
    curve = reliability(*view.recovery(codes.matrix[rows]))
    return {
        "costs": None if X is None else view.costs(X),
        "history": view.history(),
        "reliability": {
            "predicted": _known(curve.predicted),
            "observed": _known(curve.observed),
            "counts": curve.counts.tolist(),
            "error": curve.error,
        },
    }


def _drift(drift: Drift) -> dict[str, Any]:
    worst = np.argsort(-np.abs(drift.frequency_change), kind="stable")[:20]
    return {
        "sentence": str(drift),
        "has_drifted": drift.has_drifted,
        "l0_statistic": drift.l0_statistic,
        "l0_p_value": drift.l0_p_value,
        "largest": [
            {
                "latent": int(j),
                "change": round(float(drift.frequency_change[j]), 5),
                "p_value": float(drift.p_values[j]),
                "drifted": bool(drift.drifted[j]),
            }
            for j in worst
        ],
    }


def _galleries(
    codes: SparseCodes,
    rows: NDArray[np.int64],
    view: ModelView | None,
    X: NDArray[Any] | None,
    style: PictureStyle | None,
    diagnostics: Diagnostics,
    importance: NDArray[np.float64] | None,
) -> list[galleries.Gallery]:
    if view is None or style is None:
        return []
    leading = np.argsort(-np.nan_to_num(diagnostics.energy if importance is None else importance))
    found = [] if X is None else [galleries.reconstructions(view, X, rows, style)]
    return [
        *found,
        galleries.explained(view, codes, X, rows, style),
        galleries.traversals(view, codes, leading, style),
        galleries.samples(view, style),
    ]


def _known(values: NDArray[np.float64]) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]
