"""What every measure takes: finite CSR codes that store non-zeros only."""

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csr_array

Codes: TypeAlias = Any  # csr_array or ndarray; SciPy has no types to name here


class CentralMoments(NamedTuple):
    """Moments of each row or latent, the zeros included.

    Attributes
    ----------
    mean, second, fourth : ndarray of float64
        Mean, and means of the 2nd and 4th power of the deviation from it.
    """

    mean: NDArray[np.float64]
    second: NDArray[np.float64]
    fourth: NDArray[np.float64]

    @property
    def is_constant(self) -> NDArray[np.bool_]:
        """Where the spread is no more than rounding."""
        return self.second <= (np.finfo(np.float64).resolution * self.mean) ** 2


def checked(codes: Codes) -> csr_array:
    """Return the codes as finite CSR that stores non-zeros only; the input stays as it is.

    Raises
    ------
    ValueError
        Codes that are not 2-D, are empty, or hold NaN or infinity.
    """
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


def row_of_entry(matrix: csr_array) -> NDArray[np.int64]:
    """Row of each stored value."""
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))


def central_moments(matrix: csr_array, axis: int) -> CentralMoments:
    """Moments over the samples (axis 0) or over the latents (axis 1), in two passes.

    The second pass is about the mean, for differences of power sums would cancel.
    """
    n = matrix.shape[axis]
    group = matrix.indices if axis == 0 else row_of_entry(matrix)
    n_groups = matrix.shape[1 - axis]
    values = matrix.data.astype(np.float64)
    n_zeros = n - np.bincount(group, minlength=n_groups)
    mean = np.bincount(group, values, n_groups) / n
    squares = (values - mean[group]) ** 2
    second = (np.bincount(group, squares, n_groups) + n_zeros * mean**2) / n
    fourth = (np.bincount(group, squares**2, n_groups) + n_zeros * mean**4) / n
    return CentralMoments(mean, second, fourth)
