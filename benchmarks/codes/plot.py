"""The fronts: error against probe, one panel for each data set and point."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.codes.methods import METHODS
from benchmarks.codes.protocol import Family, Method, Point
from benchmarks.codes.table import keeps_l0, select
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
_SHAPES = ("o", "s", "D", "^", "v", "<", ">", "p", "h")
_OUR_SHAPES = ("*", "P", "X", "d")
_LEGEND_INCHES = 1.85
# Height of a line of a note, as a part of the panel.
_NOTE_LINE = 0.04


def fronts(path: Path, rows: Sequence[Row], points: Sequence[Point]) -> None:
    """Draw the panels that have rows: means and SDs over seeds; better is up and to the left."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    panels = _panels(rows, points)
    names = list(dict.fromkeys(data for data, _ in panels))
    n_columns = max(sum(data == name for data, _ in panels) for name in names)
    figure, axes = plt.subplots(
        len(names),
        n_columns,
        figsize=(5.0 * n_columns, 4.4 * len(names) + _LEGEND_INCHES),
        squeeze=False,
    )
    for axis in axes.flat:
        axis.set_visible(False)
    drawn: set[Method] = set()
    for line, name in enumerate(names):
        of_name = [item for item in panels.items() if item[0][0] == name]
        for axis, ((_, point), by_method) in zip(axes[line], of_name, strict=False):
            axis.set_visible(True)
            pixels = next((rows for m, rows in by_method.items() if not m.reconstructs), None)
            shown = {m: r for m, r in by_method.items() if _is_shown(m, r, point)}
            drawn |= set(_panel(axis, shown, pixels))
            axis.set_title(f"{name}: {point.k} latents, {point.l0} non-zeros", loc="left")
    height = _LEGEND_INCHES / figure.get_figheight()
    _legends(figure, [method for method in METHODS.values() if method in drawn], height)
    figure.text(0.99, 0.01, "mean ± SD over seeds", ha="right", va="bottom", fontsize=9)
    figure.tight_layout(rect=(0, height, 1, 1), h_pad=2.0, w_pad=2.0)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _legends(figure: Any, methods: Sequence[Method], top: float) -> None:
    """Name the marks, a column for each family."""
    import matplotlib.pyplot as plt

    families = [family for family in _NAMES if any(m.family == family for m in methods)]
    for i, family in enumerate(families):
        handles = [
            plt.Line2D([], [], linestyle="", label=method.label, **_mark(method))
            for method in methods
            if method.family == family
        ]
        figure.legend(
            handles=handles,
            title=_NAMES[family],
            loc="upper left",
            bbox_to_anchor=((i + 0.08) / len(families), top),
            alignment="left",
            handletextpad=0.3,
            fontsize=9,
            frameon=False,
        )


def _mark(method: Method) -> dict[str, Any]:
    """Colour by family, shape by place in it; ours are larger."""
    peers = [other for other in METHODS.values() if other.family == method.family]
    is_ours = method.family == "ours"
    shapes = _OUR_SHAPES if is_ours else _SHAPES
    shape = shapes[peers.index(method) % len(shapes)]
    return {
        "marker": shape,
        "markersize": 15 if shape == "*" else 9 if is_ours else 7,
        "color": _COLOURS[method.family],
        "markeredgecolor": "white",
        "markeredgewidth": 0.7,
    }


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
    return method.reconstructs and method.per_point and keeps_l0(rows, point)


def _panel(
    axis: Any, by_method: dict[Method, list[Row]], pixels: list[Row] | None
) -> Sequence[Method]:
    """Draw the points; return whose they are."""
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
        order = 3 if method.family == "ours" else 2
        bars = {"elinewidth": 1, "capsize": 2, "zorder": order}
        axis.errorbar(*mean, xerr=sd[0], yerr=sd[1], linestyle="", **bars, **_mark(method))
    if pixels:
        _pixels_line(axis, pixels)
    far = [
        f"{method.label} ({mean[0]:.3f}, {mean[1]:.3f})"
        for method, (mean, _) in summary.items()
        if method not in near
    ]
    if far:
        _far_note(axis, far)
    return list(near)


def _dress(axis: Any, errors: list[float]) -> None:
    """Log errors, few ticks in plain figures."""
    low, high = min(errors), max(errors)
    parts = (1, 1.5, 2, 3, 5, 7) if high > 3 * low else (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 4, 6, 8)
    steps = [m * 10.0**e for e in (-4, -3, -2, -1) for m in parts]
    ticks = [x for x in steps if low / 1.3 <= x <= high * 1.3]
    axis.set_xscale("log")
    axis.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axis.set_xticks([], minor=True)
    axis.margins(x=0.08, y=0.1)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="#eeeeee", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.set_xlabel("test MSE per pixel, log scale  (better: left)")
    axis.set_ylabel("linear probe  (better: up)")


def _pixels_line(axis: Any, rows: list[Row]) -> None:
    level = float(np.mean([row["probe"] for row in rows]))
    axis.axhline(level, color=_COLOURS["baseline"], linewidth=0.8, linestyle=":", zorder=0)
    axis.annotate(
        "raw pixels",
        (0, level),
        xycoords=("axes fraction", "data"),
        xytext=(3, 2),
        textcoords="offset points",
        ha="left",
        fontsize=8,
        color=_COLOURS["baseline"],
    )


def _far_note(axis: Any, names: list[str]) -> None:
    """Name what is not drawn, below all points."""
    text = textwrap.fill("not shown: " + ", ".join(names), 64)
    bottom, top = axis.get_ylim()
    room = _NOTE_LINE * (1 + text.count("\n")) * (top - bottom)
    axis.set_ylim(bottom - room, top)
    axis.text(
        0.99,
        0.01,
        text,
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
