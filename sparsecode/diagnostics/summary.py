"""`diagnose`: all measures of a set of codes at once, with verdicts."""

import html
import json
import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.table import Table

from sparsecode.codes import SparseCodes
from sparsecode.diagnostics import verdicts
from sparsecode.diagnostics.coactivation import Pairs, coactivation_pairs
from sparsecode.diagnostics.labels import (
    LabelShares,
    activation_by_label,
    activation_entropy,
    mutual_information,
)
from sparsecode.diagnostics.latents import (
    Histograms,
    LatentRates,
    active_units,
    collapsed_latents,
    effective_latents,
    energy_share,
    rate_per_latent,
    value_histograms,
)
from sparsecode.diagnostics.matrix import Codes, checked
from sparsecode.diagnostics.sparsity import (
    Interval,
    activation_frequency,
    gini,
    hoyer_sparsity,
    kurtosis,
    l0_per_row,
    zero_fraction,
)
from sparsecode.diagnostics.verdicts import Verdict

ALWAYS_ON = 0.99
_PAIR_OPERATIONS = 10**9
_STATUS_STYLE = {"good": "green", "fair": "yellow", "poor": "red"}


@dataclass(frozen=True, eq=False)
class Diagnostics:
    """What a set of codes is like.

    Attributes
    ----------
    n_samples, n_latents : int
    p : float or None
        Fraction of zeros asked for; None when it is not known.
    zeros : Interval
        Fraction of zeros got, with its 95 % interval.
    l0 : ndarray of shape (n_samples,)
        Non-zeros per row.
    hoyer, hoyer_normalised, gini, row_kurtosis : float
        Means over the rows for which they are defined; NaN if there is none.
    frequency, mean_value, energy, entropy, latent_kurtosis : ndarray of shape (n_latents,)
        Of each latent: share of rows in which it is on; mean where it is on (NaN if never); share
        of the squared codes; bits of being on or off; excess kurtosis.
    rates : LatentRates or None
        Nats per sample, without the cost of the noise; None when p is not known.
    dead, always_on, active, collapsed : ndarray of shape (n_latents,), bool
        Never fires; fires in 99 % of the rows; its variance exceeds .01; its values cost less than
        .01 nats each time it fires.
    effective : float
        Effective number of latents.
    histograms : Histograms
        Non-zero values of each latent.
    pairs : Pairs
        Latents that fire together most; of dense codes, in evenly spaced rows only.
    by_label : LabelShares or None
        How often each latent is on for each label.
    information : ndarray of shape (n_latents,) or None
        Bits about the label.
    verdicts : list of Verdict
    """

    n_samples: int
    n_latents: int
    p: float | None
    zeros: Interval
    l0: NDArray[np.int64]
    hoyer: float
    hoyer_normalised: float
    gini: float
    row_kurtosis: float
    frequency: NDArray[np.float64]
    mean_value: NDArray[np.float64]
    energy: NDArray[np.float64]
    entropy: NDArray[np.float64]
    latent_kurtosis: NDArray[np.float64]
    rates: LatentRates | None
    dead: NDArray[np.bool_]
    always_on: NDArray[np.bool_]
    active: NDArray[np.bool_]
    collapsed: NDArray[np.bool_]
    effective: float
    histograms: Histograms
    pairs: Pairs
    by_label: LabelShares | None
    information: NDArray[np.float64] | None
    verdicts: list[Verdict]

    def summary(self) -> dict[str, str]:
        """Figures for people, by name."""
        low, high = self.zeros.low, self.zeros.high
        rows = {
            "codes": f"{self.n_samples:,} rows of {self.n_latents:,} latents",
            "non-zeros per row (L0)": f"{self.l0.mean():.1f} ± {self.l0.std():.1f} "
            f"({self.l0.min():,} to {self.l0.max():,})",
            "zeros": f"{self.zeros.estimate:.4f} (95 % interval {low:.4f} to {high:.4f})",
            "Hoyer, Gini": f"{self.hoyer:.3f} ({self.hoyer_normalised:.3f} with latents scaled), "
            f"{self.gini:.3f}",
            "kurtosis": f"{self.row_kurtosis:.1f} of a row, "
            f"{_mean(self.latent_kurtosis):.1f} of a latent",
            "latents": f"{self.dead.sum():,} dead, {self.always_on.sum():,} always on, "
            f"{self.collapsed.sum():,} collapsed, {self.active.sum():,} active, "
            f"{self.effective:,.0f} in effect",
        }
        if self.rates is not None:
            rows["rate, nats per row"] = (
                f"{self.rates.slab.sum():.1f} for values (without noise), "
                f"{self.rates.spike.sum():.1f} for which are on"
            )
        if self.information is not None:
            best = int(self.information.argmax())
            rows["about the label"] = (
                f"latent {best} says most: {self.information[best]:.3f} bits; "
                f"{(self.information > 0.01).sum():,} latents say more than .01"
            )
        return rows

    def l0_histogram(self, n_bins: int = 40) -> tuple[NDArray[Any], NDArray[Any]]:
        """Histogram of the non-zeros per row, in at most `n_bins` bins of as many whole numbers."""
        low, high = int(self.l0.min()), int(self.l0.max())
        width = -(-(high - low + 1) // n_bins)
        edges = np.arange(low, high + width + 1, width) - 0.5
        return np.histogram(self.l0, edges)[0], edges

    def to_dict(self) -> dict[str, Any]:
        """Plain values; arrays become lists and what is not a number None."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    def to_json(self, indent: int | None = None) -> str:
        """JSON with all figures."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def __rich__(self) -> Table:
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, figure in self.summary().items():
            table.add_row(name, figure)
        table.add_row()
        for verdict in self.verdicts:
            colour = _STATUS_STYLE[verdict.status]
            table.add_row(
                verdict.name,
                f"[{colour}]{verdict.status}[/]: {verdict.finding} [dim]({verdict.rule})[/]",
            )
        return table

    def _repr_html_(self) -> str:
        rows = self.summary() | {v.name: f"{v.status}: {v.finding}" for v in self.verdicts}
        cells = (
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
            for name, text in rows.items()
        )
        return f"<table>{''.join(cells)}</table>"


def diagnose(
    codes: SparseCodes | Codes, labels: ArrayLike | None = None, p: float | None = None
) -> Diagnostics:
    """Measure a set of codes.

    Parameters
    ----------
    codes : SparseCodes, csr_array or ndarray of shape (n_samples, n_latents)
        Codes from a file bring their labels and p with them.
    labels : array-like of shape (n_samples,), optional
        Overrides those of the codes.
    p : float, optional
        Fraction of zeros asked for, in [0, 1); overrides that of the codes.

    Returns
    -------
    Diagnostics

    Raises
    ------
    ValueError
        Codes that are empty or hold NaN; labels of another length; p out of range.
    """
    if isinstance(codes, SparseCodes):
        labels = codes.labels if labels is None else labels
        p = codes.metadata.get("config", {}).get("p") if p is None else p
        codes = codes.matrix
    matrix = checked(codes)
    if p is not None and not 0 <= p < 1:
        raise ValueError(f"p={p!r} is out of range; a fraction of zeros in [0, 1) is needed")
    n, k = matrix.shape
    figures = _row_figures(matrix) | _latent_figures(matrix, p)
    figures["by_label"] = None if labels is None else activation_by_label(matrix, labels)
    figures["information"] = None if labels is None else mutual_information(matrix, labels)
    return Diagnostics(
        n_samples=n, n_latents=k, p=p, verdicts=_verdicts(n, k, p, figures), **figures
    )


def _row_figures(matrix: Codes) -> dict[str, Any]:
    return {
        "zeros": zero_fraction(matrix),
        "l0": l0_per_row(matrix),
        "hoyer": _mean(hoyer_sparsity(matrix)),
        "hoyer_normalised": _mean(hoyer_sparsity(matrix, normalise=True)),
        "gini": _mean(gini(matrix)),
        "row_kurtosis": _mean(kurtosis(matrix, axis=1)),
    }


def _latent_figures(matrix: Codes, p: float | None) -> dict[str, Any]:
    frequency = activation_frequency(matrix)
    counts = np.bincount(matrix.indices, minlength=matrix.shape[1])
    sums = np.bincount(matrix.indices, matrix.data.astype(np.float64), matrix.shape[1])
    # Which values cost nothing does not depend on p; .5 stands in for one that is not known.
    rates = rate_per_latent(matrix, 0.5 if p is None else p)
    with np.errstate(invalid="ignore"):
        mean_value, per_firing = sums / counts, np.nan_to_num(rates.slab / frequency)
    return {
        "frequency": frequency,
        "mean_value": mean_value,
        "energy": energy_share(matrix),
        "entropy": activation_entropy(matrix),
        "latent_kurtosis": kurtosis(matrix),
        "rates": None if p is None else rates,
        "dead": frequency == 0,
        "always_on": frequency >= ALWAYS_ON,
        "active": active_units(matrix),
        "collapsed": collapsed_latents(per_firing),
        "effective": effective_latents(matrix),
        "histograms": value_histograms(matrix),
        "pairs": coactivation_pairs(_affordable_rows(matrix)),
    }


def _affordable_rows(matrix: Codes) -> Codes:
    """All rows, or evenly spaced ones of which counting pairs costs seconds: it grows with L0²."""
    cost = float(np.square(np.diff(matrix.indptr), dtype=np.float64).sum())
    step = max(1, -(-int(cost) // _PAIR_OPERATIONS))
    return matrix[:: min(step, matrix.shape[0])]


def _verdicts(n: int, k: int, p: float | None, figures: dict[str, Any]) -> list[Verdict]:
    found = [
        verdicts.zeros_verdict(p, *figures["zeros"]),
        verdicts.dead_verdict(int(figures["dead"].sum()), k),
        verdicts.always_on_verdict(int(figures["always_on"].sum()), k, p),
        verdicts.empty_verdict(int((figures["l0"] == 0).sum()), n),
        verdicts.effective_verdict(figures["effective"], k),
        verdicts.redundancy_verdict(figures["pairs"].correlation),
    ]
    return [verdict for verdict in found if verdict is not None]


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _plain(value: Any) -> Any:
    if isinstance(value, Verdict):
        return dict(vars(value))
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _plain(item) for name, item in value._asdict().items()}
    if isinstance(value, np.ndarray | list):
        return [
            _plain(item) for item in (value.tolist() if isinstance(value, np.ndarray) else value)
        ]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value
