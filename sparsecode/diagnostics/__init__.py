"""Measures of a code matrix: pure functions of CSR (or dense) codes, without torch.

`diagnose` computes all that needs only codes and labels. `sparsecode.diagnostics.figures` draws
them with matplotlib, which is an extra: ``pip install 'sparsecode[report]'``.
"""

from sparsecode.diagnostics import figures
from sparsecode.diagnostics.coactivation import Pairs, coactivation_counts, coactivation_pairs
from sparsecode.diagnostics.drift import Drift, drift
from sparsecode.diagnostics.labels import (
    LabelShares,
    activation_by_label,
    activation_entropy,
    mutual_information,
)
from sparsecode.diagnostics.latents import (
    Histograms,
    LatentRates,
    active_units,
    collapsed_latents,
    effective_latents,
    energy_share,
    rate_per_latent,
    top_samples,
    value_histograms,
)
from sparsecode.diagnostics.reconstruction import (
    Reliability,
    explained_variance,
    explained_variance_removed,
    latent_changes,
    reliability,
)
from sparsecode.diagnostics.sparsity import (
    Interval,
    activation_frequency,
    always_on_latents,
    dead_latents,
    density,
    gini,
    hoyer_sparsity,
    kurtosis,
    l0,
    l0_per_row,
    zero_fraction,
)
from sparsecode.diagnostics.summary import Diagnostics, diagnose
from sparsecode.diagnostics.verdicts import Verdict

__all__ = [
    "Diagnostics",
    "Drift",
    "Histograms",
    "Interval",
    "LabelShares",
    "LatentRates",
    "Pairs",
    "Reliability",
    "Verdict",
    "activation_by_label",
    "activation_entropy",
    "activation_frequency",
    "active_units",
    "always_on_latents",
    "coactivation_counts",
    "coactivation_pairs",
    "collapsed_latents",
    "dead_latents",
    "density",
    "diagnose",
    "drift",
    "effective_latents",
    "energy_share",
    "explained_variance",
    "explained_variance_removed",
    "figures",
    "gini",
    "hoyer_sparsity",
    "kurtosis",
    "l0",
    "l0_per_row",
    "latent_changes",
    "mutual_information",
    "rate_per_latent",
    "reliability",
    "top_samples",
    "value_histograms",
    "zero_fraction",
]
