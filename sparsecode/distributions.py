"""Distributions: the spike-and-slab prior, the gated posterior, the likelihoods.

Prior and posterior are per dimension (``event_shape == ()``): a vector of k latents is a batch of k
independent draws, each with its own choice between spike and slab. Likelihoods are over rows.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    ContinuousBernoulli,
    Distribution,
    Independent,
    constraints,
)
from torch.distributions.utils import broadcast_all

LikelihoodName = Literal["bernoulli", "continuous_bernoulli", "gaussian"]


def _standard_normal(shape: torch.Size, like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)


class SpikeAndSlab(Distribution):
    r"""Mixture of a narrow and a wide normal, both centred at zero.

    .. math:: p(z) = w\, N(z; 0, c^2) + (1 - w)\, N(z; 0, s^2), \qquad 0 \le c < s

    With ``spike_scale=0`` the spike is a point mass at zero; densities are then taken with respect
    to the Lebesgue measure plus an atom at zero.

    Parameters
    ----------
    spike_weight : Tensor or float
        w, the probability of the spike, in [0, 1).
    spike_scale : Tensor or float
        c, the standard deviation of the spike; 0 for a point mass.
    slab_scale : Tensor or float, default=1.0
        s, the standard deviation of the slab; greater than ``spike_scale``.
    validate_args : bool, optional
        As in :class:`torch.distributions.Distribution`.

    References
    ----------
    .. [1] T. J. Mitchell and J. J. Beauchamp (1988), "Bayesian variable selection in linear
       regression", JASA 83 (point-mass spike).
    .. [2] E. I. George and R. E. McCulloch (1993), "Variable selection via Gibbs sampling",
       JASA 88, eq. 4 (spike of finite width).

    Examples
    --------
    >>> import torch
    >>> prior = SpikeAndSlab(torch.full((3,), 0.8), spike_scale=0.05**0.5)
    >>> prior.batch_shape, round(prior.variance[0].item(), 3)
    (torch.Size([3]), 0.24)
    """

    arg_constraints = {  # noqa: RUF012  (torch declares it as an instance attribute)
        "spike_weight": constraints.half_open_interval(0.0, 1.0),
        "spike_scale": constraints.nonnegative,
        "slab_scale": constraints.positive,
    }
    support = constraints.real

    def __init__(
        self,
        spike_weight: Tensor | float,
        spike_scale: Tensor | float,
        slab_scale: Tensor | float = 1.0,
        validate_args: bool | None = None,
    ) -> None:
        self.spike_weight, self.spike_scale, self.slab_scale = broadcast_all(
            spike_weight, spike_scale, slab_scale
        )
        super().__init__(self.spike_weight.shape, validate_args=validate_args)
        if self._validate_args and not bool((self.spike_scale < self.slab_scale).all()):
            raise ValueError(
                f"spike_scale must be smaller than slab_scale, got {spike_scale} and {slab_scale}"
            )

    def expand(self, batch_shape: Any, _instance: Any = None) -> "SpikeAndSlab":
        """Return the same distribution with its batch expanded to ``batch_shape``."""
        new = self._get_checked_instance(SpikeAndSlab, _instance)
        for name in self.arg_constraints:
            setattr(new, name, getattr(self, name).expand(batch_shape))
        super(SpikeAndSlab, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """Zero, of shape ``batch_shape``."""
        return torch.zeros_like(self.spike_weight)

    @property
    def variance(self) -> Tensor:
        """Variance w c² + (1 - w) s², of shape ``batch_shape``."""
        return (
            self.spike_weight * self.spike_scale**2 + (1 - self.spike_weight) * self.slab_scale**2
        )

    def sample(  # type: ignore[override]  # a generator besides
        self,
        sample_shape: torch.Size | tuple[int, ...] = (),
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw, choosing spike or slab for each dimension on its own.

        Parameters
        ----------
        sample_shape : torch.Size, default=()
            Shape put before ``batch_shape``.
        generator : torch.Generator, optional
            Source of randomness; the global one when None.

        Returns
        -------
        Tensor of shape ``sample_shape + batch_shape``
        """
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            uniform = torch.rand(
                shape,
                dtype=self.spike_weight.dtype,
                device=self.spike_weight.device,
                generator=generator,
            )
            scale = torch.where(uniform < self.spike_weight, self.spike_scale, self.slab_scale)
            return scale * _standard_normal(shape, scale, generator)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats, of the shape of ``value`` broadcast with ``batch_shape``."""
        if self._validate_args:
            self._validate_sample(value)
        return torch.logaddexp(self._log_spike(value), self._log_slab(value))

    def cdf(self, value: Tensor) -> Tensor:
        """P(z <= value), of the shape of ``value`` broadcast with ``batch_shape``."""
        if self._validate_args:
            self._validate_sample(value)
        atom = self.spike_scale == 0
        safe = torch.where(atom, 1.0, self.spike_scale)
        spike = torch.where(atom, (value >= 0).to(safe.dtype), torch.special.ndtr(value / safe))
        slab = torch.special.ndtr(value / self.slab_scale)
        return self.spike_weight * spike + (1 - self.spike_weight) * slab

    def slab_logit(self, value: Tensor) -> Tensor:
        """Log odds of the slab given a value: log P(slab | z) - log P(spike | z)."""
        return self._log_slab(value) - self._log_spike(value)

    def slab_responsibility(self, value: Tensor) -> Tensor:
        """P(slab | z), in [0, 1], of the shape of ``value`` broadcast with ``batch_shape``."""
        return torch.sigmoid(self.slab_logit(value))

    def _log_spike(self, value: Tensor) -> Tensor:
        atom = self.spike_scale == 0
        safe = torch.where(atom, 1.0, self.spike_scale)
        at_zero = torch.where(value == 0, 0.0, -torch.inf).to(safe.dtype)
        density = torch.where(atom, at_zero, _log_normal(value, safe))
        return torch.log(self.spike_weight) + density

    def _log_slab(self, value: Tensor) -> Tensor:
        # With an atom at zero the value zero belongs to the spike: the slab hits it with
        # probability zero, so its density there is no part of the mixed measure.
        density = _log_normal(value, self.slab_scale)
        at_atom = (self.spike_scale == 0) & (value == 0) & (self.spike_weight > 0)
        return torch.log1p(-self.spike_weight) + torch.where(at_atom, -torch.inf, density)


def _log_normal(value: Tensor, scale: Tensor) -> Tensor:
    return -0.5 * (value / scale) ** 2 - torch.log(scale) - 0.5 * math.log(2 * math.pi)


class GatedNormal(Distribution):
    r"""A normal where the gate is open, exactly zero where it is closed.

    .. math:: z = m\,(\mu + \sigma\varepsilon), \qquad \varepsilon \sim N(0, 1),\ m \in \{0, 1\}

    The posterior of both models: with every gate open it is the Gaussian posterior of a plain VAE.
    The gate is a function of the input and is never sampled.

    Parameters
    ----------
    loc : Tensor
        Mean behind the gate.
    scale : Tensor
        Standard deviation behind the gate, broadcastable with ``loc``; kept in its own shape.
    gate : Tensor
        1 (open) or 0 (closed), of the shape of ``loc``.
    """

    arg_constraints = {  # noqa: RUF012
        "loc": constraints.real,
        "scale": constraints.positive,
        "gate": constraints.boolean,
    }
    support = constraints.real
    has_rsample = True

    def __init__(
        self, loc: Tensor, scale: Tensor, gate: Tensor, validate_args: bool | None = None
    ) -> None:
        self.loc, self.scale, self.gate = loc, scale, gate
        super().__init__(loc.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """Mean, of shape ``batch_shape``: exactly zero behind a closed gate."""
        return self.gate * self.loc

    @property
    def variance(self) -> Tensor:
        """Variance, of shape ``batch_shape``."""
        return self.gate * self.scale**2

    def rsample(  # type: ignore[override]  # a generator besides
        self,
        sample_shape: torch.Size | tuple[int, ...] = (),
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw with gradients to ``loc`` and ``scale``; shape ``sample_shape + batch_shape``."""
        noise = _standard_normal(
            self._extended_shape(torch.Size(sample_shape)), self.loc, generator
        )
        return self.gate * (self.loc + self.scale * noise)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats with respect to the Lebesgue measure plus an atom at zero."""
        closed = torch.where(value == 0, 0.0, -torch.inf).to(self.loc.dtype)
        return torch.where(self.gate > 0, _log_normal(value - self.loc, self.scale), closed)


class IsotropicNormal(Distribution):
    """Normal over rows of d features, all of one standard deviation.

    As ``Independent(Normal(loc, scale), 1)``, in a third of the passes over memory.

    Parameters
    ----------
    loc : Tensor of shape (..., d)
    scale : Tensor of shape ()
    """

    arg_constraints = {  # noqa: RUF012
        "loc": constraints.real_vector,
        "scale": constraints.positive,
    }
    support = constraints.real_vector

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        self.loc, self.scale = loc, scale
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """Mean (..., d)."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """Variance (..., d)."""
        return self.scale.square().expand_as(self.loc)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of rows (..., d), in nats."""
        error = (value - self.loc).square().sum(-1)
        per_feature = self.scale.log() + 0.5 * math.log(2 * math.pi)
        return -0.5 * error / self.scale.square() - self._event_shape[0] * per_feature


