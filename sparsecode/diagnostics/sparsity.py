"""How sparse codes are. Everywhere, a stored zero counts as zero and NaN is refused.

Every function takes codes of shape (n_samples, n_latents), sparse (never made dense) or dense, and
raises ValueError when they are not 2-D, empty, or hold NaN or infinity.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.sparse import csr_array

from sparsecode.diagnostics.matrix import Codes, central_moments, checked, row_of_entry


class Interval(NamedTuple):
    """An estimate and its confidence interval; the ends are NaN where one row tells nothing."""

    estimate: float
    low: float
    high: float


def l0_per_row(codes: Codes) -> NDArray[np.int64]:
    """Count the non-zero latents of each sample.

    Returns
    -------
    ndarray of shape (n_samples,), int64

    Examples
    --------
    >>> l0_per_row([[0.0, 2.0], [1.0, 3.0]])
    array([1, 2])
    """
    return np.diff(checked(codes).indptr).astype(np.int64)


def l0(codes: Codes) -> float:
    """Mean number of non-zero latents per sample."""
    return float(l0_per_row(codes).mean())


def density(codes: Codes) -> float:
    """Share of the entries that are not zero, 0 to 1."""
    matrix = checked(codes)
    return matrix.nnz / (matrix.shape[0] * matrix.shape[1])


def zero_fraction(codes: Codes, level: float = 0.95) -> Interval:
    """Share of exact zeros, with a confidence interval for samples like these.

    The latents of one sample are not independent, so the interval is Student's t over the samples'
    own shares, not a binomial one over all entries.

    Parameters
    ----------
    codes : csr_array or ndarray of shape (n_samples, n_latents)
        The codes.
    level : float, default=0.95
        Confidence, in (0, 1).

    Returns
    -------
    Interval
        Within [0, 1].
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level!r} is out of range; a confidence in (0, 1) is needed")
    matrix = checked(codes)
    n, k = matrix.shape
    shares = 1 - np.diff(matrix.indptr) / k
    mean = float(shares.mean())
    if n == 1:
        return Interval(mean, float("nan"), float("nan"))
    margin = float(stats.t.ppf((1 + level) / 2, n - 1) * shares.std(ddof=1) / np.sqrt(n))
    return Interval(mean, max(0.0, mean - margin), min(1.0, mean + margin))


