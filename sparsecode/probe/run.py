"""`probe`: all scores of a set of codes, beside baselines, on one split."""

import time
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import train_test_split

from sparsecode.codes import SparseCodes
from sparsecode.diagnostics.matrix import Codes, checked
from sparsecode.errors import RefusedError
from sparsecode.probe.linear import (
    Features,
    LinearFit,
    LinearProbe,
    Solve,
    Split,
    scaled,
    solve_on_cpu,
)
from sparsecode.probe.neighbours import neighbour_predictions
from sparsecode.probe.result import FeatureScores, FewLabels, ProbeResult
from sparsecode.probe.scores import Score, score

K_SPARSE = (1, 2, 5, 10, 20)
FEW_LABELS = (10, 30, 100, 300, 1000, 3000, 10_000)
N_NEIGHBOURS = 5
_TEST_SHARE, _VALIDATION_SHARE, _MAX_VALIDATION = 0.2, 0.2, 10_000
_MAX_NEIGHBOUR_TEST = 2000
_DRAWS = 5
_MANY_LABELS = 3000
# Numbers of more distinct values than this, or with fractions, are targets of a regression.
_MOST_CLASSES = 200

Task = Literal["auto", "classify", "regress"]


def probe(
    codes: SparseCodes | Codes,
    y: ArrayLike | None = None,
    *,
    baselines: Mapping[str, Features] | None = None,
    missing: Mapping[str, str] | None = None,
    test: ArrayLike | None = None,
    task: Task = "auto",
    seed: int = 0,
    solve: Solve = solve_on_cpu,
) -> ProbeResult:
    """Score how well labels can be read off codes.

    The linear probe is a multinomial logistic regression (L-BFGS; a ridge regression for numbers)
    on features divided by their standard deviation, C chosen on validation rows. The test rows
    take no part in anything but the scores.

    Parameters
    ----------
    codes : SparseCodes, csr_array or ndarray of shape (n_samples, n_latents)
        The codes; of `SparseCodes` the ``label`` column can serve as `y`.
    y : array-like of shape (n_samples,), optional
        Labels of any kind, or numbers.
    baselines : mapping of str to ndarray or csr_array of shape (n_samples, n_features), optional
        Other features of the same rows, as from `simple_baselines`. Chance is always there.
    missing : mapping of str to str, optional
        Baselines to name in the table without scores, and why.
    test : array-like of bool of shape (n_samples,), optional
        The test rows. Without it a fifth of the rows, stratified, drawn by `seed`.
    task : {"auto", "classify", "regress"}, default="auto"
        "auto" takes floats that are not whole numbers, or have more than 200 values, for numbers.
    seed : int, default=0
        Of the splits and of the few labels.
    solve : callable, optional
        Fits the linear probes; `sparsecode.probe_device.solver` returns one for a GPU.

    Returns
    -------
    ProbeResult

    Raises
    ------
    RefusedError
        No labels, fewer than two classes, a class with too few rows, or shapes that differ.
    """
    start = time.monotonic()
    if isinstance(codes, SparseCodes):
        y = codes.labels if y is None else y
        codes = codes.matrix
    matrix = checked(codes).astype(np.float32)
    labels, is_regression = _labels(y, matrix.shape[0], task)
    split = _split(labels, test, is_regression, seed)
    linear = LinearProbe(is_regression, solve)
    features = {"codes": matrix, **_checked_baselines(baselines or {}, matrix.shape[0])}
    scored = {name: _score_features(name, x, labels, split, linear) for name, x in features.items()}
    own, fitted = scored.pop("codes")
    x = scaled(matrix, split.train)
    classes, confusion = None, None
    if not is_regression:
        classes = np.unique(labels)
        confusion = confusion_matrix(labels[split.test], fitted.predicted, labels=classes)
    return ProbeResult(
        metric="R²" if is_regression else "accuracy",
        n_train=len(split.train),
        n_test=len(split.test),
        n_neighbour_test=min(len(split.test), _MAX_NEIGHBOUR_TEST),
        seed=seed,
        codes=own,
        k_sparse=_k_sparse(x, labels, split, fitted.C, linear),
        few_labels=_few_labels(x, labels, split, fitted.C, linear, seed),
        baselines=[_chance(labels, split, is_regression), *(row for row, _ in scored.values())],
        missing=dict(missing or {}),
        classes=classes,
        confusion=confusion,
        seconds=time.monotonic() - start,
    )