def sample_prior(prior: Distribution, generator: torch.Generator) -> Tensor:
    """Draw from a `SpikeAndSlab`, or any prior with ``icdf``, never using the global generator.

    Parameters
    ----------
    prior : Distribution
    generator : torch.Generator
        On the device of ``prior``.

    Returns
    -------
    Tensor of shape ``prior.batch_shape``
    """
    if isinstance(prior, SpikeAndSlab):
        return prior.sample(generator=generator)
    mean = prior.mean
    uniform = torch.rand(
        mean.shape, dtype=torch.float64, device=mean.device, generator=generator
    ).clamp(min=torch.finfo(torch.float64).eps)  # icdf(0) is -inf
    return prior.icdf(uniform).to(mean.dtype)


def likelihood_distribution(name: LikelihoodName, output: Tensor, scale: Tensor) -> Distribution:
    """Distribution of x given a decoder's output.

    Parameters
    ----------
    name : {"bernoulli", "continuous_bernoulli", "gaussian"}
        Family. The continuous Bernoulli is that of G. Loaiza-Ganem and J. P. Cunningham (2019),
        "The continuous Bernoulli: fixing a pervasive error in variational autoencoders", eq. 2.
    output : Tensor of shape (..., d)
        Logits for the Bernoulli families, means for the Gaussian.
    scale : Tensor
        Standard deviation of the Gaussian; unused by the others.

    Returns
    -------
    Distribution
        ``log_prob`` sums over the d features and gives nats per sample.
    """
    if name == "gaussian":
        return IsotropicNormal(output, scale, validate_args=False)
    family: Distribution
    if name == "bernoulli":
        family = Bernoulli(logits=output, validate_args=False)
    else:
        family = ContinuousBernoulli(logits=output, validate_args=False)
    return Independent(family, 1, validate_args=False)
