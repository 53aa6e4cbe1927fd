"""Where ours stands at each point: ahead of the best rival, behind it, or level with it.

Rivals are coders that keep L0: dense ones have more numbers to a row. For the error they are those
that code with an encoder, as ours do; refined and exchanged codes stand beside dictionary learning
with OMP. A difference of means is one where it exceeds the SD over seeds of either side, else they
are level.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.codes.methods import METHODS
from benchmarks.codes.protocol import Method, Point
from benchmarks.codes.table import Cells, keeps_l0, select
from benchmarks.common import Row, mean_sd

_AMORTISED = ("autoencoder", "variational")


@dataclass(frozen=True)
class Contest:
    """One of ours, and whom it has to beat at what.

    Attributes
    ----------
    ours : str
        Name of the method.
    field : str
        What is compared, in the rows.
    digits : int
        As it is printed.
    less_is_better : bool
    families : tuple of str
        Of the rivals.
    """

    ours: str
    field: str
    digits: int
    less_is_better: bool
    families: tuple[str, ...]

    @property
    def has_others(self) -> bool:
        """Whether some rivals are of our own making."""
        return any(m.family in self.families and not m.is_published for m in METHODS.values())

    def is_rival(self, method: Method, rows: Sequence[Row], point: Point) -> bool:
        """Whether a method is of these families and has no more non-zeros than were asked for."""
        return method.family in self.families and keeps_l0(rows, point)

    def lead(self, ours: Sequence[Row], rival: Sequence[Row]) -> float:
        """By how much ours are better, on average."""
        difference = np.mean(self.values(ours)) - np.mean(self.values(rival))
        return float(-difference if self.less_is_better else difference)

    def values(self, rows: Sequence[Row]) -> list[float]:
        """Return what is compared, for each seed."""
        return [row[self.field] for row in rows]


CONTESTS = {
    "error": Contest("sparsecode", "mse", 4, True, _AMORTISED),
    "probe": Contest("sparsecode", "probe", 4, False, (*_AMORTISED, "classical")),
    "error, refined": Contest("sparsecode_refined", "mse", 5, True, ("classical",)),
    "error, 4 exchanged": Contest("sparsecode_exchanged", "mse", 5, True, ("classical",)),
}


def standings(rows: Sequence[Row], points: Sequence[Point]) -> Iterator[tuple[str, list[Cells]]]:
    """Table of each contest that has rows, a line for each data set and point."""
    places = [(data, p) for data in dict.fromkeys(row["data"] for row in rows) for p in points]
    for title, contest in CONTESTS.items():
        lines = [_line(contest, rows, data, point) for data, point in places]
        if table := [line for line in lines if line]:
            yield f"Where sparsecode stands: {title}", table


def _line(contest: Contest, rows: Sequence[Row], data: str, point: Point) -> Cells:
    shown = select(rows, data, point)
    ours = shown.pop(METHODS[contest.ours], [])
    rivals = {m: r for m, r in shown.items() if contest.is_rival(m, r, point)}
    published = {m: r for m, r in rivals.items() if m.is_published}
    if not ours or not published:
        return {}
    return {
        "point": f"{data} {point.k}, {point.l0}",
        "ours": mean_sd(contest.values(ours), contest.digits),
        **_beside(contest, ours, published, "best published"),
        **(_beside(contest, ours, rivals, "best of any making") if contest.has_others else {}),
    }


def _beside(
    contest: Contest, ours: Sequence[Row], rivals: dict[Method, list[Row]], title: str
) -> Cells:
    best = min(rivals, key=lambda method: contest.lead(ours, rivals[method]))
    rows = rivals[best]
    few = f", n = {len(rows)}" if len(rows) < len(ours) else ""
    return {
        title: f"{mean_sd(contest.values(rows), contest.digits)} ({best.label}{few})",
        f"{title}: ours are": verdict(contest, ours, rows),
    }


def verdict(contest: Contest, ours: Sequence[Row], rival: Sequence[Row]) -> str:
    """Say who is ahead by how much, ± the standard error of the difference."""
    sides = [contest.values(ours), contest.values(rival)]
    lead = contest.lead(ours, rival)
    spreads = [np.std(side, ddof=1) if len(side) > 1 else 0.0 for side in sides]
    error = np.sqrt(sum(s**2 / len(side) for s, side in zip(spreads, sides, strict=True)))
    word = "level" if abs(lead) <= max(spreads) else "ahead" if lead > 0 else "behind"
    return f"{word}, {lead:+.{contest.digits}f} ± {error:.{contest.digits}f}"
