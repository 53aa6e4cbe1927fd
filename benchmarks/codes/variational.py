"""Variational rivals: dense Gaussian VAE, VSC, VSC with thresholding, VAEase.

All have the encoder of their papers, one hidden layer of ReLU (512 units; ``hidden=0`` makes
encoder and decoder linear, a knob of the tuning), and a Gaussian likelihood whose scale is learned:
the maximum-likelihood value of the batch, which turns the distortion into d/2 * log(mean error)
(O. Rybkin, K. Daniilidis and S. Levine, 2021, "Simple and effective VAE training with calibrated
decoders", eq. 5). ``beta`` multiplies the rate.
"""

from statistics import NormalDist

import torch
from torch import Tensor, nn
from typing_extensions import override

from benchmarks.codes.training import Network, ThresholdNetwork, mlp

_HIDDEN = 512
# log sigma = -3 at the start, as the package has it: a VAE of many latents starts as autoencoder.
_FIRST_LOG_SCALE = -3.0
_MIN_LOG_SCALE, _MAX_LOG_SCALE = -10.0, 3.0
_MIN_ERROR = 1e-6


def gaussian_kl(loc: Tensor, scale: Tensor) -> Tensor:
    """KL(N(loc, scale²) || N(0, 1)), elementwise."""
    return 0.5 * (loc.square() + scale.square() - 1) - scale.log()


def bernoulli_kl(logit: Tensor, prior: float) -> Tensor:
    """KL(Bernoulli(sigmoid(logit)) || Bernoulli(prior)), elementwise."""
    on, log_on = logit.sigmoid(), nn.functional.logsigmoid(logit)
    off, log_off = (-logit).sigmoid(), nn.functional.logsigmoid(-logit)
    log_prior = torch.tensor([prior, 1 - prior], dtype=logit.dtype).log().tolist()
    return on * (log_on - log_prior[0]) + off * (log_off - log_prior[1])


def spike_slab_kl(loc: Tensor, scale: Tensor, logit: Tensor, prior: float) -> Tensor:
    """KL of a Gaussian slab with an atom at 0, of weight sigmoid(logit), to its prior.

    F. Tonolini et al. (2019), appendix B of the first version.
    """
    return logit.sigmoid() * gaussian_kl(loc, scale) + bernoulli_kl(logit, prior)


def soft_threshold(x: Tensor, threshold: Tensor) -> Tensor:
    """Shrink towards 0 by ``threshold``, exactly to 0 within it."""
    return x.sign() * (x.abs() - threshold).relu()


class Heads(nn.Module):
    """Encoder: x (n, d) -> some outputs (n, k) each."""

    def __init__(self, n_features: int, k: int, hidden: int, n_heads: int) -> None:
        super().__init__()
        self.body = (
            nn.Sequential(nn.Linear(n_features, hidden), nn.ReLU()) if hidden else nn.Identity()
        )
        self.heads = nn.ModuleList(nn.Linear(hidden or n_features, k) for _ in range(n_heads))

    @override
    def forward(self, x: Tensor) -> list[Tensor]:
        h = self.body(x)
        return [head(h) for head in self.heads]


