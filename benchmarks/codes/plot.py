"""The fronts: error against probe, one panel for each data set and point."""

import textwrap
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.codes.protocol import Family, Method, Point
from benchmarks.codes.table import select
from benchmarks.common import Row

_COLOURS: dict[Family, str] = {
    "ours": "#c1272d",
    "autoencoder": "#1f6fb4",
    "variational": "#6a9a1f",
    "classical": "#8a5fb0",
    "baseline": "#707070",
}
_NAMES: dict[Family, str] = {
    "ours": "sparsecode",
    "autoencoder": "sparse autoencoders",
    "variational": "variational",
    "classical": "matrix factorisation",
    "baseline": "baselines",
}
# A panel shows the coders that keep L0 (dense ones are in the table) up to so many times the
# median error and so far below the median probe, and names the others below.
_FAR, _FAR_BELOW = 3.0, 0.08
_L0_TOLERANCE = 1.2


def fronts(path: Path, rows: Sequence[Row], points: Sequence[Point]) -> None:
    """Draw the panels that have rows: means and SDs over seeds; better is up and to the left."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    panels = _panels(rows, points)
    names = list(dict.fromkeys(data for data, _ in panels))
    n_columns = max(sum(data == name for data, _ in panels) for name in names)
    figure, axes = plt.subplots(
        len(names), n_columns, figsize=(5.6 * n_columns, 4.9 * len(names)), squeeze=False
    )
    for axis in axes.flat:
        axis.set_visible(False)
    drawn: list[Any] = []
    for line, name in enumerate(names):
        of_name = [item for item in panels.items() if item[0][0] == name]
        for axis, ((_, point), by_method) in zip(axes[line], of_name, strict=False):
            axis.set_visible(True)
            pixels = next((rows for m, rows in by_method.items() if not m.reconstructs), None)
            shown = {m: r for m, r in by_method.items() if _is_shown(m, r, point)}
            drawn.append((axis, *_panel(axis, shown, pixels)))
            axis.set_title(f"{name}: {point.k} latents, {point.l0} non-zeros", loc="left")
    families = list(dict.fromkeys(m.family for by_method in panels.values() for m in by_method))
    figure.legend(
        handles=[
            plt.Line2D([], [], color=_COLOURS[f], marker="o", linestyle="", label=_NAMES[f])
            for f in families
        ],
        loc="lower center",
        ncols=len(families),
        title="mean ± SD over seeds",
        title_fontsize=9,
        frameon=False,
    )
    figure.tight_layout(rect=(0, 0.1 / len(names), 1, 1), h_pad=2.0, w_pad=2.0)
    figure.canvas.draw()
    for axis, named, notes in drawn:
        _label(axis, named, notes)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _panels(
    rows: Sequence[Row], points: Sequence[Point]
) -> dict[tuple[str, Point], dict[Method, list[Row]]]:
    found = {
        (data, point): select(rows, data, point)
        for data in dict.fromkeys(row["data"] for row in rows)
        for point in points
    }
    return {
        key: by_method
        for key, by_method in found.items()
        if any(_is_shown(method, rows, key[1]) for method, rows in by_method.items())
    }


def _is_shown(method: Method, rows: list[Row], point: Point) -> bool:
    is_sparse = np.mean([row["l0_mean"] for row in rows]) <= _L0_TOLERANCE * point.l0
    return method.reconstructs and method.per_point and bool(is_sparse)


def _panel(
    axis: Any, by_method: dict[Method, list[Row]], pixels: list[Row] | None
) -> tuple[dict[Method, Any], list[Any]]:
    """Draw the points; return those to name, and the notes that names must not cover."""
    summary = {method: _mean_sd(rows) for method, rows in by_method.items()}
    error, probe = np.median([mean for mean, _ in summary.values()], axis=0)
    near = {
        method: item
        for method, item in summary.items()
        if method.family == "ours"
        or (item[0][0] <= _FAR * error and item[0][1] >= probe - _FAR_BELOW)
    }
    _dress(axis, [mean[0] for mean, _ in near.values()])
    for method, (mean, sd) in near.items():
        is_ours = method.family == "ours"
        axis.errorbar(
            *mean,
            xerr=sd[0],
            yerr=sd[1],
            fmt="*" if is_ours else "o",
            markersize=15 if is_ours else 6,
            color=_COLOURS[method.family],
            markeredgecolor="white",
            elinewidth=1,
            capsize=2,
            zorder=3 if is_ours else 2,
        )
    notes = [_pixels_line(axis, pixels)] if pixels else []
    far = [
        f"{method.label} ({mean[0]:.3f}, {mean[1]:.3f})"
        for method, (mean, _) in summary.items()
        if method not in near
    ]
    if far:
        notes.append(_far_note(axis, far))
    return near, notes


def _dress(axis: Any, errors: list[float]) -> None:
    """Log errors, few ticks in plain figures, room for labels."""
    low, high = min(errors), max(errors)
    parts = (1, 1.5, 2, 3, 5, 7) if high > 3 * low else (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 4, 6, 8)
    steps = [m * 10.0**e for e in (-4, -3, -2, -1) for m in parts]
    ticks = [x for x in steps if low / 1.3 <= x <= high * 1.3]
    axis.set_xscale("log")
    axis.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axis.set_xticks([], minor=True)
    axis.margins(x=0.16, y=0.16)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="#eeeeee", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.set_xlabel("test MSE per pixel, log scale  (better: left)")
    axis.set_ylabel("linear probe  (better: up)")


def _pixels_line(axis: Any, rows: list[Row]) -> Any:
    level = float(np.mean([row["probe"] for row in rows]))
    axis.axhline(level, color=_COLOURS["baseline"], linewidth=0.8, linestyle=":", zorder=0)
    return axis.annotate(
        "raw pixels",
        (0, level),
        xycoords=("axes fraction", "data"),
        xytext=(3, 2),
        textcoords="offset points",
        ha="left",
        fontsize=8,
        color=_COLOURS["baseline"],
    )


def _far_note(axis: Any, names: list[str]) -> Any:
    return axis.text(
        0.99,
        0.01,
        textwrap.fill("not shown: " + ", ".join(names), 64),
        transform=axis.transAxes,
        ha="right",
        va="bottom",
        fontsize=7.5,
        color=_COLOURS["baseline"],
    )


def _mean_sd(rows: list[Row]) -> tuple[tuple[float, float], tuple[float, float]]:
    errors, probes = ([row[field] for row in rows] for field in ("mse", "probe"))
    sd = (np.std(errors, ddof=1), np.std(probes, ddof=1)) if len(rows) > 1 else (0.0, 0.0)
    return (float(np.mean(errors)), float(np.mean(probes))), (float(sd[0]), float(sd[1]))


def _label(axis: Any, summary: dict[Method, Any], notes: list[Any]) -> None:
    """Name each point, ours first, at the nearest of some places where the name hits nothing."""
    renderer = axis.figure.canvas.get_renderer()
    spots = axis.transData.transform([mean for mean, _ in summary.values()])
    taken = [_box(note, renderer) for note in notes]
    order = sorted(range(len(summary)), key=lambda i: list(summary)[i].family != "ours")
    for i in order:
        method = list(summary)[i]
        for distance, (dx, dy, ha, va) in product(_DISTANCES, _PLACES):
            text = _annotate(axis, method, summary[method][0], (dx * distance, dy * distance))
            text.set(ha=ha, va=va)
            box = _box(text, renderer).padded(1)
            if _is_free(box, axis.bbox, taken, np.delete(spots, i, axis=0)):
                taken.append(box)
                break
            text.remove()


def _annotate(axis: Any, method: Method, spot: tuple[float, float], offset: Any) -> Any:
    is_ours = method.family == "ours"
    line = {"arrowstyle": "-", "color": "#b0b0b0", "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3}
    return axis.annotate(
        method.label,
        spot,
        xytext=offset,
        textcoords="offset points",
        fontsize=10 if is_ours else 8.5,
        fontweight="bold" if is_ours else "normal",
        color=_COLOURS[method.family],
        arrowprops=line if np.hypot(*offset) > 1.5 * _DISTANCES[0] else None,
        zorder=4,
    )


def _box(text: Any, renderer: Any) -> Any:
    """Extent of the words, without the line to the point."""
    from matplotlib.text import Annotation, Text

    if isinstance(text, Annotation):
        text.update_positions(renderer)
    return Text.get_window_extent(text, renderer)


_DISTANCES = (8, 16, 26, 38, 52, 68, 86, 106, 130)
_PLACES = (
    (1, 0, "left", "center"),
    (-1, 0, "right", "center"),
    (0, 1, "center", "bottom"),
    (0, -1, "center", "top"),
    (0.7, 0.7, "left", "bottom"),
    (-0.7, 0.7, "right", "bottom"),
    (0.7, -0.7, "left", "top"),
    (-0.7, -0.7, "right", "top"),
)


def _is_free(box: Any, frame: Any, taken: list[Any], spots: np.ndarray) -> bool:
    inside = box.x0 >= frame.x0 and box.x1 <= frame.x1 and box.y0 >= frame.y0 and box.y1 <= frame.y1
    hits = any(box.padded(3).contains(*spot) for spot in spots)
    return inside and not hits and not any(box.overlaps(other) for other in taken)
