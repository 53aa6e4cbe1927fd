"""Sparse autoencoders: TopK, BatchTopK, JumpReLU, k-sparse, and TopK between two MLPs.

``dictionary-learning`` 0.1 and ``sae-lens`` 6.54 install beside torch 2.15, but bring some eighty
packages (transformers, wandb, datasets, ...) and feed on activations of language models, so these
are implementations of our own. ``tests/benchmarks`` compares TopK with theirs where they are
installed: codes and reconstructions of both, and the auxiliary loss of ``dictionary-learning``.
"""

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from typing_extensions import override

from benchmarks.codes.training import Network, ThresholdNetwork, mlp
from sparsecode.defaults import resolve_hidden_sizes

AUXILIARY_WEIGHT = 1 / 32
_MAX_AUXILIARY = 512
# Gao et al. call a latent dead after 10 million tokens, far more than all the rows seen here; this
# is about one pass over the rows.
DEAD_AFTER = 200
_HIDDEN = 512


def unit_columns(n_rows: int, n_columns: int) -> Tensor:
    """Random directions as columns."""
    return nn.functional.normalize(torch.randn(n_rows, n_columns), dim=0)


def keep_top(pre: Tensor, count: int) -> Tensor:
    """Zero all but the ``count`` largest entries of each row."""
    values, indices = pre.topk(count, dim=1, sorted=False)
    return torch.zeros_like(pre).scatter_(1, indices, values)


class LinearAutoencoder(Network):
    """x -> W_enc (x - b) + b_enc; z -> W_dec z + b, columns of W_dec of unit norm, tied start."""

    def __init__(self, n_features: int, k: int, l0: int) -> None:
        super().__init__()
        self.l0 = l0
        self.zeros = 1 - l0 / k
        directions = unit_columns(n_features, k)
        self.dictionary = nn.Parameter(directions)
        self.encoder = nn.Parameter(directions.T.clone())
        self.encoder_bias = nn.Parameter(torch.zeros(k))
        self.bias = nn.Parameter(torch.zeros(n_features))

    def pre(self, x: Tensor) -> Tensor:
        """Pre-activations (n, k)."""
        return (x - self.bias) @ self.encoder.T + self.encoder_bias

    @override
    def decode(self, z: Tensor) -> Tensor:
        """Reconstructions (n, d)."""
        return z @ self.dictionary.T + self.bias

    @override
    def scores_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pre-activations and their positive parts."""
        pre = self.pre(x)
        return pre, pre.relu()

    @override
    @torch.no_grad()
    def before_step(self) -> None:
        """Remove what would change the norms of the dictionary from its gradient."""
        gradient = self.dictionary.grad
        assert gradient is not None
        gradient -= (gradient * self.dictionary).sum(0) * self.dictionary

    @override
    @torch.no_grad()
    def after_step(self) -> None:
        """Keep the dictionary's columns on the unit sphere."""
        # norm(dim=0) takes ten times as long.
        self.dictionary.div_(self.dictionary.square().sum(0).sqrt())


