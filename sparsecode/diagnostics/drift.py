"""Did the data change since training? Two sets of codes from one model, compared."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sparsecode.diagnostics.matrix import Codes, checked
from sparsecode.diagnostics.sparsity import activation_frequency, l0_per_row


@dataclass(frozen=True, eq=False)
class Drift:
    """Differences between two sets of codes.

    Attributes
    ----------
    frequency_change : ndarray of shape (n_latents,)
        Activation frequency of the new codes minus that of the reference.
    p_values : ndarray of shape (n_latents,)
        Of the two-sided test that a latent's frequency is the same (two proportions, pooled); 1
        for a latent that never, or always, fires in both.
    drifted : ndarray of shape (n_latents,), bool
        Significant at a false discovery rate of `level` and changed by at least `min_change`.
    l0_statistic, l0_p_value : float
        Kolmogorov and Smirnov's two-sample test on the non-zeros per row.
    level, min_change : float
        As asked.
    """

    frequency_change: NDArray[np.float64]
    p_values: NDArray[np.float64]
    drifted: NDArray[np.bool_]
    l0_statistic: float
    l0_p_value: float
    level: float
    min_change: float

    @property
    def has_drifted(self) -> bool:
        """Whether at least one latent has."""
        return bool(self.drifted.any())

    def __str__(self) -> str:
        n, k = int(self.drifted.sum()), len(self.drifted)
        largest = np.abs(self.frequency_change).max()
        return (
            f"{n:,} of {k:,} latents fire at another rate (false discovery rate {self.level:g}, "
            f"change of at least {self.min_change:g}); the largest change is {largest:.3f}"
        )


def drift(reference: Codes, new: Codes, level: float = 0.05, min_change: float = 0.01) -> Drift:
    """Compare new codes with those of the data that a model was made for.

    Parameters
    ----------
    reference, new : csr_array or ndarray of shape (n_samples, n_latents)
        Codes from the same model.
    level : float, default=0.05
        False discovery rate over the latents, in (0, 1).
    min_change : float, default=0.01
        Smaller changes of frequency do not count, however significant.

    Returns
    -------
    Drift

    References
    ----------
    .. [1] Y. Benjamini and Y. Hochberg, "Controlling the false discovery rate", JRSS B 57, 1995,
       equation 1.
    """
    old, fresh = checked(reference), checked(new)
    if old.shape[1] != fresh.shape[1]:
        raise ValueError(
            f"the codes have {old.shape[1]} and {fresh.shape[1]} latents; compare one model's"
        )
    if not 0 < level < 1:
        raise ValueError(f"level={level!r} is out of range; a rate in (0, 1) is needed")
    before, after = activation_frequency(old), activation_frequency(fresh)
    n_old, n_new = old.shape[0], fresh.shape[0]
    pooled = (before * n_old + after * n_new) / (n_old + n_new)
    spread = np.sqrt(pooled * (1 - pooled) * (1 / n_old + 1 / n_new))
    z = np.divide(after - before, spread, out=np.zeros_like(spread), where=spread > 0)
    p_values = 2 * stats.norm.sf(np.abs(z))
    significant = stats.false_discovery_control(p_values) <= level
    rows = stats.ks_2samp(l0_per_row(old), l0_per_row(fresh), method="auto")
    change = after - before
    return Drift(
        change,
        p_values,
        significant & (np.abs(change) >= min_change),
        float(rows.statistic),
        float(rows.pvalue),
        level,
        min_change,
    )
