"""The report's figures with matplotlib, which is an extra: ``pip install 'sparsecode[report]'``.

Every function returns a new `matplotlib.figure.Figure` and touches no global state; a notebook
shows it, and `save` writes it.
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from sparsecode.diagnostics.reconstruction import Reliability
from sparsecode.diagnostics.summary import Diagnostics
from sparsecode.errors import OutputError, RefusedError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sparsecode.probe import ProbeResult

_BLUE, _ORANGE, _GREY = "#2b6cb0", "#c05621", "#8a8f98"
_MATRIX_CLASSES = 30
_CURVES = {
    "rate": "rate, nats per row",
    "distortion": "distortion, nats per row",
    "density": "share of open gates",
    "dead": "latents that did not fire",
}


def new_figure(width: float = 6.0, height: float = 3.5) -> "Figure":
    """Make an empty figure of a size in inches; says which extra is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RefusedError("figures need matplotlib: pip install 'sparsecode[report]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def check_path(path: str | PathLike[str]) -> None:
    """Refuse a picture that could not be drawn, before any work is done.

    Raises
    ------
    RefusedError
        No such format, or no matplotlib.
    """
    known = new_figure().canvas.get_supported_filetypes()
    if Path(path).suffix[1:].lower() not in known:
        raise RefusedError(
            f"{path} cannot be drawn: its extension must be one of {', '.join(known)}"
        )


def save(figure: "Figure", path: str | PathLike[str]) -> None:
    """Write a figure in the format that the extension names.

    Raises
    ------
    RefusedError
        No such format.
    OutputError
        The file could not be written.
    """
    try:
        figure.savefig(path, dpi=150, format=Path(path).suffix[1:].lower() or "png")
    except ValueError as error:
        raise RefusedError(f"{path} cannot be drawn: {error}") from error
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def l0_distribution(diagnostics: Diagnostics) -> "Figure":
    """Histogram of the non-zeros per row."""
    figure = new_figure()
    _draw_l0(figure.subplots(), diagnostics)
    return figure


def activation_frequencies(diagnostics: Diagnostics) -> "Figure":
    """Activation frequency of every latent, in falling order."""
    figure = new_figure()
    _draw_frequencies(figure.subplots(), diagnostics)
    return figure


def values(diagnostics: Diagnostics) -> "Figure":
    """Histogram of all non-zero values."""
    figure = new_figure()
    _draw_values(figure.subplots(), diagnostics)
    return figure


def sparsity(diagnostics: Diagnostics) -> "Figure":
    """Draw the three of them side by side."""
    figure = new_figure(12, 3.2)
    for axes, draw in zip(
        figure.subplots(1, 3), (_draw_l0, _draw_frequencies, _draw_values), strict=True
    ):
        draw(axes, diagnostics)
    return figure


def _draw_l0(axes: Any, diagnostics: Diagnostics) -> None:
    l0 = diagnostics.l0
    axes.stairs(*diagnostics.l0_histogram(), fill=True, color=_BLUE)
    axes.axvline(l0.mean(), color=_ORANGE, label=f"mean {l0.mean():.1f}")
    if diagnostics.p is not None:
        asked = diagnostics.n_latents * (1 - diagnostics.p)
        axes.axvline(asked, color=_GREY, ls="--", label=f"asked {asked:.1f}")
    axes.legend(frameon=False)
    _label(axes, "non-zeros per row", "rows")


def _draw_frequencies(axes: Any, diagnostics: Diagnostics) -> None:
    axes.plot(np.sort(diagnostics.frequency)[::-1], color=_BLUE)
    if diagnostics.p is not None:
        axes.axhline(1 - diagnostics.p, color=_GREY, ls="--", label="1 - p")
        axes.legend(frameon=False)
    axes.set_ylim(bottom=0)
    _label(axes, "latents, the most frequent first", "share of rows in which it is on")


def _draw_values(axes: Any, diagnostics: Diagnostics) -> None:
    counts, edges = diagnostics.histograms
    axes.stairs(counts.sum(0), edges, fill=True, color=_BLUE)
    _label(axes, "value where not zero", "codes")


def label_association(diagnostics: Diagnostics, n_latents: int = 30) -> "Figure":
    """How often the latents that say most about the label are on for each label."""
    if diagnostics.by_label is None or diagnostics.information is None:
        raise RefusedError("there are no labels; give them to diagnose")
    best = np.argsort(-diagnostics.information, kind="stable")[:n_latents]
    classes, _, shares = diagnostics.by_label
    figure = new_figure(7, 1 + 0.25 * min(len(classes), _MATRIX_CLASSES))
    axes = _axes(figure, "latent, the most informative first", "label")
    image = axes.imshow(shares[best, :_MATRIX_CLASSES].T, aspect="auto", cmap="Blues", vmin=0)
    axes.set_xticks(range(len(best)), [str(latent) for latent in best], rotation=90)
    axes.set_yticks(range(min(len(classes), _MATRIX_CLASSES)), _names(classes))
    figure.colorbar(image, label="share of rows with it on")
    return figure


def reliability_curve(curve: Reliability) -> "Figure":
    """Predicted against observed probabilities."""
    figure = new_figure(4, 4)
    axes = _axes(figure, "predicted probability", "share that was on")
    axes.plot([0, 1], [0, 1], color=_GREY, ls="--")
    axes.plot(curve.predicted, curve.observed, "o-", color=_BLUE)
    axes.set_title(f"expected calibration error {curve.error:.3f}", fontsize=10)
    return figure


def training_curves(history: Sequence[Any]) -> "Figure":
    """Rate, distortion, density and dead latents of each epoch of an estimator's ``history_``."""
    if not history:
        raise RefusedError("the history is empty; the model was not trained here")
    figure = new_figure(8, 5)
    epochs = [record.epoch for record in history]
    panels = figure.subplots(2, 2, sharex=True).flat
    for axes, (name, title) in zip(panels, _CURVES.items(), strict=True):
        axes.plot(epochs, [getattr(record, name) for record in history], ".-", color=_BLUE)
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def pictures(
    images: ArrayLike, columns: int = 10, titles: Sequence[str] = (), signed: bool = False
) -> "Figure":
    """Pictures in a grid.

    Parameters
    ----------
    images : array-like of shape (n, h, w) or (n, h, w, c)
    columns : int, default=10
    titles : sequence of str, optional
    signed : bool, default=False
        Pictures of changes, red up and blue down, white for none.
    """
    images = np.asarray(images, dtype=np.float64)
    if images.ndim not in (3, 4) or not len(images):
        raise RefusedError(f"images have shape {images.shape}; (n, h, w) or (n, h, w, c) is needed")
    images = images[..., 0] if images.ndim == 4 and images.shape[3] == 1 else images
    rows = -(-len(images) // columns)
    figure = new_figure(columns, 1.15 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    size = np.abs(images).max() or 1.0
    style: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": size}
    if signed:
        style = {"cmap": "RdBu_r", "vmin": -size, "vmax": size}
        images = images if images.ndim == 3 else (images / size + 1) / 2
    for i, axes in enumerate(grid.flat):
        axes.axis("off")
        if i < len(images):
            axes.imshow(images[i], interpolation="nearest", **style)
            if titles:
                axes.set_title(titles[i], fontsize=7)
    return figure


def probe_scores(result: "ProbeResult") -> "Figure":
    """Scores of codes and baselines, few labels, k-sparse probes and the confusion matrix."""
    has_classes = result.confusion is not None
    figure = new_figure(10 if has_classes else 8, 6)
    first, second, third, *rest = figure.subplots(2, 2).flat
    shown = [result.codes, *result.baselines]
    _bars(first, result.metric, [row.name for row in shown], [row.linear for row in shown])
    few = result.few_labels
    second.errorbar([row.n_labels for row in few], [row.mean for row in few],
                    [np.nan_to_num(row.sd) for row in few], fmt="o-", color=_BLUE)  # fmt: skip
    _label(second, "labels", result.metric)
    second.set_xscale("log")
    sizes, scores = zip(*result.k_sparse, strict=True)
    third.plot(sizes, [score.value for score in scores], "o-", color=_BLUE)
    _label(third, "best latents", result.metric)
    if result.confusion is None or result.classes is None:
        rest[0].axis("off")
    else:
        _confusion(rest[0], result.confusion, _names(result.classes))
    return figure


def _bars(axes: Any, metric: str, names: list[str], scores: list[Any]) -> None:
    values = [score.value for score in scores]
    errors = [[s.value - s.low for s in scores], [s.high - s.value for s in scores]]
    axes.barh(names, values, xerr=np.maximum(errors, 0), color=[_BLUE] + [_GREY] * len(names))
    axes.invert_yaxis()
    _label(axes, f"linear {metric}", "")


def _confusion(axes: Any, confusion: Any, names: list[str]) -> None:
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)
    if len(names) <= _MATRIX_CLASSES:
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")


def _axes(figure: "Figure", x: str, y: str) -> Any:
    axes = figure.subplots()
    _label(axes, x, y)
    return axes


def _label(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)


def _names(classes: Any) -> list[str]:
    return [str(name)[:20] for name in classes[:_MATRIX_CLASSES]]
