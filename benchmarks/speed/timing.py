"""What the speed benchmarks share: timings taken in turn, the limit of arithmetic, rows, tables.

Machines are shared and clocks vary, so rivals are timed in turn within one process and compared
by their ratio in each round; the table gives the median and the quartiles of these.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import Row, RowFile, parser, print_notes, print_table

_PRODUCT_ROUNDS = 30


@dataclass(frozen=True)
class Timings:
    """Seconds of rivals that took turns, one entry a round.

    Attributes
    ----------
    seconds : mapping of str to ndarray of shape (rounds,)
    """

    seconds: Mapping[str, NDArray[np.float64]]

    def ratio(self, name: str, rival: str) -> tuple[float, float, float]:
        """Median and quartiles of ``name`` / ``rival`` over rounds."""
        return _median_and_quartiles(self.seconds[name] / self.seconds[rival])

    def row(self) -> Row:
        """Fields ``<name>_s`` with median and quartiles, and the number of rounds."""
        rounds = {len(values) for values in self.seconds.values()}
        summary = {
            f"{name}_s": _median_and_quartiles(values) for name, values in self.seconds.items()
        }
        return {"n": max(rounds), **summary}


def _median_and_quartiles(values: NDArray[np.float64]) -> tuple[float, float, float]:
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return float(middle), float(low), float(high)


def in_turn(rivals: Mapping[str, Callable[[], object]], rounds: int) -> Timings:
    """Time each rival once a round, after one call of each that does not count."""
    for function in rivals.values():
        function()
    results = [once(rivals) for _ in range(rounds)]
    return Timings(
        {name: np.concatenate([each.seconds[name] for each in results]) for name in rivals}
    )


def once(rivals: Mapping[str, Callable[[], object]]) -> Timings:
    """Time one call of each rival."""
    seconds = {}
    for name, function in rivals.items():
        begin = time.perf_counter()
        function()
        seconds[name] = np.array([time.perf_counter() - begin])
    return Timings(seconds)


def product_rate(n: int, d: int, k: int, dtype: torch.dtype = torch.float32) -> float:
    """Multiply-adds per second of the product (n, d) @ (d, k): the best of some rounds."""
    a, b = torch.randn(n, d).to(dtype), torch.randn(d, k).to(dtype)
    timings = in_turn({"product": lambda: a @ b}, _PRODUCT_ROUNDS)
    return n * d * k / float(timings.seconds["product"].min())


# -- rows and tables -----------------------------------------------------------------------------


def options(doc: str | None) -> argparse.ArgumentParser:
    """Options of every speed benchmark."""
    result = parser(doc, "speed")
    result.add_argument("--threads", type=int, help="torch threads; by default torch's own choice")
    result.add_argument("--rounds", type=int, default=7, help="rounds in which rivals take turns")
    result.add_argument("--only", nargs="+", help="measure and show these comparisons only")
    return result


def open_rows(args: argparse.Namespace, benchmark: str) -> RowFile:
    """Open the file of all speed benchmarks; ``--fresh`` drops the rows of this one alone."""
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.fresh:
        kept = [
            row
            for row in RowFile(args.rows, fresh=False).rows
            if row["benchmark"] != benchmark or (args.only and row["comparison"] not in args.only)
        ]
        args.rows.write_text("".join(json.dumps(row) + "\n" for row in kept))
    return RowFile(args.rows, fresh=False)


def spread(values: Sequence[float], digits: int = 3) -> str:
    """``median (quartile to quartile)``."""
    middle, low, high = values
    return f"{middle:.{digits}g} ({low:.{digits}g} to {high:.{digits}g})"


def show(title: str, rows: Sequence[Row], cells: Callable[[Row], Mapping[str, str]]) -> None:
    """Print one comparison."""
    if rows:
        print_table(title, [cells(row) for row in rows])
        print_notes((), rows)
        print()


def wanted(args: argparse.Namespace, comparisons: Mapping[str, object]) -> list[str]:
    """Names of the comparisons asked for."""
    unknown = set(args.only or ()) - set(comparisons)
    if unknown:
        raise SystemExit(f"--only knows {', '.join(comparisons)}; not {', '.join(unknown)}")
    return [name for name in comparisons if not args.only or name in args.only]
