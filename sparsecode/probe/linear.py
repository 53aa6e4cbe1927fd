"""Linear probes: multinomial logistic regression, or ridge regression, its strength chosen.

scikit-learn's L-BFGS on CSR float32 is the solver: benchmarks/probe.py measures it.
"""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

Features: TypeAlias = NDArray[Any] | sparse.csr_array
Solve: TypeAlias = Callable[[Any, Features, NDArray[Any]], None]

STRENGTHS = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0, 10.0)
"""C of the logistic regressions; a ridge regression's alpha is 1 / C."""
_PATIENCE = 2
_ITERATIONS = 200
_ELIMINATION_ROWS = 10_000


@dataclass(frozen=True)
class Split:
    """Rows to fit on, to choose C on, and to score on; disjoint.

    Attributes
    ----------
    fit, validation, test : ndarray of int64
        Row numbers.
    """

    fit: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]

    @property
    def train(self) -> NDArray[np.int64]:
        """`fit` and `validation` together."""
        return np.concatenate([self.fit, self.validation])


@dataclass(frozen=True)
class LinearFit:
    """A linear probe.

    Attributes
    ----------
    predicted : ndarray of shape (n_test,)
    C : float
        Inverse strength of the penalty, chosen on the validation rows.
    model : estimator
        Fitted to all training rows.
    """

    predicted: NDArray[Any]
    C: float
    model: Any


def scaled(features: Features, train: NDArray[np.int64]) -> Features:
    """Divide features by their standard deviation over the training rows, without centring.

    Zeros stay zeros, so sparse features stay sparse.
    """
    scaler = StandardScaler(with_mean=False).fit(features[train])
    return scaler.transform(features)


def solve_on_cpu(model: Any, x: Features, y: NDArray[Any]) -> None:
    """Fit a scikit-learn model where the arrays are."""
    # Sparse products have one thread; more, in what little is dense, would wait for each other.
    with threadpool_limits(1 if sparse.issparse(x) else None):
        model.fit(x, y)


@dataclass(frozen=True)
class LinearProbe:
    """Logistic regressions of growing C on one device, or ridge regressions.

    Attributes
    ----------
    is_regression : bool
    solve : callable
        Fits a scikit-learn model to features and labels. This module does not import torch; one
        that does may put a GPU to work.
    """

    is_regression: bool
    solve: Solve = solve_on_cpu

    def fit(self, x: Features, y: NDArray[Any], split: Split) -> LinearFit:
        """Fit probes of growing C, and the best of them to all training rows.

        Each fit starts from the last one. The search ends when two values of C in a row did not do
        better on the validation rows.
        """
        model = self._model()
        best, best_score, n_worse = model, -np.inf, 0
        for C in STRENGTHS:
            self._fit(model, C, x[split.fit], y[split.fit])
            held_out = model.score(x[split.validation], y[split.validation])
            n_worse += 1
            if held_out > best_score:
                best, best_score, n_worse = copy.deepcopy(model), held_out, 0
            if n_worse == _PATIENCE:
                break
        C = float(best.C) if not self.is_regression else 1 / float(best.alpha)
        self._fit(best, C, x[split.train], y[split.train])
        return LinearFit(best.predict(x[split.test]), C, best)

    def fit_at(
        self, x: Features, y: NDArray[Any], train: NDArray[np.int64], test: NDArray[np.int64],
        C: float,
    ) -> NDArray[Any]:  # fmt: skip
        """Predictions for the test rows of one probe of a known C."""
        if not self.is_regression and len(np.unique(y[train])) == 1:
            return np.full(len(test), y[train[0]])
        return self._fit(self._model(), C, x[train], y[train]).predict(x[test])

    def best_latents(
        self, x: Features, y: NDArray[Any], train: NDArray[np.int64], sizes: Sequence[int],
        C: float,
    ) -> dict[int, NDArray[np.int64]]:  # fmt: skip
        """Choose small sets of latents that tell most about y together.

        Recursive elimination: fit to at most 10,000 training rows, drop the third of the latents
        with the smallest weights, repeat.

        Returns
        -------
        dict of int to ndarray of int64
            For each of the rising `sizes` up to the number of latents, so many latents, sorted.

        References
        ----------
        .. [1] I. Guyon et al., "Gene selection for cancer classification using support vector
           machines", Machine Learning 46, 2002, section 3.
        .. [2] W. Gurnee et al., "Finding neurons in a haystack: case studies with sparse probing",
           TMLR, 2023.
        """
        kept, chosen, train = np.arange(x.shape[1]), {}, train[:_ELIMINATION_ROWS]
        for size in sorted((size for size in sizes if size <= x.shape[1]), reverse=True):
            while len(kept) > size:
                model = self._fit(self._model(), C, x[train][:, kept], y[train])
                weight = np.square(np.atleast_2d(model.coef_)).sum(axis=0)
                n = max(size, len(kept) * 2 // 3)
                kept = np.sort(kept[np.argsort(-weight, kind="stable")[:n]])
            chosen[size] = kept
        return chosen

    def _model(self) -> Any:
        if self.is_regression:
            return Ridge()
        return LogisticRegression(warm_start=True, max_iter=_ITERATIONS)

    def _fit(self, model: Any, C: float, x: Features, y: NDArray[Any]) -> Any:
        model.set_params(**({"alpha": 1 / C} if self.is_regression else {"C": C}))
        with warnings.catch_warnings():
            # At weak penalties the last digits of the weights do not count.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.solve(model, x, y)
        return model
