"""Priors of gates beside the package's: a p for each latent, and which latents go together.

The package's prior opens every gate by itself, with one p. What it costs more than one that knows
which gates open together is what such a prior could save, for the same codes.
"""

from typing import Protocol, Self

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent

N_COMPONENTS = 500
_N_ITERATIONS = 50
_TINY = 1e-6


class GatePrior(Protocol):
    """A distribution of gates (k,)."""

    def log_prob(self, gates: Tensor, /) -> Tensor:
        """Log-probability (...) of gates (..., k), nats."""


def own_p(gates: Tensor) -> GatePrior:
    """Each gate by itself, as often as it is open in gates (n, k), half a row more each way."""
    return Independent(Bernoulli((gates.sum(0) + 0.5) / (len(gates) + 1)), 1)


class GateMixture:
    """Mixture of products of Bernoulli distributions over gates of 0 and 1.

    By products of matrices: torch's `MixtureSameFamily` would hold every gate once for each
    component.

    Parameters
    ----------
    weights : Tensor of shape (c,)
        How often each component is; they sum to 1.
    frequency : Tensor of shape (c, k)
        With which each gate opens in each component, strictly within (0, 1).
    """

    def __init__(self, weights: Tensor, frequency: Tensor) -> None:
        self.weights = weights
        self.frequency = frequency
        self._logits = torch.logit(frequency)
        self._of_none = weights.log() + torch.log1p(-frequency).sum(1)

    @classmethod
    def fit(cls, gates: Tensor, n_components: int = N_COMPONENTS, seed: int = 0) -> Self:
        """Fit to gates (n, k) by expectation maximisation, from as many of the rows.

        A frequency counts half a row open and half a row closed besides those that it has.
        """
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(gates), generator=generator)[:n_components]
        # Halfway between a row and the mean, and possible for a gate that never opens, too.
        start = ((gates[chosen] + gates.mean(0)) / 2).clamp(_TINY, 1 - _TINY)
        mixture = cls(torch.full((len(chosen),), 1 / len(chosen)), start)
        for _ in range(_N_ITERATIONS):
            share = mixture._joint(gates).softmax(1)
            of_component = share.sum(0)
            frequency = (share.T @ gates + 0.5) / (of_component[:, None] + 1)
            mixture = cls((of_component + 1) / (len(gates) + len(chosen)), frequency)
        return mixture

    def _joint(self, gates: Tensor) -> Tensor:
        return gates @ self._logits.T + self._of_none

    def log_prob(self, gates: Tensor) -> Tensor:
        """Log-probability (...) of gates (..., k), nats."""
        return self._joint(gates).logsumexp(-1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw gates (n, k)."""
        component = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        return torch.bernoulli(self.frequency[component], generator=generator)
