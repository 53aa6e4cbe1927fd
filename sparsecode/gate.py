"""The gate: scores -> exact zeros, and the threshold that makes the fraction of zeros ``p``.

A score is computed from the encoder's output, never from a sampled z, and the gate is open where
it exceeds one threshold shared by all latents. During training the threshold follows the
p-quantile of the scores of recent batches; after training it is calibrated on held-out rows.
"""

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

PosteriorName = Literal["spike_slab", "gaussian"]

# Half of the latents of a symmetric encoder are positive, so a gate that closes fewer than half
# must let negative ones pass, and close the small ones rather than the most negative.
_SIGNED_BELOW = 0.5
# The running quantile looks at this many scores of a batch at most: its standard error in density
# is then below 0.8 %, and the running mean divides that by four.
_QUANTILE_SAMPLE = 4096
_THRESHOLD_DECAY = 0.9
_USAGE_DECAY = 0.99


class Gate(nn.Module):
    """Open where the score of a latent exceeds the threshold.

    Parameters
    ----------
    n_latents : int
        k.
    spike_weight : float
        p in [0, 1): the fraction of latents to close. With 0 the gate is always open.
    posterior : {"spike_slab", "gaussian"}
        For "gaussian" the score is ``abs(loc)``, of which the slab responsibility is an
        increasing function. For "spike_slab" it is divided by a power of the latent's usage, and
        from p = 1/2 on it is ``loc`` instead, so that codes are positive.
    usage_balance : float
        Power of the usage by which scores are divided: latents that fire often must score higher.
        0 switches the balance off.
    """

    threshold: Tensor
    usage: Tensor

    def __init__(
        self, n_latents: int, spike_weight: float, posterior: PosteriorName, usage_balance: float
    ) -> None:
        super().__init__()
        self.spike_weight = spike_weight
        self.posterior = posterior
        self.usage_balance = usage_balance
        start = -torch.inf if spike_weight == 0 else 0.0
        self.register_buffer("threshold", torch.tensor(start))
        self.register_buffer("usage", torch.full((n_latents,), 1.0 - spike_weight))

    def scores(self, loc: Tensor, latent: Tensor | None = None) -> Tensor:
        """Scores, comparable between latents.

        Parameters
        ----------
        loc : Tensor of shape (n, k), or (m,)
        latent : Tensor of int64, shape (m,), optional
            Which latents the values are of, if they are single ones.
        """
        gain = self.gain if latent is None else self.gain.index_select(0, latent)
        return self.sized(loc) * gain.to(loc.dtype)

    def levels(self, score: Tensor) -> Tensor:
        """Return what `sized` means reach, up to rounding, at a score, for each latent (k,)."""
        return score / self.gain

    def sized(self, loc: Tensor) -> Tensor:
        """Return what scores are proportional to: ``loc``, or its absolute value."""
        return loc.abs() if self.is_signed else loc

    @property
    def is_signed(self) -> bool:
        """Whether latents of either sign can pass the gate."""
        return self.posterior == "gaussian" or self.spike_weight < _SIGNED_BELOW

    @property
    def gain(self) -> Tensor:
        """Factor (k,) from ``loc`` to score: (usage / mean usage) ** -usage_balance."""
        if self.posterior == "gaussian" or self.spike_weight == 0:
            return torch.ones_like(self.usage)
        # A latent that never fires would get an infinite gain; 1 % of the mean is the floor.
        relative = (self.usage / (1.0 - self.spike_weight)).clamp(min=0.01)
        return relative**-self.usage_balance

    def forward(self, scores: Tensor) -> Tensor:
        """Gate of 0.0 and 1.0, of the shape of ``scores``."""
        return (scores > self.threshold).to(scores.dtype)

    @torch.no_grad()
    def track(self, scores: Tensor, target: Tensor, is_first: bool = False) -> None:
        """Move the threshold towards the quantile ``target`` of a training batch.

        Parameters
        ----------
        scores : Tensor of shape (n, k)
            Scores of the batch, before the step that learns from it.
        target : Tensor of shape ()
            Fraction of zeros wanted at this step, in [0, 1).
        is_first : bool, default=False
            Take the quantile of this batch as it is.
        """
        if self.spike_weight == 0:
            return
        quantile = _sampled_quantile(scores, target)
        if is_first:
            self.threshold.copy_(quantile)
        else:
            self.threshold.lerp_(quantile, 1 - _THRESHOLD_DECAY)

    @torch.no_grad()
    def track_usage(self, gate: Tensor) -> None:
        """Update the running usage (k,) from the gate (n, k) of a training batch."""
        self.usage.lerp_(gate.mean(0), 1 - _USAGE_DECAY)


def _sampled_quantile(scores: Tensor, target: Tensor) -> Tensor:
    flat = scores.flatten()
    stride = max(1, flat.numel() // _QUANTILE_SAMPLE)
    while math.gcd(stride, scores.shape[1]) > 1:
        stride += 1  # else the stride would visit some latents only
    ordered = flat[::stride].sort().values
    position = (target * (len(ordered) - 1)).round().long()
    return ordered.gather(0, position.reshape(1)).squeeze(0)


def exact_threshold(scores: NDArray[np.floating], spike_weight: float) -> float:
    """Threshold that closes a fraction of the scores, to one part in their count.

    Parameters
    ----------
    scores : ndarray
        Scores of held-out rows, any shape.
    spike_weight : float
        Fraction to close, in [0, 1].

    Returns
    -------
    float
        Halfway between the last score to close and the first to keep, so that it sits on none
        of them; -inf when none is to be closed.
    """
    n_closed = round(spike_weight * scores.size)
    if n_closed == 0:
        return -float("inf")
    if n_closed == scores.size:
        return float(scores.max())
    last, first = np.partition(scores, (n_closed - 1, n_closed), axis=None)[n_closed - 1 :][:2]
    middle = last / 2 + first / 2
    # Between neighbouring floats there is no middle: it rounds to one of them.
    return float(middle if last <= middle < first else last)
