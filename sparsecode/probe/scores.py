"""Scores with confidence intervals: accuracy for classes, R² for numbers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import r2_score

_RESAMPLES = 500


@dataclass(frozen=True)
class Score:
    """A score on the test rows.

    Attributes
    ----------
    value : float
        Accuracy, 0 to 1, or R², at most 1.
    low, high : float
        95 % confidence interval over test rows like these.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} ({self.low:.4f} to {self.high:.4f})"


def accuracy(y: NDArray[Any], predicted: NDArray[Any]) -> Score:
    """Share of right predictions, with Wilson's interval.

    References
    ----------
    .. [1] E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
       JASA 22, 1927.
    """
    result = stats.binomtest(int((y == predicted).sum()), len(y))
    interval = result.proportion_ci(method="wilson")
    return Score(float(result.statistic), float(interval.low), float(interval.high))


def r_squared(y: NDArray[Any], predicted: NDArray[Any], seed: int = 0) -> Score:
    """R², with the percentile interval of 500 resamples of the test rows."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(y), (_RESAMPLES, len(y)))
    errors = ((y - predicted) ** 2)[rows].sum(1)
    values = y[rows]
    with np.errstate(divide="ignore", invalid="ignore"):
        resampled = 1 - errors / ((values - values.mean(1, keepdims=True)) ** 2).sum(1)
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return Score(float(r2_score(y, predicted)), float(low), float(high))


def score(y: NDArray[Any], predicted: NDArray[Any], is_regression: bool) -> Score:
    """Accuracy, or R² for a regression."""
    return r_squared(y, predicted) if is_regression else accuracy(y, predicted)
