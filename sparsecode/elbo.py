"""What a sample costs: rate and distortion in nats, and the importance-weighted bound."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, kl_divergence
from torch.special import log_ndtr

from sparsecode.distributions import GatedNormal
from sparsecode.kl import kl_monte_carlo, spike_slab_kl
from sparsecode.vae import SparseVAE

# Rows times draws decoded at once by `iwae_bound`.
_CHUNK = 4096


@dataclass(frozen=True)
class ElboTerms:
    """Parts of -ELBO, each of shape (n,), in nats per sample.

    Attributes
    ----------
    rate_slab : Tensor
        Cost of the values: KL of the open latents to the slab (for the "gaussian" posterior, the
        KL of all latents to the prior).
    rate_spike : Tensor
        Cost of saying which latents are open, -log p(gate).
    distortion : Tensor
        -log p(x | z).
    """

    rate_slab: Tensor
    rate_spike: Tensor
    distortion: Tensor

    @property
    def rate(self) -> Tensor:
        """rate_slab + rate_spike."""
        return self.rate_slab + self.rate_spike

    @property
    def elbo(self) -> Tensor:
        """Lower bound on log p(x), whatever beta was in training."""
        return -(self.rate + self.distortion)


def elbo_terms(
    model: SparseVAE,
    x: Tensor,
    q: GatedNormal,
    likelihood: Distribution,
    kl_samples: int = 0,
    generator: torch.Generator | None = None,
) -> ElboTerms:
    """Rate and distortion of rows x under the posterior q and a draw from it.

    Parameters
    ----------
    model : SparseVAE
    x : Tensor of shape (n, d)
    q : GatedNormal of shape (n, k)
        ``model.encode(x)``.
    likelihood : Distribution
        ``model.decode(z)`` for a draw z from ``q``.
    kl_samples : int, default=0
        Estimate the KL of the "gaussian" posterior from so many draws; 0 is the exact KL.
    generator : torch.Generator, optional
        Source of those draws.
    """
    distortion = -likelihood.log_prob(x)
    spec = model.spec
    if spec.posterior == "spike_slab":
        return ElboTerms(gated_rate_slab(q), rate_spike(q.gate, spec.spike_weight), distortion)
    per_latent = _gaussian_rate(
        model, Normal(q.loc, q.scale, validate_args=False), kl_samples, generator
    )
    rate = per_latent.sum(-1)
    return ElboTerms(rate, torch.zeros_like(rate), distortion)


def gated_rate_slab(q: GatedNormal) -> Tensor:
    """Sum over open latents of KL(N(loc, scale²) || N(0, 1)), shape (n,)."""
    of_scale = 0.5 * (q.scale**2 - 1.0) - torch.log(q.scale)
    return (q.gate * (0.5 * q.loc**2 + of_scale)).sum(-1)


def rate_spike(gate: Tensor, spike_weight: float) -> Tensor:
    """-log p(gate) under independent gates of density 1 - p, shape (n,); 0 for p = 0."""
    if spike_weight == 0:
        return torch.zeros_like(gate[..., 0])
    n_open = gate.sum(-1)
    n_closed = gate.shape[-1] - n_open
    return -n_open * math.log1p(-spike_weight) - n_closed * math.log(spike_weight)


def _gaussian_rate(
    model: SparseVAE, q: Normal, kl_samples: int, generator: torch.Generator | None
) -> Tensor:
    spec = model.spec
    if kl_samples:
        return kl_monte_carlo(q, model.prior(), kl_samples, generator)
    if spec.prior == "spike_slab":
        return spike_slab_kl(q.loc, q.scale, spec.spike_weight, spec.spike_scale)
    return kl_divergence(q, model.prior())


@torch.no_grad()
def iwae_bound(model: SparseVAE, x: Tensor, noise: Tensor) -> Tensor:
    r"""Importance-weighted bound on log p(x), in nats.

    .. math:: \log \tfrac1K \sum_{i} p(x \mid z_i)\, p(z_i) / q(z_i \mid x), \quad z_i \sim q

    The prior charges for the gates, too, so bounds of different p can be compared. Gates are drawn
    here, each open with its `SparseVAE.inclusion_proba`: the bound holds for any q, and one that
    spreads over several supports comes nearer than the single support of the code.

    Parameters
    ----------
    model : SparseVAE
    x : Tensor of shape (n, d)
    noise : Tensor of shape (2, K, k)
        Standard normal draws for values and gates, the same for every row: the bound of a row then
        does not depend on the rows beside it.

    Returns
    -------
    Tensor of shape (n,)

    References
    ----------
    .. [1] Y. Burda, R. Grosse and R. Salakhutdinov (2016), "Importance weighted autoencoders",
       ICLR, eq. 8.
    """
    prior = model.prior()
    rows = max(1, _CHUNK // noise.shape[1])
    return torch.cat([_iwae_rows(model, prior, part, *noise) for part in x.split(rows)])


def _iwae_rows(
    model: SparseVAE, prior: Distribution, x: Tensor, noise: Tensor, gate_noise: Tensor
) -> Tensor:
    loc, scale = model.heads(x)
    is_open = torch.ones_like(loc, dtype=torch.bool).expand(len(noise), *loc.shape)
    log_q_gate = torch.zeros_like(loc)
    if model.spec.is_gated:
        margin = model.margin(loc, scale)
        is_open = gate_noise[:, None] < margin  # (K, n, k)
        log_q_gate = log_ndtr(torch.where(is_open, margin, -margin))
    q = GatedNormal(loc, scale, is_open.to(loc.dtype), validate_args=False)
    z = q.gate * (loc + scale * noise[:, None])
    log_ratio = (prior.log_prob(z) - q.log_prob(z) - log_q_gate).sum(-1)
    log_lik = model.decode(z.flatten(0, 1)).log_prob(x.repeat(len(noise), 1)).view(len(noise), -1)
    return torch.logsumexp(log_lik + log_ratio, 0) - math.log(len(noise))