class GaussianDecoder(Network):
    """What the four share: heads, decoder, likelihood. The first two heads are loc and scale."""

    n_heads = 2

    def __init__(
        self, n_features: int, k: int, l0: int, beta: float = 1.0, hidden: int = _HIDDEN
    ) -> None:
        super().__init__()
        self.zeros = 1 - l0 / k
        self.beta = beta
        self.n_features = n_features
        self.encoder = Heads(n_features, k, hidden, self.n_heads)
        nn.init.zeros_(self.scale_head.weight)
        nn.init.constant_(self.scale_head.bias, _FIRST_LOG_SCALE)
        self.decoder = mlp(k, hidden, n_features)

    @property
    def scale_head(self) -> nn.Linear:
        """Layer for log sigma."""
        head = self.encoder.heads[1]
        assert isinstance(head, nn.Linear)
        return head

    def outputs(self, x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return loc, scale and whatever other heads there are."""
        loc, log_scale, *rest = self.encoder(x)
        return loc, log_scale.clamp(_MIN_LOG_SCALE, _MAX_LOG_SCALE).exp(), rest

    @override
    def decode(self, z: Tensor) -> Tensor:
        """Means of the likelihood (n, d)."""
        return self.decoder(z)

    @override
    def column_norms(self) -> Tensor:
        """How far a unit of each latent moves the decoder's first layer, (k,)."""
        first = self.decoder[0]
        assert isinstance(first, nn.Linear)
        return first.weight.norm(dim=0)

    def negative_elbo(self, x: Tensor, z: Tensor, rate: Tensor) -> Tensor:
        """Mean distortion + beta * rate, nats per row, up to a constant."""
        error = (x - self.decode(z)).square().mean().clamp(min=_MIN_ERROR)
        return 0.5 * self.n_features * error.log() + self.beta * rate.sum(1).mean()


class DenseVAE(GaussianDecoder):
    """D. Kingma and M. Welling (2014), "Auto-encoding variational Bayes"; code = mean."""

    @override
    def loss(self, x: Tensor, progress: float) -> Tensor:
        """Negative ELBO."""
        loc, scale, _ = self.outputs(x)
        z = loc + scale * torch.randn_like(scale)
        return self.negative_elbo(x, z, gaussian_kl(loc, scale))

    @override
    def codes(self, x: Tensor) -> Tensor:
        """Posterior means."""
        return self.outputs(x)[0]

    @override
    def rate(self, x: Tensor) -> Tensor:
        """KL of each row."""
        loc, scale, _ = self.outputs(x)
        return gaussian_kl(loc, scale).sum(1)


class SparseVAE(GaussianDecoder, ThresholdNetwork):
    """A variational rival whose code is thresholded after training."""


class VSC(SparseVAE):
    """Variational Sparse Coding.

    F. Tonolini, B. S. Jensen and R. Murray-Smith (2019), "Variational sparse coding", UAI: the
    relaxed gate sigmoid(c * (eta - 1 + gamma)) with c raised from 50 to 200, the warm-up (the slab
    starts as N(0, 1) and becomes the encoder's over the first fifth), and the closed-form KL of the
    first version: one spike-and-slab prior of weight l0 / k, without pseudo-inputs. Code: the
    slab's mean where the inclusion probability exceeds the calibrated threshold (its logit is
    compared: probabilities pile up at 1).
    """

    n_heads = 3
    first_sharpness, last_sharpness = 50.0, 200.0
    warm_up = 0.2

    def __init__(
        self, n_features: int, k: int, l0: int, beta: float = 1.0, hidden: int = _HIDDEN
    ) -> None:
        super().__init__(n_features, k, l0, beta, hidden)
        self.prior = l0 / k

    @override
    def loss(self, x: Tensor, progress: float) -> Tensor:
        """Negative ELBO of the relaxed model."""
        loc, scale, (logit,) = self.outputs(x)
        warm = min(1.0, progress / self.warm_up)
        noise = torch.randn_like(scale)
        slab = warm * loc + (warm * scale.square() + (1 - warm)).sqrt() * noise
        sharpness = self.first_sharpness + progress * (self.last_sharpness - self.first_sharpness)
        gate = (sharpness * (torch.rand_like(logit) - 1 + logit.sigmoid())).sigmoid()
        return self.negative_elbo(x, gate * slab, spike_slab_kl(loc, scale, logit, self.prior))

    @override
    def scores_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of inclusion and slab means."""
        loc, _, (logit,) = self.outputs(x)
        return logit, loc

    @override
    def rate(self, x: Tensor) -> Tensor:
        """KL of each row."""
        loc, scale, (logit,) = self.outputs(x)
        return spike_slab_kl(loc, scale, logit, self.prior).sum(1)


class ThresholdedVSC(SparseVAE):
    """Variational sparse coding with learned thresholding, Gaussian base distribution.

    K. Fallah and C. J. Rozell (2022), "Variational sparse coding with learned thresholding",
    ICML: z = loc + T(scale * eps) where the soft threshold T leaves something, else 0; the gradient
    passes straight through; the KL is the base's. The threshold is a head of the encoder with their
    Gamma(2) prior, as a point estimate where they infer a Gamma posterior; its prior mean makes l0
    of k latents active when scale = 1. One draw, where they take the best of several. The noise is
    symmetric, so given that a latent is not zero its mean is loc, and it is not zero with a
    probability that grows with scale / threshold: the code is loc where that ratio exceeds the
    calibrated threshold.
    """

    n_heads = 3

    def __init__(
        self, n_features: int, k: int, l0: int, beta: float = 1.0, hidden: int = _HIDDEN
    ) -> None:
        super().__init__(n_features, k, l0, beta, hidden)
        # Half as wide as the prior's at the start, and the threshold with it.
        self.mean_threshold = NormalDist().inv_cdf(1 - l0 / k / 2)
        nn.init.constant_(self.scale_head.bias, -0.7)

    def sample(self, loc: Tensor, scale: Tensor, threshold: Tensor, noise: Tensor) -> Tensor:
        """Exact zeros forward; backward as if z = loc + scale * noise, less an open threshold."""
        deviation = scale * noise
        kept = soft_threshold(deviation, threshold)
        is_open = kept != 0
        base = loc + deviation - is_open * deviation.sign() * threshold
        return base + (torch.where(is_open, loc + kept, 0.0) - base).detach()

    @override
    def outputs(self, x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return loc, scale and [threshold]."""
        loc, scale, (log_threshold,) = super().outputs(x)
        return loc, scale, [self.mean_threshold * log_threshold.clamp(-5, 5).exp()]

    def threshold_cost(self, threshold: Tensor) -> Tensor:
        """-log Gamma(threshold; 2, 2 / mean), up to a constant, 0 at the mode."""
        ratio = 2 * threshold / self.mean_threshold
        return ratio - ratio.log() - 1

    @override
    def loss(self, x: Tensor, progress: float) -> Tensor:
        """Negative ELBO of the base, with the threshold's cost."""
        loc, scale, (threshold,) = self.outputs(x)
        z = self.sample(loc, scale, threshold, torch.randn_like(scale))
        return self.negative_elbo(x, z, gaussian_kl(loc, scale) + self.threshold_cost(threshold))

    @override
    def scores_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log ratios of scale to threshold, and means."""
        loc, scale, (threshold,) = self.outputs(x)
        return (scale / threshold).log(), loc

    @override
    def rate(self, x: Tensor) -> Tensor:
        """KL of each row's base distribution."""
        loc, scale, _ = self.outputs(x)
        return gaussian_kl(loc, scale).sum(1)


class VAEase(SparseVAE):
    """VAEase.

    Y. Lu, X. Zhu, T. He and D. Wipf (2025), "Sparse autoencoders, again?", ICML: a Gaussian
    VAE whose decoder sees (1 - sigma) * z, so that a latent at its prior is switched off
    for this row. Code: (1 - sigma) * mean where its size exceeds the calibrated threshold.
    """

    @override
    def loss(self, x: Tensor, progress: float) -> Tensor:
        """Negative ELBO."""
        loc, scale, _ = self.outputs(x)
        z = loc + scale * torch.randn_like(scale)
        return self.negative_elbo(x, (1 - scale) * z, gaussian_kl(loc, scale))

    @override
    def scores_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Sizes and values of (1 - sigma) * mean."""
        loc, scale, _ = self.outputs(x)
        values = (1 - scale) * loc
        return values.abs(), values

    @override
    def rate(self, x: Tensor) -> Tensor:
        """KL of each row."""
        loc, scale, _ = self.outputs(x)
        return gaussian_kl(loc, scale).sum(1)
