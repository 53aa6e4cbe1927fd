"""Codes against what they stand for: explained variance, and calibrated probabilities."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.sparse import csr_array

from sparsecode.diagnostics.matrix import Codes, checked, row_of_entry

Decode = Callable[[csr_array], NDArray]
"""Codes (n, k) to rows (n, d), such as an estimator's ``inverse_transform``."""

# Rows decoded at once.
_BLOCK = 4096


class Reliability(NamedTuple):
    """A reliability curve.

    Attributes
    ----------
    edges : ndarray of shape (n_bins + 1,)
        Of the bins of probability.
    predicted, observed : ndarray of shape (n_bins,)
        Mean probability, and share that came true, of the events in each bin; NaN in empty bins.
    counts : ndarray of shape (n_bins,), int64
        Events.
    error : float
        Expected calibration error: mean of ``|predicted - observed|`` over the events.
    """

    edges: NDArray[np.float64]
    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    counts: NDArray[np.int64]
    error: float


def explained_variance(X: ArrayLike, reconstruction: ArrayLike) -> float:
    """1 - (squared error / squared deviation from the mean), over all features.

    Parameters
    ----------
    X, reconstruction : array-like of shape (n_samples, n_features)

    Returns
    -------
    float
        At most 1; NaN when X does not vary.
    """
    X, reconstruction = _same_shape(X, reconstruction)
    variation = ((X - X.mean(0)) ** 2).sum()
    error = ((X - reconstruction) ** 2).sum()
    return float(1 - error / variation) if variation > 0 else float("nan")


def explained_variance_removed(codes: Codes, X: ArrayLike, decode: Decode) -> NDArray[np.float64]:
    """How much explained variance is lost when a latent is set to zero everywhere.

    Every non-zero is decoded once more without it, so give a sample of the rows: the cost is that
    of decoding ``codes.nnz`` rows, in memory of a few thousand.

    Parameters
    ----------
    codes : csr_array or ndarray of shape (n_samples, n_latents)
        The codes.
    X : array-like of shape (n_samples, n_features)
        The rows that they are codes of.
    decode : callable
        Codes to rows.

    Returns
    -------
    ndarray of shape (n_latents,), float64
        0 for a latent that never fires, negative for one that does harm; NaN when X does not vary.
    """
    matrix = checked(codes)
    X, decoded = _same_shape(X, decode(matrix))
    variation = ((X - X.mean(0)) ** 2).sum()
    error = ((X - decoded) ** 2).sum(1)
    row, lost = row_of_entry(matrix), np.empty(matrix.nnz)
    for start in range(0, matrix.nnz, _BLOCK):
        entries = np.arange(start, min(start + _BLOCK, matrix.nnz))
        without = decode(without_entries(matrix, entries))
        lost[entries] = ((X[row[entries]] - without) ** 2).sum(1) - error[row[entries]]
    sums = np.bincount(matrix.indices, lost, matrix.shape[1])
    return sums / variation if variation > 0 else np.full(matrix.shape[1], np.nan)


def latent_changes(
    codes: Codes, latents: NDArray[np.int64], top: NDArray[np.int64], decode: Decode
) -> NDArray[np.float64]:
    """Compute the mean change that a latent makes to the rows in which it is largest.

    For a linear decoder it is the latent's atom, times its mean value there.

    Parameters
    ----------
    codes : csr_array or ndarray of shape (n_samples, n_latents)
        The codes.
    latents : ndarray of shape (n,), int64
        Which latents.
    top : ndarray of shape (n, n_top), int64
        Rows for each, as from `top_samples`; -1 for none. A latent without rows is drawn as what
        the value 1, alone, changes.
    decode : callable
        Codes to rows.

    Returns
    -------
    ndarray of shape (n, n_features), float64
    """
    matrix = checked(codes)
    n_rows = (top >= 0).sum(axis=1)
    owner = np.repeat(np.arange(len(latents)), n_rows)
    rows = matrix[top[top >= 0]]
    fires = rows.indices == np.repeat(latents[owner], np.diff(rows.indptr))
    without = rows.copy()
    without.data[fires] = 0
    silent = np.flatnonzero(n_rows == 0)
    shape = (len(silent), matrix.shape[1])
    alone = csr_array((np.ones(len(silent)), (np.arange(len(silent)), latents[silent])), shape)
    with_it = _decoded(sparse.vstack([rows, alone], format="csr"), decode)
    change = with_it - _decoded(sparse.vstack([without, csr_array(shape)], format="csr"), decode)
    sums = np.zeros((len(latents), change.shape[1]))
    np.add.at(sums, np.concatenate([owner, silent]), change)
    return sums / np.maximum(n_rows, 1)[:, None]


def _decoded(matrix: csr_array, decode: Decode) -> NDArray[np.float64]:
    parts = [
        np.asarray(decode(matrix[start : start + _BLOCK]), dtype=np.float64)
        for start in range(0, matrix.shape[0], _BLOCK)
    ]
    return np.concatenate(parts)


def without_entries(matrix: csr_array, entries: NDArray[np.int64]) -> csr_array:
    """For each of some stored values, its row without it, (len(entries), n_latents)."""
    rows = matrix[row_of_entry(matrix)[entries]]
    rows.data = rows.data.copy()
    offset = entries - matrix.indptr[row_of_entry(matrix)[entries]]
    rows.data[rows.indptr[:-1] + offset] = 0
    rows.eliminate_zeros()
    return rows


def reliability(probability: ArrayLike, happened: ArrayLike, n_bins: int = 10) -> Reliability:
    """Compare probabilities with what happened.

    Parameters
    ----------
    probability : array-like, 0 to 1
        Of any shape.
    happened : array-like of bool
        Of the same shape.
    n_bins : int, default=10
        Bins of equal width.

    Returns
    -------
    Reliability

    References
    ----------
    .. [1] C. Guo et al., "On calibration of modern neural networks", ICML, 2017, equation 3.
    """
    proba = np.asarray(probability, dtype=np.float64).ravel()
    events = np.asarray(happened, dtype=bool).ravel()
    if proba.shape != events.shape or not len(proba) or n_bins < 1:
        raise ValueError(
            f"{len(proba)} probabilities, {len(events)} events and {n_bins} bins do not go "
            "together; as many of one as of the other are needed, and at least 1 bin"
        )
    if not ((proba >= 0) & (proba <= 1)).all():
        raise ValueError("probability holds values outside [0, 1], or NaN")
    bins = np.minimum((proba * n_bins).astype(np.int64), n_bins - 1)
    counts = np.bincount(bins, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        predicted = np.bincount(bins, proba, n_bins) / counts
        observed = np.bincount(bins, events, n_bins) / counts
    error = np.nansum(counts * np.abs(predicted - observed)) / len(proba)
    return Reliability(np.linspace(0, 1, n_bins + 1), predicted, observed, counts, float(error))


def _same_shape(X: ArrayLike, other: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    X, other = np.asarray(X, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if X.shape != other.shape or X.ndim != 2:
        raise ValueError(f"X of shape {X.shape} and its reconstruction {other.shape} differ")
    return X, other
