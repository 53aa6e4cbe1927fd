"""`SparseVAE`: ``encode(x)`` -> posterior, ``decode(z)`` -> likelihood."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Laplace, Normal

from sparsecode.distributions import (
    GatedNormal,
    LikelihoodName,
    SpikeAndSlab,
    likelihood_distribution,
)
from sparsecode.gate import Gate, PosteriorName
from sparsecode.kl import expected_slab_responsibility
from sparsecode.networks import (
    CustomEncoder,
    DictionaryPlusHidden,
    Encoder,
    ImageShape,
    TiedEncoder,
    build_decoder,
    build_encoder,
    initialise_,
)

PriorName = Literal["spike_slab", "normal", "laplace"]

# Below this scale, in units of the data's own, a Gaussian likelihood rewards rounding errors.
MIN_SCALE = 1e-3
# exp(2·_MAX_LOG_SCALE) bounds the posterior variance: far above the prior's, far below overflow.
_MAX_LOG_SCALE = 3.0
_MIN_LOG_SCALE = -10.0
_SCALE_DECAY = 0.9
# Filters are the atoms from so many latents for each feature on.
_TIED_FROM = 0.5


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


@dataclass(frozen=True)
class ModelSpec:
    """All that is needed to build the network, as plain values.

    Attributes
    ----------
    n_features, n_latents : int
        d and k.
    spike_weight : float
        p in [0, 1).
    posterior : {"spike_slab", "gaussian"}
        Gated posterior, or the dense Gaussian of the source.
    prior : {"spike_slab", "normal", "laplace"}
        Prior of the "gaussian" posterior; the gated posterior has its own spike and slab.
    likelihood : {"bernoulli", "continuous_bernoulli", "gaussian"}
        Distribution of x given z.
    spike_scale : float
        c, standard deviation of the spike of the "gaussian" posterior's prior.
    encoder_sizes, decoder_sizes : tuple of int
        Widths of the hidden layers, in the order in which a row passes them; () is linear.
    image_shape : tuple of int or None
        (H, W) or (H, W, C) for convolutional networks.
    usage_balance : float
        See :class:`sparsecode.gate.Gate`.
    """

    n_features: int
    n_latents: int
    spike_weight: float
    posterior: PosteriorName
    prior: PriorName
    likelihood: LikelihoodName
    spike_scale: float
    encoder_sizes: tuple[int, ...]
    decoder_sizes: tuple[int, ...]
    image_shape: ImageShape | None
    usage_balance: float

    @property
    def is_gated(self) -> bool:
        """Whether a gate closes latents in training."""
        return self.posterior == "spike_slab" and self.spike_weight > 0

    @property
    def is_tied(self) -> bool:
        """Whether the encoder's filters are the decoder's atoms.

        They are under a decoder that has hidden layers beside its dictionary, from half as many
        latents as features on. A linear decoder alone, and few latents, need filters of their own.
        """
        is_flat = self.image_shape is None
        is_large = self.n_latents >= _TIED_FROM * self.n_features
        return self.is_gated and is_flat and is_large and bool(self.decoder_sizes)


def _encoder(spec: ModelSpec, decoder: nn.Module) -> Encoder | TiedEncoder:
    if spec.is_tied and isinstance(decoder, DictionaryPlusHidden):
        return TiedEncoder(decoder.linear, spec.encoder_sizes)
    return build_encoder(
        spec.n_features, spec.n_latents, spec.encoder_sizes, spec.image_shape, spec.is_gated
    )


def _decoder(spec: ModelSpec) -> nn.Module:
    return build_decoder(
        spec.n_features, spec.n_latents, spec.decoder_sizes, spec.image_shape, spec.is_gated
    )


class SparseVAE(nn.Module):
    """Variational autoencoder whose codes have exact zeros.

    Parameters
    ----------
    spec : ModelSpec
        What to build.
    encoder, decoder : Module, optional
        Own networks: (n, d) -> (n, 2k) and (n, k) -> (n, d).

    Attributes
    ----------
    gate : Gate
        Scores, threshold and usage.
    input_mean : Tensor of shape (d,)
        Subtracted from x.
    input_scale : Tensor of shape ()
        x is divided by it; one number, so that features keep their relative sizes.
    scale : Tensor of shape ()
        Standard deviation of the Gaussian likelihood, in units of ``input_scale``; learned.
    """

    input_mean: Tensor
    input_scale: Tensor
    scale: Tensor

    def __init__(
        self, spec: ModelSpec, encoder: nn.Module | None = None, decoder: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.spec = spec
        self.decoder: nn.Module = _decoder(spec) if decoder is None else decoder
        self.encoder: Encoder | TiedEncoder | CustomEncoder = (
            _encoder(spec, self.decoder)
            if encoder is None
            else CustomEncoder(encoder, spec.n_latents)
        )
        self.gate = Gate(spec.n_latents, spec.spike_weight, spec.posterior, spec.usage_balance)
        self.register_buffer("input_mean", torch.zeros(spec.n_features))
        self.register_buffer("input_scale", torch.ones(()))
        self.register_buffer("scale", torch.ones(()))

    @property
    def dictionary(self) -> nn.Linear | None:
        """The linear decoder, or the linear part of a decoder that has one."""
        if isinstance(self.decoder, DictionaryPlusHidden):
            return self.decoder.linear
        return self.linear_decoder

    @property
    def linear_decoder(self) -> nn.Linear | None:
        """The decoder's only layer when it is linear, else None."""
        if isinstance(self.decoder, nn.Sequential) and len(self.decoder) == 1:
            (layer,) = self.decoder
            return layer if isinstance(layer, nn.Linear) else None
        return self.decoder if isinstance(self.decoder, nn.Linear) else None

    @property
    def multiply_adds_per_row(self) -> int:
        """Weights that a row meets in the encoder; convolutions meet each of theirs often."""
        n_weights = sum(weight.numel() for weight in self.encoder.parameters())
        if isinstance(self.encoder, TiedEncoder):
            n_weights += self.encoder.dictionary.weight.numel()
        return n_weights if self.spec.image_shape is None else n_weights * self.spec.n_features

    @torch.no_grad()
    def initialise_(
        self, mean: Tensor, variance: Tensor, generator: torch.Generator | None = None
    ) -> None:
        """Set input scaling and draw weights.

        Parameters
        ----------
        mean, variance : Tensor of shape (d,)
            Moments of the training rows.
        generator : torch.Generator, optional
            Source of randomness, on the CPU.
        """
        self.input_mean.copy_(mean)
        overall = variance.mean().sqrt()
        self.input_scale.copy_(torch.where(overall > 0, overall, torch.ones_like(overall)))
        if isinstance(self.encoder, Encoder):
            self.encoder.initialise_(generator)
        built_decoder = not isinstance(self.encoder, CustomEncoder)
        if built_decoder:
            if isinstance(self.decoder, DictionaryPlusHidden):
                self.decoder.initialise_(generator)
            else:
                initialise_(self.decoder, generator)
            self._start_at_mean_(mean)
        if built_decoder and self.dictionary is not None:
            self._start_dictionary_(self.dictionary, generator)

    def _start_at_mean_(self, mean: Tensor) -> None:
        # Bernoulli decoders start from the marginal of each feature; the Gaussian's inputs are
        # centred, so zero is its mean already.
        last: nn.Module | None = self.dictionary
        if last is None and isinstance(self.decoder, nn.Sequential):
            last = self.decoder[-1]
        if self.spec.likelihood != "gaussian" and isinstance(last, nn.Linear):
            last.bias.copy_(torch.logit(mean, eps=0.01))

    def _start_dictionary_(self, decoder: nn.Linear, generator: torch.Generator | None) -> None:
        # Random unit directions as dictionary; a linear encoder starts as its transpose. A code of
        # unit scale then moves the reconstruction by 1/sqrt(L0) of the data's norm.
        directions = nn.functional.normalize(decoder.weight, dim=0)
        l0 = max(1.0, self.spec.n_latents * (1 - self.spec.spike_weight))
        decoder.weight.copy_(directions * math.sqrt(self.spec.n_features / l0))
        encoder = self.encoder
        if isinstance(encoder, TiedEncoder):
            encoder.initialise_(generator)
        elif isinstance(encoder, Encoder) and encoder.loc.weight.shape == directions.T.shape:
            encoder.loc.weight.copy_(directions.T)

    def standardise(self, x: Tensor) -> Tensor:
        """Return x (n, d) centred and divided by ``input_scale``."""
        return torch.sub(x, self.input_mean).div_(self.input_scale)

    def encode(self, x: Tensor) -> GatedNormal:
        """Posterior q(z | x) of shape (n, k).

        Parameters
        ----------
        x : Tensor of shape (n, d)
            Rows in the units of the data.

        Returns
        -------
        GatedNormal
            Closed by the gate for ``posterior="spike_slab"``, open everywhere for "gaussian".
        """
        loc, scale = self.heads(x)
        return self.posterior(loc, scale)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (n, k) and scale (n, k) or (k,) behind the gate, in float32 or wider."""
        loc, log_scale = self.encoder(self.standardise(x))
        log_scale = _at_least_float32(log_scale).clamp(_MIN_LOG_SCALE, _MAX_LOG_SCALE)
        return _at_least_float32(loc), log_scale.exp()

    def posterior(self, loc: Tensor, scale: Tensor, gate: Tensor | None = None) -> GatedNormal:
        """Gate the heads' output as ``posterior`` asks for; ``gate`` (n, k) where it is known."""
        if self.spec.posterior == "gaussian":
            gate = torch.ones_like(loc)
        elif gate is None:
            gate = self.gate(self.gate.scores(loc))
        return GatedNormal(loc, scale, gate, validate_args=False)

    def decode(self, z: Tensor) -> Distribution:
        """Likelihood p(x | z) for latents (n, k), over rows (n, d) in the units of the data."""
        output = self.decoder(z)
        if output.shape != (len(z), self.spec.n_features):
            raise ValueError(
                f"decoder must map {tuple(z.shape)} to {(len(z), self.spec.n_features)}, one value "
                f"per feature; got {tuple(output.shape)}"
            )
        return self.likelihood(output)

    def likelihood(self, output: Tensor) -> Distribution:
        """Likelihood p(x | z) from what the decoder puts out (n, d)."""
        output = _at_least_float32(output)
        if self.spec.likelihood == "gaussian":
            output = torch.addcmul(self.input_mean, output, self.input_scale)
        return likelihood_distribution(self.spec.likelihood, output, self.scale * self.input_scale)

    @torch.no_grad()
    def track_scale(self, x: Tensor, mean: Tensor) -> None:
        """Move ``scale`` towards its maximum-likelihood value on a batch, the root mean error.

        The optimum in closed form of O. Rybkin, K. Daniilidis and S. Levine (2021), "Simple and
        effective VAE training with calibrated decoders", eq. 5, averaged over recent batches.
        """
        if self.spec.likelihood == "gaussian":
            error = ((x - mean) / self.input_scale).square().mean()
            variance = self.scale.square().lerp_(error, 1 - _SCALE_DECAY)
            self.scale.copy_(variance.sqrt().clamp(min=MIN_SCALE))

    def prior(self) -> Distribution:
        """Prior of one latent; independent and the same for all k."""
        zero, one = torch.zeros_like(self.scale), torch.ones_like(self.scale)
        weight = self.spec.spike_weight * one
        # Tensors throughout: a number would be sent to a GPU each time, which waits for it.
        if self.spec.posterior == "spike_slab":
            return SpikeAndSlab(weight, zero, one, validate_args=False)
        if self.spec.prior == "normal":
            return Normal(zero, one, validate_args=False)
        if self.spec.prior == "laplace":  # of unit variance, as the normal
            return Laplace(zero, one / math.sqrt(2), validate_args=False)
        return SpikeAndSlab(weight, self.spec.spike_scale * one, one, validate_args=False)

    def inclusion_proba(self, x: Tensor) -> Tensor:
        """P(z != 0 | x), (n, k).

        For the gated posterior, the probability that a posterior draw clears the gate on the side
        of its mean, which is above 1/2 exactly where the code is not zero; for the Gaussian one
        with a spike-and-slab prior, the expected responsibility of the slab.
        """
        loc, scale = self.heads(x)
        spec = self.spec
        if spec.posterior == "gaussian" and spec.prior == "spike_slab":
            return expected_slab_responsibility(loc, scale, spec.spike_weight, spec.spike_scale)
        return torch.special.ndtr(self.margin(loc, scale))

    def margin(self, loc: Tensor, scale: Tensor) -> Tensor:
        """How far scores lie above the threshold, in standard deviations of their noise, (n, k)."""
        spread = scale * self.gate.gain if self.spec.posterior == "spike_slab" else scale
        return (self.gate.scores(loc) - self.gate.threshold) / spread