def _labels(y: ArrayLike | None, n: int, task: Task) -> tuple[NDArray[Any], bool]:
    if y is None:
        raise RefusedError("there are no labels to probe for; give y")
    labels = np.asarray(y)
    if labels.shape != (n,):
        raise RefusedError(f"y has shape {labels.shape}, but there are {n} rows of codes")
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise RefusedError("y holds NaN or infinity; leave those rows out (see usable_labels)")
    is_number = labels.dtype.kind in "iuf"
    if task == "regress" and not is_number:
        raise RefusedError("a regression needs numbers, but y holds text; use task='classify'")
    is_regression = task == "regress" or (
        task == "auto"
        and labels.dtype.kind == "f"
        and bool((labels % 1 != 0).any() or len(np.unique(labels)) > _MOST_CLASSES)
    )
    if is_regression:
        return labels.astype(np.float64), True
    if is_number and bool((labels % 1 == 0).all()):
        return labels.astype(np.int64), False
    return labels.astype(str), False


def _split(y: NDArray[Any], test: ArrayLike | None, is_regression: bool, seed: int) -> Split:
    rows = np.arange(len(y))
    try:
        if test is None:
            train, tested = train_test_split(
                rows, test_size=_TEST_SHARE, random_state=seed,
                stratify=None if is_regression else y,
            )  # fmt: skip
        else:
            chosen = np.asarray(test, dtype=bool)
            train, tested = rows[~chosen], rows[chosen]
        n_validation = min(_MAX_VALIDATION, max(1, int(_VALIDATION_SHARE * len(train))))
        fit, validation = train_test_split(
            train, test_size=n_validation, random_state=seed,
            stratify=None if is_regression else y[train],
        )  # fmt: skip
    except ValueError as error:
        raise RefusedError(f"the labels cannot be split into three parts: {error}") from error
    if len(tested) < 2 or (not is_regression and len(np.unique(y[fit])) < 2):
        raise RefusedError("at least two classes, and two rows to test on, are needed")
    return Split(fit, validation, tested)


def _checked_baselines(baselines: Mapping[str, Features], n: int) -> dict[str, Features]:
    for name, x in baselines.items():
        if x.shape[0] != n:
            raise RefusedError(f"the baseline {name!r} has {x.shape[0]} rows; {n} are needed")
    return {name: x if sparse.issparse(x) else np.asarray(x) for name, x in baselines.items()}


def _score_features(
    name: str, x: Features, y: NDArray[Any], split: Split, linear: LinearProbe
) -> tuple[FeatureScores, LinearFit]:
    start, is_regression = time.monotonic(), linear.is_regression
    fitted = linear.fit(scaled(x, split.train), y, split)
    tested = split.test[:_MAX_NEIGHBOUR_TEST]
    neighbours = neighbour_predictions(
        x[split.train], y[split.train], x[tested], min(N_NEIGHBOURS, len(split.train)),
        is_regression,
    )  # fmt: skip
    found = score(y[split.test], fitted.predicted, is_regression)
    cosine, l2 = (score(y[tested], neighbours[key], is_regression) for key in ("cosine", "L2"))
    seconds = time.monotonic() - start
    return FeatureScores(name, x.shape[1], found, cosine, l2, fitted.C, seconds), fitted


def _chance(y: NDArray[Any], split: Split, is_regression: bool) -> FeatureScores:
    train = y[split.train]
    if is_regression:
        guess = train.mean()
    else:
        classes, counts = np.unique(train, return_counts=True)
        guess = classes[counts.argmax()]
    tested = y[split.test]
    found = score(tested, np.full(len(tested), guess), is_regression)
    return FeatureScores("chance", 0, found, None, None, None, 0.0)


def _k_sparse(
    x: Features, y: NDArray[Any], split: Split, C: float, linear: LinearProbe
) -> list[tuple[int, Score]]:
    kept = linear.best_latents(x, y, split.train, K_SPARSE, C)
    found = []
    for k in (k for k in K_SPARSE if k <= x.shape[1]):
        # So few latents hardly need a penalty, and no search for its strength.
        predicted = linear.fit_at(x[:, kept[k]], y, split.train, split.test, 1.0)
        found.append((k, score(y[split.test], predicted, linear.is_regression)))
    return found


def _few_labels(
    x: Features, y: NDArray[Any], split: Split, C: float, linear: LinearProbe, seed: int
) -> list[FewLabels]:
    is_regression = linear.is_regression
    # At the C of the full probe: the penalty is a prior, which does not depend on the labels.
    n_classes = 1 if is_regression else len(np.unique(y[split.train]))
    rows = []
    for n in (n for n in FEW_LABELS if max(n_classes, 2) <= n < len(split.train) - n_classes):
        n_draws = _DRAWS if n < _MANY_LABELS else 1
        values = []
        for draw in range(n_draws):
            chosen, _ = train_test_split(
                split.train, train_size=n, random_state=seed + draw,
                stratify=None if is_regression else y[split.train],
            )  # fmt: skip
            predicted = linear.fit_at(x, y, chosen, split.test, C)
            values.append(score(y[split.test], predicted, is_regression).value)
        sd = float(np.std(values, ddof=1)) if n_draws > 1 else float("nan")
        rows.append(FewLabels(n, float(np.mean(values)), sd, n_draws))
    return rows