def hoyer_sparsity(codes: Codes, normalise: bool = False) -> NDArray[np.float64]:
    r"""Hoyer's measure of each sample: 0 for equal magnitudes, 1 for a single non-zero latent.

    .. math:: \frac{\sqrt{k} - \|z\|_1 / \|z\|_2}{\sqrt{k} - 1}

    Parameters
    ----------
    codes : csr_array or ndarray of shape (n_samples, n_latents)
        The codes.
    normalise : bool, default=False
        Divide each latent by its standard deviation over the samples first [2]_, so that a latent
        of small scale counts as much as one of large scale. A latent that never varies keeps its
        values.

    Returns
    -------
    ndarray of shape (n_samples,), float64
        NaN for a sample without non-zero latents, for which the measure is not defined, and for
        every sample when there is only one latent.

    References
    ----------
    .. [1] P. O. Hoyer, "Non-negative matrix factorization with sparseness constraints", JMLR 5,
       2004, equation 4.
    .. [2] E. Mathieu et al., "Disentangling disentanglement in variational autoencoders", ICML,
       2019, equation 8.
    """
    matrix = checked(codes)
    root = np.sqrt(matrix.shape[1])
    magnitudes = abs(matrix.astype(np.float64))
    if normalise:
        magnitudes.data /= _scales(matrix)[matrix.indices]
    largest = magnitudes.max(axis=1).toarray().ravel()
    # Dividing by the largest keeps the squares of very small and very large codes in range.
    magnitudes.data /= np.repeat(largest, np.diff(matrix.indptr))
    sums, squares = magnitudes.sum(axis=1), magnitudes.power(2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (root - sums / np.sqrt(squares)) / (root - 1)


def _scales(matrix: csr_array) -> NDArray[np.float64]:
    moments = central_moments(matrix, axis=0)
    return np.where(moments.is_constant, 1.0, np.sqrt(moments.second))


def gini(codes: Codes) -> NDArray[np.float64]:
    r"""Gini index of each sample's magnitudes: 0 when all are equal, 1 - 1/k for a single one.

    .. math:: 1 - 2 \sum_{i=1}^{k} \frac{|z|_{(i)}}{\|z\|_1} \frac{k - i + 1/2}{k}

    with the magnitudes in rising order.

    Returns
    -------
    ndarray of shape (n_samples,), float64
        NaN for a sample without non-zero latents.

    References
    ----------
    .. [1] N. Hurley and S. Rickard, "Comparing measures of sparsity", IEEE Transactions on
       Information Theory 55, 2009, table I.
    """
    matrix = checked(codes)
    n, k = matrix.shape
    row, magnitude = row_of_entry(matrix), np.abs(matrix.data.astype(np.float64))
    magnitude /= np.maximum.reduceat(
        np.append(magnitude, 0.0), np.minimum(matrix.indptr[:-1], matrix.nnz)
    )[row]
    magnitude = magnitude[np.lexsort((magnitude, row))]
    # The zeros come first and add nothing, so the last stored value of a row has the rank k.
    rank_from_end = np.repeat(matrix.indptr[1:], np.diff(matrix.indptr)) - 1 - np.arange(matrix.nnz)
    weighted = np.bincount(row, magnitude * (rank_from_end + 0.5) / k, n)
    with np.errstate(invalid="ignore"):
        return 1 - 2 * weighted / np.bincount(row, magnitude, n)


def kurtosis(codes: Codes, axis: int = 0) -> NDArray[np.float64]:
    """Excess kurtosis, 0 for a normal distribution: of each latent, or of each sample.

    Parameters
    ----------
    codes : csr_array or ndarray of shape (n_samples, n_latents)
        The codes.
    axis : {0, 1}, default=0
        0 measures each latent over the samples ("lifetime"), 1 each sample over the latents
        ("population").

    Returns
    -------
    ndarray of shape (n_latents,) or (n_samples,), float64
        NaN where all values are the same.

    References
    ----------
    .. [1] B. Willmore and D. J. Tolhurst, "Characterizing the sparseness of neural codes",
       Network 12, 2001, section 2.
    """
    if axis not in (0, 1):
        raise ValueError(f"axis={axis!r} is neither 0 (latents) nor 1 (samples)")
    moments = central_moments(checked(codes), axis)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(moments.is_constant, np.nan, moments.fourth / moments.second**2 - 3)


def activation_frequency(codes: Codes) -> NDArray[np.float64]:
    """Share of the samples in which each latent is not zero.

    Returns
    -------
    ndarray of shape (n_latents,), float64, 0 to 1
    """
    matrix = checked(codes)
    return np.bincount(matrix.indices, minlength=matrix.shape[1]) / matrix.shape[0]


def dead_latents(codes: Codes) -> NDArray[np.bool_]:
    """Mark the latents that are zero in every sample.

    Returns
    -------
    ndarray of shape (n_latents,), bool
        ``np.flatnonzero`` of it gives their indices.
    """
    return activation_frequency(codes) == 0


def always_on_latents(codes: Codes, threshold: float = 1.0) -> NDArray[np.bool_]:
    """Mark the latents that are not zero in at least a share `threshold` of the samples.

    Parameters
    ----------
    codes : csr_array or ndarray of shape (n_samples, n_latents)
        The codes.
    threshold : float, default=1.0
        In (0, 1].

    Returns
    -------
    ndarray of shape (n_latents,), bool
        ``np.flatnonzero`` of it gives their indices.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold={threshold!r} is out of range; a share in (0, 1] is needed")
    return activation_frequency(codes) >= threshold
