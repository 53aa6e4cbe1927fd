"""Zeros asked for against zeros got on rows that the model has not seen.

Both posteriors, five values of p, MNIST, Fashion-MNIST, scikit-learn's digits, and 1,000 rows of
the first two, whose codes are counted on all 10,000 test rows. On small data each line is the mean
of 5 fits with other rows and another seed; on 60,000 rows it is one fit. The promise is
``abs(zeros - p) <= 0.01`` in every line of the table; the exit code is 1 where one breaks it.

    python benchmarks/calibration.py --data-dir ../shared/data
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from common import (
    DataSet,
    Row,
    RowFile,
    export,
    load_fashion,
    load_mnist,
    load_small_digits,
    mean_sd,
    parser,
    print_console,
    print_notes,
    print_table,
    row_l0,
)

from sparsecode import SparseVAETransformer
from sparsecode.calibration import n_held_out
from sparsecode.gate import PosteriorName

SPIKE_WEIGHTS = (0.5, 0.8, 0.9, 0.95, 0.98)
POSTERIORS: tuple[PosteriorName, ...] = ("spike_slab", "gaussian")
SMALL_ROWS = 1000
N_SEEDS = 5
TOLERANCE = 0.01
N_LATENTS, N_LATENTS_DIGITS = 256, 64
LARGE_EPOCHS = {"spike_slab": 3, "gaussian": 2}
NOTE = (
    "Zeros: fraction of exact zeros in the codes of the test rows, mean ± SD over the fits; worst: "
    "the largest error of a single fit. SE: standard error of one fit, from the rows tested and "
    "those that set the threshold, both taken as independent draws: the error that a perfect "
    "calibration of as many rows would still make. L0: non-zeros per row. "
    f"{N_LATENTS} latents ({N_LATENTS_DIGITS} for the digits); the estimator's defaults, but "
    f"{LARGE_EPOCHS['spike_slab']} epochs (spike_slab) and {LARGE_EPOCHS['gaussian']} (gaussian) "
    "on 60,000 rows to save time."
)


@dataclass(frozen=True)
class Case:
    """A data set of the table, loaded for one seed when it is needed."""

    load: Callable[[int], DataSet]
    n_latents: int = N_LATENTS
    is_large: bool = False

    @property
    def seeds(self) -> range:
        """Seeds of the rows and of the fit."""
        return range(1 if self.is_large else N_SEEDS)


def cases(data_dir: Path, size: str) -> Iterator[Case]:
    """Small data first: they are quick, and hardest to calibrate."""
    mnist, fashion = cache(partial(load_mnist, data_dir)), cache(partial(load_fashion, data_dir))
    if size != "large":
        yield Case(load_small_digits, N_LATENTS_DIGITS)
        yield Case(lambda seed: mnist().subset(SMALL_ROWS, seed))
        yield Case(lambda seed: fashion().subset(SMALL_ROWS, seed))
    if size != "small":
        yield Case(lambda _: mnist(), is_large=True)
        yield Case(lambda _: fashion(), is_large=True)


def measure(data: DataSet, case: Case, posterior: PosteriorName, p: float, seed: int) -> Row:
    max_iter: Any = LARGE_EPOCHS[posterior] if case.is_large else "auto"
    estimator = SparseVAETransformer(
        case.n_latents, p, posterior=posterior, max_iter=max_iter, random_state=seed
    )
    start = time.perf_counter()
    estimator.fit(data.train)
    seconds = time.perf_counter() - start
    l0 = row_l0(estimator.transform(data.test))
    spread = float(l0.std() / case.n_latents)
    n_threshold = n_held_out(len(data.train), estimator.validation_fraction) or len(data.train)
    return {
        "zeros": float(1 - l0.mean() / case.n_latents),
        "standard_error": spread * float(np.sqrt(1 / len(l0) + 1 / n_threshold)),
        "l0": float(l0.mean()),
        "density_sd": spread,
        "threshold_rows": n_threshold,
        "epochs": estimator.n_iter_,
        "seconds": seconds,
        "note": data.note,
    }


def run(args: argparse.Namespace) -> list[list[Row]]:
    """Measure what is missing; return the fits of each line of the table."""
    file, lines = RowFile(args.rows, args.fresh), []
    for case in cases(args.data_dir, args.size):
        fits: dict[tuple[PosteriorName, float], list[Row]] = {}
        for seed in case.seeds:
            data = case.load(seed)
            for posterior, p in product(POSTERIORS, SPIKE_WEIGHTS):
                key = {"data": data.name, "rows": len(data.train), "posterior": posterior}
                key |= {"p": p, "seed": seed}
                row = file.get(key, partial(measure, data, case, posterior, p, seed))
                fits.setdefault((posterior, p), []).append(row)
        lines += fits.values()
    return lines


def table_row(rows: list[Row]) -> dict[str, str]:
    first = rows[0]
    broken = abs(error(rows)) > TOLERANCE
    return {
        "data": first["data"].split(",")[0],
        "rows": f"{first['rows']:,}",
        "posterior": first["posterior"],
        "p": f"{first['p']:g}",
        "zeros": mean_sd([row["zeros"] for row in rows], 4),
        "error": f"{error(rows):+.4f}" + (" !" if broken else ""),
        "worst": f"{max((row['zeros'] - row['p'] for row in rows), key=abs):+.4f}",
        "SE": f"{mean(row['standard_error'] for row in rows):.4f}",
        "L0": f"{mean(row['l0'] for row in rows):.1f}",
        "fit, s": f"{mean(row['seconds'] for row in rows):.0f}",
    }


def error(rows: list[Row]) -> float:
    return mean(row["zeros"] - row["p"] for row in rows)


def verdict(lines: list[list[Row]]) -> str:
    worst = max(lines, key=lambda rows: abs(error(rows)))
    broken = sum(abs(error(rows)) > TOLERANCE for rows in lines)
    held = "every line within" if broken == 0 else f"{broken} beyond"
    fits = [abs(row["zeros"] - row["p"]) for rows in lines for row in rows]
    return (
        f"{len(lines)} lines: max |zeros - p| = {abs(error(worst)):.4f} ({worst[0]['data']}, "
        f"{worst[0]['posterior']}, p={worst[0]['p']:g}), {held} {TOLERANCE:g}. "
        f"{len(fits)} fits: {sum(fit > TOLERANCE for fit in fits)} beyond, at most {max(fits):.4f}."
    )


def main() -> int:
    options = parser(__doc__, "calibration")
    options.add_argument(
        "--size", choices=("all", "small", "large"), default="all", help="which data sets"
    )
    args = options.parse_args()
    lines = run(args)
    rows = [row for fits in lines for row in fits]
    print_table("Zeros asked for and got on held-out rows", [table_row(fits) for fits in lines])
    print_notes((NOTE, *sorted({row["note"] for row in rows})), rows)
    print_console(verdict(lines))
    export(args.out, rows)
    return int(any(abs(error(fits)) > TOLERANCE for fits in lines))


if __name__ == "__main__":
    sys.exit(main())
