"""What a row costs, drawn: against rows, latents and density, beside the limit of arithmetic.

python -m benchmarks.speed.plot

From the root of the repository. Draws the rows that `benchmarks.speed.transform` and
`benchmarks.speed.fit` left in benchmarks/results/speed.jsonl, to docs/images/speed.png.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, Row, RowFile, print_console

_RED, _GREY, _BLUE = "#c1272d", "#707070", "#1f6fb4"
_OUTPUT = Path("docs/images/speed.png")


def draw(path: Path, rows: Sequence[Row]) -> None:
    """Draw the four panels."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(14.5, 3.7))
    for axis, by in zip(axes, ("rows", "latents", "density"), strict=False):
        shown = sorted(_of(rows, "transform", by), key=lambda row: row[by])
        x = [row[by] for row in shown]
        _line(axis, x, [_per_row(row["transform_s"], row["n_rows"]) for row in shown], _RED)
        products = [_per_row(row["chunked_s"], row["n_rows"]) for row in shown]
        _line(axis, x, products, _GREY, style="--")
        axis.set_title(f"transform against {by}", loc="left", fontsize=10)
        axis.set_xlabel(by)
    shown = sorted(_of(rows, "fit", "rows"), key=lambda row: row["rows"])
    epochs = [_per_row(row["epoch_s"], row["rows"]) for row in shown]
    _line(axes[3], [row["rows"] for row in shown], epochs, _BLUE)
    axes[3].set_title("an epoch of training against rows", loc="left", fontsize=10)
    axes[3].set_xlabel("rows")
    axes[0].set_ylabel("microseconds per row")
    for axis in axes:
        axis.set_xscale("log")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    axes[1].set_yscale("log")
    for axis in axes[[0, 2, 3]]:
        axis.set_ylim(bottom=0)
    axes[0].legend(
        handles=[
            plt.Line2D([], [], color=_RED, marker="o", label="transform, median and quartiles"),
            plt.Line2D([], [], color=_GREY, linestyle="--", label="its products alone"),
        ],
        frameon=False,
        fontsize=9,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _line(
    axis: Any,
    x: Sequence[float],
    values: Sequence[Sequence[float]],
    colour: str,
    style: str = "-",
) -> None:
    """Draw medians, and, in a full line, a band between the quartiles."""
    middle, low, high = np.array(values).T
    axis.plot(x, middle, style, color=colour, marker="o" if style == "-" else None, markersize=4)
    if style == "-":
        axis.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


def _per_row(seconds: Sequence[float], n_rows: int) -> list[float]:
    return [value / n_rows * 1e6 for value in seconds]


def _of(rows: Sequence[Row], benchmark: str, comparison: str) -> list[Row]:
    key = (benchmark, comparison)
    found = [row for row in rows if (row["benchmark"], row["comparison"]) == key]
    if not found:
        raise SystemExit(f"no rows yet: run benchmarks.speed.{benchmark} --only {comparison}")
    return found


def main() -> None:
    """Draw what has been measured."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--rows", type=Path, default=RESULTS / "speed.jsonl")
    options.add_argument("--out", type=Path, default=_OUTPUT)
    args = options.parse_args()
    draw(args.out, RowFile(args.rows, fresh=False).rows)
    print_console(f"Picture: {args.out}")


if __name__ == "__main__":
    main()
