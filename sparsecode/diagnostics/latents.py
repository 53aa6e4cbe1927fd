"""What each latent does: how it varies, what it costs, where it fires most."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from sparsecode.diagnostics.matrix import Codes, central_moments, checked, row_of_entry


class LatentRates(NamedTuple):
    """Cost of each latent, nats per sample.

    Attributes
    ----------
    spike : ndarray of shape (n_latents,)
        Of saying whether it is on.
    slab : ndarray of shape (n_latents,)
        Of its value where it is on.
    """

    spike: NDArray[np.float64]
    slab: NDArray[np.float64]


class Histograms(NamedTuple):
    """Histograms of each latent's non-zero values.

    Attributes
    ----------
    counts : ndarray of shape (n_latents, n_bins), int64
    edges : ndarray of shape (n_bins + 1,), float64
        The same for all latents.
    """

    counts: NDArray[np.int64]
    edges: NDArray[np.float64]


def active_units(codes: Codes, threshold: float = 0.01) -> NDArray[np.bool_]:
    """Mark the latents whose variance over the samples exceeds `threshold`.

    Returns
    -------
    ndarray of shape (n_latents,), bool

    References
    ----------
    .. [1] Y. Burda, R. Grosse and R. Salakhutdinov, "Importance weighted autoencoders", ICLR,
       2016, section 4.2.
    """
    if not threshold >= 0:
        raise ValueError(f"threshold={threshold!r} is out of range; a variance >= 0 is needed")
    return central_moments(checked(codes), axis=0).second > threshold


def rate_per_latent(codes: Codes, p: float, slab_scale: ArrayLike = 1.0) -> LatentRates:
    r"""Compute what each latent costs under the spike-and-slab prior, in nats per sample.

    With :math:`f` the share of samples in which the latent is on,

    .. math::
        \text{spike} &= -f \log(1 - p) - (1 - f) \log p \\
        \text{slab} &= \tfrac12 \overline{z^2} + f (\tfrac12 (\sigma^2 - 1) - \log \sigma)

    Parameters
    ----------
    codes : csr_array or ndarray of shape (n_samples, n_latents)
        Posterior means, zero where the gate is closed.
    p : float
        Prior probability of a zero, in [0, 1). At 0 every latent is on for nothing.
    slab_scale : array-like of shape (n_latents,) or scalar, default=1.0
        Posterior standard deviation :math:`\sigma` of a latent that is on. At 1 the noise costs
        nothing, and the slab is the cost of the means alone.

    Returns
    -------
    LatentRates
    """
    if not 0 <= p < 1:
        raise ValueError(f"p={p!r} is out of range; a probability of zeros in [0, 1) is needed")
    matrix = checked(codes)
    n, k = matrix.shape
    scale = np.broadcast_to(np.asarray(slab_scale, dtype=np.float64), (k,))
    if not (np.isfinite(scale) & (scale > 0)).all():
        raise ValueError("slab_scale holds values that are not positive; standard deviations are")
    on = np.bincount(matrix.indices, minlength=k) / n
    squares = np.bincount(matrix.indices, matrix.data.astype(np.float64) ** 2, k) / n
    slab = squares / 2 + on * ((scale**2 - 1) / 2 - np.log(scale))
    spike = np.zeros(k) if p == 0 else -on * np.log1p(-p) - (1 - on) * np.log(p)
    return LatentRates(spike, slab)


def collapsed_latents(rate_slab: ArrayLike, threshold: float = 0.01) -> NDArray[np.bool_]:
    """Mark the latents whose values cost about nothing, so can say about nothing.

    Parameters
    ----------
    rate_slab : array-like of shape (n_latents,)
        As from `rate_per_latent`; the minimum is 0. Divided by the activation frequency it is the
        rate of one firing, which does not shrink with p.
    threshold : float, default=0.01
        In the units of `rate_slab`, nats.

    Returns
    -------
    ndarray of shape (n_latents,), bool
        A latent that never fires is collapsed, too; the converse does not hold.
    """
    rates = np.asarray(rate_slab, dtype=np.float64)
    if rates.ndim != 1 or not np.isfinite(rates).all():
        raise ValueError("rate_slab must be finite, of shape (n_latents,); see rate_per_latent")
    return rates < threshold


def energy_share(codes: Codes) -> NDArray[np.float64]:
    """Share of each latent in the sum of all squared codes.

    Returns
    -------
    ndarray of shape (n_latents,), float64
        Sums to 1; all NaN when every code is zero.
    """
    matrix = checked(codes)
    largest = np.abs(matrix.data).max(initial=0)
    squares = (matrix.data.astype(np.float64) / (largest or 1)) ** 2
    energy = np.bincount(matrix.indices, squares, matrix.shape[1])
    with np.errstate(invalid="ignore"):
        return energy / energy.sum()


def effective_latents(codes: Codes) -> float:
    r"""Compute the number of equally used latents with the same entropy of use.

    .. math:: \exp\left(-\sum_j e_j \log e_j\right)

    with :math:`e_j` the shares of `energy_share`.

    Returns
    -------
    float
        1 to n_latents; 0 when every code is zero.

    References
    ----------
    .. [1] M. O. Hill, "Diversity and evenness", Ecology 54, 1973, with a = 1.
    """
    share = energy_share(codes)
    return float(np.exp(special.entr(share).sum())) if np.isfinite(share).all() else 0.0


def value_histograms(codes: Codes, n_bins: int = 24) -> Histograms:
    """Histogram of each latent's non-zero values, all with the same edges.

    Parameters
    ----------
    codes : csr_array or ndarray of shape (n_samples, n_latents)
        The codes.
    n_bins : int, default=24
        At least 1. The bins span the values from the 0.1th to the 99.9th percentile, and 0; values
        beyond are counted in the outermost bins.

    Returns
    -------
    Histograms
    """
    if n_bins < 1:
        raise ValueError(f"n_bins={n_bins!r} is out of range; at least 1 is needed")
    matrix = checked(codes)
    k = matrix.shape[1]
    low, high = 0.0, 0.0
    if matrix.nnz:
        low, high = (float(end) for end in np.percentile(matrix.data, [0.1, 99.9]))
    edges = np.histogram_bin_edges([min(low, 0.0), max(high, 0.0)], n_bins)
    inside = np.searchsorted(edges, matrix.data.astype(np.float64), side="right") - 1
    cell = matrix.indices.astype(np.int64) * n_bins + np.clip(inside, 0, n_bins - 1)
    return Histograms(np.bincount(cell, minlength=k * n_bins).reshape(k, n_bins), edges)


def top_samples(codes: Codes, n: int = 8) -> NDArray[np.int64]:
    """Find the samples in which each latent is largest in magnitude, the largest first.

    Parameters
    ----------
    codes : csr_array or ndarray of shape (n_samples, n_latents)
        The codes.
    n : int, default=8
        How many, at least 1.

    Returns
    -------
    ndarray of shape (n_latents, n), int64
        Row numbers, of equal magnitudes the first; -1 where the latent fires in fewer samples.
    """
    if n < 1:
        raise ValueError(f"n={n!r} is out of range; at least 1 is needed")
    matrix = checked(codes)
    k = matrix.shape[1]
    order = np.lexsort((-np.abs(matrix.data), matrix.indices))  # stable: rows stay in order
    latent = matrix.indices[order]
    starts = np.searchsorted(latent, np.arange(k))
    rank = np.arange(len(latent)) - starts[latent]
    top = np.full((k, n), -1, dtype=np.int64)
    kept = rank < n
    top[latent[kept], rank[kept]] = row_of_entry(matrix)[order][kept]
    return top
