"""Which latents fire together."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from sparsecode.diagnostics.matrix import Codes, checked

# Latents whose pairs with all others are held at once.
_BLOCK = 256


class Pairs(NamedTuple):
    """Pairs of latents, the strongest correlation of being on first.

    Attributes
    ----------
    first, second : ndarray of shape (n_pairs,), int64
        Latents, ``first < second``.
    together : ndarray of shape (n_pairs,), int64
        Samples in which both are on.
    correlation : ndarray of shape (n_pairs,), float64
        Pearson's correlation of the two indicators (phi), -1 to 1.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    together: NDArray[np.int64]
    correlation: NDArray[np.float64]


def coactivation_counts(codes: Codes) -> csr_array:
    """Count the samples in which two latents are both on.

    Returns
    -------
    csr_array of shape (n_latents, n_latents), int64
        Symmetric; the diagonal counts each latent's own samples.
    """
    on = _indicator(checked(codes))
    return csr_array(on.T @ on)


def coactivation_pairs(codes: Codes, n_pairs: int = 20) -> Pairs:
    """Pairs of latents that fire together, or apart, more than chance would have it.

    Parameters
    ----------
    codes : csr_array or ndarray of shape (n_samples, n_latents)
        The codes.
    n_pairs : int, default=20
        How many, by the size of the correlation; fewer when there are no more. A latent that is
        always or never on has no correlation and is left out.

    Returns
    -------
    Pairs
    """
    if n_pairs < 1:
        raise ValueError(f"n_pairs={n_pairs!r} is out of range; at least 1 is needed")
    matrix = checked(codes)
    on = _indicator(matrix)
    columns, frequency = on.T.tocsr(), np.bincount(matrix.indices, minlength=matrix.shape[1])
    nothing = np.empty(0, np.int64)
    best = Pairs(nothing, nothing, nothing, np.empty(0))
    for start in range(0, matrix.shape[1], _BLOCK):
        together = (columns[start : start + _BLOCK] @ on).toarray()
        best = _strongest(best, _block_pairs(together, start, frequency, matrix.shape[0]), n_pairs)
    return best


def _indicator(matrix: csr_array) -> csr_array:
    ones = np.ones(matrix.nnz, np.int64)
    return csr_array((ones, matrix.indices, matrix.indptr), matrix.shape)


def _block_pairs(
    together: NDArray[np.int64], start: int, counts: NDArray[np.int64], n: int
) -> Pairs:
    frequency = counts / n
    spread = np.sqrt(frequency * (1 - frequency))
    first = np.arange(start, start + len(together))
    with np.errstate(divide="ignore", invalid="ignore"):
        phi = together / n - np.outer(frequency[first], frequency)
        phi /= np.outer(spread[first], spread)
    later = np.arange(len(counts)) > first[:, None]
    row, column = np.nonzero(later & np.isfinite(phi))
    return Pairs(row + start, column, together[row, column], phi[row, column])


def _strongest(old: Pairs, new: Pairs, n_pairs: int) -> Pairs:
    first, second, together, correlation = (
        np.concatenate(parts) for parts in zip(old, new, strict=True)
    )
    order = np.argsort(-np.abs(correlation), kind="stable")[:n_pairs]
    return Pairs(first[order], second[order], together[order], correlation[order])