class TopKLoss(Network):
    """Normalised squared error plus AuxK, for networks with ``pre`` and ``decode``.

    Inputs have unit mean square, so the error per feature is the normalised one of the paper.
    """

    l0: int
    steps_since_fired: Tensor

    @abstractmethod
    def pre(self, x: Tensor) -> Tensor:
        """Pre-activations (n, k)."""

    def sparsify(self, pre: Tensor) -> Tensor:
        """Codes of a training batch: the ``l0`` largest of each row, rectified."""
        return keep_top(pre, self.l0).relu()

    @override
    def codes(self, x: Tensor) -> Tensor:
        """Keep the ``l0`` largest of each row."""
        return self.sparsify(self.pre(x))

    def explain(self, z: Tensor, revived: Tensor) -> Tensor:
        """Return what ``revived`` latents add to the reconstruction of ``z``."""
        return self.decode(z.detach() + revived) - self.decode(z).detach()

    @override
    def loss(self, x: Tensor, progress: float) -> Tensor:
        """Error and auxiliary error of a batch."""
        pre = self.pre(x)
        z = self.sparsify(pre)
        error = x - self.decode(z)
        dead = self.steps_since_fired > DEAD_AFTER
        auxiliary = self.auxiliary_loss(pre, z, error.detach(), dead)
        self.steps_since_fired.add_(1).mul_((z == 0).all(0))
        return error.square().mean() + AUXILIARY_WEIGHT * auxiliary

    def auxiliary_loss(self, pre: Tensor, z: Tensor, error: Tensor, dead: Tensor) -> Tensor:
        """Error of the dead latents as an account of ``error``, over its variance."""
        count = min(int(dead.sum()), max(1, len(dead) // 2), _MAX_AUXILIARY)
        if count == 0:
            return error.new_zeros(())
        revived = keep_top(pre.masked_fill(~dead, -torch.inf), count).relu()
        missing = (self.explain(z, revived) - error).square().mean()
        return (missing / (error - error.mean(0)).square().mean()).nan_to_num()


class TopK(LinearAutoencoder, TopKLoss):
    """TopK sparse autoencoder.

    L. Gao et al. (2024), "Scaling and evaluating sparse autoencoders", sections 2.3 (TopK) and
    A.2 (AuxK, coefficient 1/32), with the latent bias of their code. The pre-bias starts at the
    mean, which is 0 here, instead of the geometric median.
    """

    def __init__(self, n_features: int, k: int, l0: int) -> None:
        super().__init__(n_features, k, l0)
        self.register_buffer("steps_since_fired", torch.zeros(k))

    @override
    def explain(self, z: Tensor, revived: Tensor) -> Tensor:
        """Return what they add: for a linear decoder, the same whatever ``z`` is."""
        return revived @ self.dictionary.T


class BatchTopK(ThresholdNetwork, TopK):
    """BatchTopK sparse autoencoder.

    B. Bussmann, P. Leask and N. Nanda (2024), "BatchTopK sparse autoencoders", section 2: the
    n * l0 largest of a batch in training, one threshold afterwards. Theirs is the mean of the
    batches' smallest activations; here it is calibrated on validation rows, as everybody's is.
    """

    @override
    def sparsify(self, pre: Tensor) -> Tensor:
        """Keep the ``n * l0`` largest of the batch."""
        rectified = pre.relu()
        smallest = rectified.flatten().topk(len(pre) * self.l0, sorted=False).values.min()
        return torch.where(rectified >= smallest, rectified, 0.0)


class BatchTopKHidden(BatchTopK):
    """BatchTopK in the network of `SparseVAETransformer`: hidden units beside both linear maps.

    No paper's: it tells what is due to the network from what is due to the objective. Both start
    from nothing, as ours do.
    """

    def __init__(self, n_features: int, k: int, l0: int) -> None:
        super().__init__(n_features, k, l0)
        (encoder,), (decoder,) = resolve_hidden_sizes("auto", "spike_slab", None, 60_000, k)
        self.beside_encoder = mlp(n_features, encoder, k)
        self.beside_decoder = mlp(k, decoder, n_features)
        for beside in (self.beside_encoder, self.beside_decoder):
            nn.init.zeros_(beside[-1].weight)
            nn.init.zeros_(beside[-1].bias)

    @override
    def pre(self, x: Tensor) -> Tensor:
        """Pre-activations (n, k)."""
        return super().pre(x) + self.beside_encoder(x)

    @override
    def decode(self, z: Tensor) -> Tensor:
        """Reconstructions (n, d)."""
        return super().decode(z) + self.beside_decoder(z)

    @override
    def explain(self, z: Tensor, revived: Tensor) -> Tensor:
        """Return what they add, which depends on ``z``."""
        return TopKLoss.explain(self, z, revived)


class TopKMlp(TopKLoss):
    """TopK and AuxK as above between an encoder and a decoder with 512 hidden units each."""

    def __init__(self, n_features: int, k: int, l0: int) -> None:
        super().__init__()
        self.l0 = l0
        self.encoder = mlp(n_features, _HIDDEN, k)
        self.decoder = mlp(k, _HIDDEN, n_features)
        self.register_buffer("steps_since_fired", torch.zeros(k))

    @override
    def pre(self, x: Tensor) -> Tensor:
        """Pre-activations (n, k)."""
        return self.encoder(x)

    @override
    def decode(self, z: Tensor) -> Tensor:
        """Reconstructions (n, d)."""
        return self.decoder(z)


class KSparse(Network):
    """k-sparse autoencoder: tied weights, the k largest linear activities, k annealed.

    A. Makhzani and B. Frey (2013), "k-Sparse autoencoders", with their schedule of the sparsity
    level, linear over the first half of training, from 4 * l0 here. They train by momentum and
    take alpha * k at test time; here by Adam, and k.
    """

    def __init__(self, n_features: int, k: int, l0: int) -> None:
        super().__init__()
        self.l0 = l0
        self.first = min(k, 4 * l0)
        self.weight = nn.Parameter(0.01 * torch.randn(k, n_features))
        self.latent_bias = nn.Parameter(torch.zeros(k))
        self.bias = nn.Parameter(torch.zeros(n_features))

    def activities(self, x: Tensor, count: int) -> Tensor:
        """Largest ``count`` of each row."""
        return keep_top(x @ self.weight.T + self.latent_bias, count)

    @override
    def loss(self, x: Tensor, progress: float) -> Tensor:
        """Squared error at the count of this step."""
        count = round(self.first + (self.l0 - self.first) * min(1.0, 2 * progress))
        return (x - self.decode(self.activities(x, count))).square().mean()

    @override
    def decode(self, z: Tensor) -> Tensor:
        """Reconstructions (n, d)."""
        return z @ self.weight + self.bias

    @override
    def codes(self, x: Tensor) -> Tensor:
        """Keep the ``l0`` largest of each row."""
        return self.activities(x, self.l0)


def rectangle(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """1 where a pre-activation lies within half a bandwidth of its threshold."""
    return ((pre - threshold).abs() < bandwidth / 2).to(pre.dtype)


class JumpReLUFunction(torch.autograd.Function):
    """pre * H(pre - threshold), with the pseudo-derivative -(threshold / bandwidth) K."""

    @override
    @staticmethod
    def forward(ctx: FunctionCtx, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth  # type: ignore[attr-defined]
        return pre * (pre > threshold)

    @override
    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = gradients
        pre, threshold = ctx.saved_tensors
        near = rectangle(pre, threshold, ctx.bandwidth)
        by_threshold = -(threshold / ctx.bandwidth) * (near * gradient).sum(0)
        return gradient * (pre > threshold), by_threshold, None


class StepFunction(torch.autograd.Function):
    """H(pre - threshold), with the pseudo-derivative -K / bandwidth; none in ``pre``."""

    @override
    @staticmethod
    def forward(ctx: FunctionCtx, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth  # type: ignore[attr-defined]
        return (pre > threshold).to(pre.dtype)

    @override
    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        (gradient,) = gradients
        pre, threshold = ctx.saved_tensors
        near = rectangle(pre, threshold, ctx.bandwidth)
        return None, -(near * gradient).sum(0) / ctx.bandwidth, None


class JumpReLU(ThresholdNetwork, LinearAutoencoder):
    """JumpReLU sparse autoencoder with a target for L0.

    S. Rajamanoharan et al. (2024), "Jumping ahead: improving reconstruction fidelity with JumpReLU
    sparse autoencoders", section 3 (straight-through with a rectangle kernel K), with the penalty
    (L0 / target - 1)² in place of lambda * L0, as in ``dictionary_learning``'s trainer; Adam's
    beta_1 = 0 and no pre-bias, as theirs. Thresholds start at the quantile of the first batch, not
    at .001: the thousands of steps here are too few to travel from there. Afterwards all
    thresholds are shifted by one number, calibrated on validation rows.
    """

    betas = (0.0, 0.999)
    warm_up = 0.1  # of the penalty

    def __init__(
        self, n_features: int, k: int, l0: int, bandwidth: float, penalty: float = 1.0
    ) -> None:
        super().__init__(n_features, k, l0)
        self.bandwidth = bandwidth
        self.penalty = penalty
        self.log_threshold = nn.Parameter(torch.zeros(k))

    @override
    def pre(self, x: Tensor) -> Tensor:
        """Pre-activations (n, k), without pre-bias."""
        return x @ self.encoder.T + self.encoder_bias

    @override
    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Start at the target L0."""
        pre = self.pre(x).flatten()
        n_open = max(1, round(len(pre) * (1 - self.zeros)))
        smallest = pre.topk(n_open, sorted=False).values.min()
        self.log_threshold.fill_(math.log(max(float(smallest), 1e-3)))

    @override
    def loss(self, x: Tensor, progress: float) -> Tensor:
        """Normalised squared error plus the penalty."""
        pre, threshold = self.pre(x), self.log_threshold.exp()
        z = JumpReLUFunction.apply(pre, threshold, self.bandwidth)
        l0 = StepFunction.apply(pre, threshold, self.bandwidth).sum(1).mean()
        weight = self.penalty * min(1.0, progress / self.warm_up)
        return (x - self.decode(z)).square().mean() + weight * (l0 / self.l0 - 1).square()

    @override
    def scores_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Distance from the thresholds, and positive parts."""
        pre = self.pre(x)
        return pre - self.log_threshold.exp(), pre.relu()
