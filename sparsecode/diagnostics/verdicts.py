"""Verdicts in words: one figure, what it should be, and whether it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Status = Literal["good", "fair", "poor"]


@dataclass(frozen=True)
class Verdict:
    """What to think of one figure.

    Attributes
    ----------
    name : str
    status : {"good", "fair", "poor"}
    finding : str
        The figure, in a sentence.
    rule : str
        The thresholds, in words.
    """

    name: str
    status: Status
    finding: str
    rule: str


def zeros_verdict(asked: float | None, got: float, low: float, high: float) -> Verdict | None:
    """Judge whether the zeros are those asked for; None when nobody asked."""
    if asked is None:
        return None
    # With few rows the interval is wide, and a miss within it may be chance.
    miss = 0.0 if low <= asked <= high else abs(got - asked)
    return Verdict(
        "zeros asked, zeros got",
        _at_most(miss, 0.01, 0.03),
        f"{asked:.3f} asked, {got:.3f} got (95 % interval {low:.3f} to {high:.3f})",
        "good within .01 of p, or if the interval covers it; fair within .03",
    )


def dead_verdict(n_dead: int, n_latents: int) -> Verdict:
    """Judge how many latents never fire."""
    return Verdict(
        "dead latents",
        _at_most(n_dead / n_latents, 0.01, 0.1),
        f"{n_dead:,} of {n_latents:,} latents are zero in every row",
        "good up to 1 % of the latents, fair up to 10 %",
    )


def always_on_verdict(n_on: int, n_latents: int, p: float | None) -> Verdict | None:
    """Judge how many latents always fire; in a dense model all do, as they should."""
    if p == 0:
        return None
    return Verdict(
        "always-on latents",
        _at_most(n_on / n_latents, 0.0, 0.05),
        f"{n_on:,} of {n_latents:,} latents fire in at least 99 % of the rows",
        "good if there are none, fair up to 5 %: such a latent says little",
    )


def empty_verdict(n_empty: int, n_samples: int) -> Verdict:
    """Judge how many rows have no code at all."""
    return Verdict(
        "empty codes",
        _at_most(n_empty / n_samples, 0.001, 0.01),
        f"{n_empty:,} of {n_samples:,} rows have no non-zero",
        "good up to .1 % of the rows, fair up to 1 %",
    )


def effective_verdict(effective: float, n_latents: int) -> Verdict:
    """Judge whether the work is shared out."""
    return Verdict(
        "latents in use",
        _at_most(1 - effective / n_latents, 0.5, 0.75),
        f"{effective:,.0f} of {n_latents:,} latents in effect (by their share of energy)",
        "good from half of the latents, fair from a quarter",
    )


def redundancy_verdict(correlations: Sequence[float]) -> Verdict | None:
    """Judge whether two latents say the same; None when no two vary."""
    if not len(correlations):
        return None
    largest = max(abs(value) for value in correlations)
    return Verdict(
        "redundancy",
        _at_most(largest, 0.6, 0.9),
        f"the most alike pair of latents fires with a correlation of {largest:.2f}",
        "good up to .6, fair up to .9",
    )


def _at_most(value: float, good: float, fair: float) -> Status:
    if value <= good:
        return "good"
    return "fair" if value <= fair else "poor"
