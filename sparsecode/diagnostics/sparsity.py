"""How sparse codes are. Everywhere, a stored zero counts as zero and NaN is refused.

Every function takes codes of shape (n_samples, n_latents), sparse (never made dense) or dense, and
raises ValueError when they are not 2-D, empty, or hold NaN or infinity.
"""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csr_array

Codes: TypeAlias = Any  # csr_array or ndarray; SciPy has no types to name here


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
    return np.diff(_checked(codes).indptr).astype(np.int64)


def l0(codes: Codes) -> float:
    """Mean number of non-zero latents per sample."""
    return float(l0_per_row(codes).mean())


def density(codes: Codes) -> float:
    """Share of the entries that are not zero, 0 to 1."""
    matrix = _checked(codes)
    return matrix.nnz / (matrix.shape[0] * matrix.shape[1])


def hoyer_sparsity(codes: Codes) -> NDArray[np.float64]:
    r"""Hoyer's measure of each sample: 0 for equal magnitudes, 1 for a single non-zero latent.

    .. math:: \frac{\sqrt{k} - \|z\|_1 / \|z\|_2}{\sqrt{k} - 1}

    Returns
    -------
    ndarray of shape (n_samples,), float64
        NaN for a sample without non-zero latents, for which the measure is not defined, and for
        every sample when there is only one latent.

    References
    ----------
    .. [1] P. O. Hoyer, "Non-negative matrix factorization with sparseness constraints", JMLR 5,
       2004, equation 4.
    """
    matrix = _checked(codes)
    root = np.sqrt(matrix.shape[1])
    magnitudes = abs(matrix.astype(np.float64))
    largest = magnitudes.max(axis=1).toarray().ravel()
    # Dividing by the largest keeps the squares of very small and very large codes in range.
    magnitudes.data /= np.repeat(largest, np.diff(matrix.indptr))
    sums, squares = magnitudes.sum(axis=1), magnitudes.power(2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (root - sums / np.sqrt(squares)) / (root - 1)


def activation_frequency(codes: Codes) -> NDArray[np.float64]:
    """Share of the samples in which each latent is not zero.

    Returns
    -------
    ndarray of shape (n_latents,), float64, 0 to 1
    """
    matrix = _checked(codes)
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


def _checked(codes: Codes) -> csr_array:
    """Return the codes as finite CSR that stores non-zeros only; the input stays as it is."""
    if not sparse.issparse(codes):
        codes = np.asarray(codes)
    if codes.ndim != 2 or 0 in codes.shape:
        raise ValueError(
            f"codes have shape {codes.shape}; (n_samples, n_latents), both at least 1, is needed"
        )
    matrix = csr_array(codes)
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    if not np.isfinite(matrix.data).all():
        raise ValueError("codes hold NaN or infinity; remove those samples first")
    if not matrix.data.all():
        matrix = matrix.copy()
        matrix.eliminate_zeros()
    return matrix
