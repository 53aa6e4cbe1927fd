"""The one training loop of all rivals that learn by gradients, and how their networks code rows.

Every rival takes 3,000 steps on 60,000 rows, where the default estimator's epochs make 2,940, or
3,045 at (1000, 25), in batches as large, by products at least as precise, with a warm-up over 5 %
of the steps and a cosine decay to 0. Their papers mostly keep the rate constant; decay helps all
of them in so short a training. Inputs are centred and divided by one overall SD.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn
from typing_extensions import override

from benchmarks.codes.protocol import Fitted, Images, Scaling, Task, dense
from benchmarks.common import Features
from sparsecode.defaults import resolve_batch_size
from sparsecode.device import matmul_precision
from sparsecode.gate import exact_threshold

STEPS = 3000
_WARM_UP = 0.05
_CHUNK = 2048


class Network(nn.Module, ABC):
    """A rival: loss, codes and decoder. Subclasses build from (n_features, k, l0, **settings)."""

    betas = (0.9, 0.999)

    def start(self, x: Tensor) -> None:
        """Initialise from the first batch; by default nothing."""

    @abstractmethod
    def loss(self, x: Tensor, progress: float) -> Tensor:
        """Loss of a batch, ``progress`` running from 0 to 1."""

    def before_step(self) -> None:
        """Change gradients; by default nothing."""

    def after_step(self) -> None:
        """Change weights; by default nothing."""

    def calibrate(self, x: Tensor) -> None:
        """Meet the L0 asked for on validation rows; by default nothing."""

    @abstractmethod
    def codes(self, x: Tensor) -> Tensor:
        """Codes (n, k)."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Reconstructions (n, d), standardised, of codes."""

    def rate(self, x: Tensor) -> Tensor | None:
        """Nats per row (n,), where the model has a rate."""

    def scores_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores to threshold and values to keep, both (n, k), for a `ThresholdNetwork`."""
        raise NotImplementedError

    def column_norms(self) -> Tensor:
        """How far a unit of each latent moves the decoder's first layer, (k,)."""
        raise NotImplementedError


class ThresholdNetwork(Network):
    """Codes where a score exceeds one threshold for all latents, calibrated on validation rows.

    Attributes
    ----------
    zeros : float
        Fraction of zeros asked for.
    threshold : float
    """

    zeros: float
    threshold: float = 0.0

    @override
    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Set the threshold to the quantile of the scores that leaves L0 open on average."""
        scores = [self.scores_and_values(part)[0].cpu().numpy() for part in x.split(_CHUNK)]
        self.threshold = exact_threshold(np.concatenate(scores), self.zeros)

    @override
    def codes(self, x: Tensor) -> Tensor:
        """Values where the score exceeds the threshold."""
        scores, values = self.scores_and_values(x)
        return torch.where(scores > self.threshold, values, 0.0)


class NetworkCoder(Fitted):
    """A trained network between uint8 rows and [0, 1] reconstructions."""

    def __init__(self, network: Network, scaling: Scaling, seconds: float) -> None:
        self.network = network.eval()
        self.scaling = scaling
        self.seconds = seconds
        self.device = next(network.parameters()).device

    @override
    @torch.no_grad()
    def encode(self, rows: Images) -> sparse.csr_array:
        """Codes as CSR."""
        parts = [self.network.codes(x).cpu().numpy() for x in self._batches(self.scaling(rows))]
        return sparse.vstack([sparse.csr_array(part) for part in parts], format="csr")

    @override
    @torch.no_grad()
    def decode(self, codes: Features) -> NDArray[np.float32]:
        """Reconstructions in [0, 1] units."""
        parts = [self.network.decode(z).cpu().numpy() for z in self._batches(dense(codes))]
        return self.scaling.inverse(np.concatenate(parts))

    @override
    @torch.no_grad()
    def rate(self, rows: Images) -> float | None:
        """Mean over rows."""
        parts = [self.network.rate(x) for x in self._batches(self.scaling(rows))]
        known = [part for part in parts if part is not None]
        return float(torch.cat(known).mean()) if known else None

    @override
    @torch.no_grad()
    def column_norms(self) -> NDArray[np.floating]:
        return self.network.column_norms().cpu().numpy()

    def _batches(self, x: NDArray[np.float32]) -> tuple[Tensor, ...]:
        return torch.from_numpy(np.ascontiguousarray(x)).to(self.device).split(_CHUNK)


def mlp(n_in: int, hidden: int, n_out: int) -> nn.Sequential:
    """One hidden layer of ReLU, or none for ``hidden`` = 0."""
    if hidden == 0:
        return nn.Sequential(nn.Linear(n_in, n_out))
    return nn.Sequential(nn.Linear(n_in, hidden), nn.ReLU(), nn.Linear(hidden, n_out))


def schedule(progress: float) -> float:
    """Factor of the learning rate: linear warm-up times a cosine to 0."""
    return min(1.0, (progress + 1e-3) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * progress))


def fit_network(
    build: Callable[..., Network],
    task: Task,
    *,
    lr: float,
    steps: int = STEPS,
    weight_decay: float = 0.0,
    **settings: Any,
) -> NetworkCoder:
    """Train ``build(n_features, k, l0, **settings)`` and calibrate it on its validation rows.

    ``weight_decay`` is AdamW's: each step shrinks the weights by its product with ``lr``.
    """
    begin = time.perf_counter()
    fit_rows, validation = task.split()
    scaling = Scaling.of(fit_rows)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(task.seed)
    network = build(fit_rows.shape[1], task.k, task.l0, **settings).to(device)
    batch = resolve_batch_size("auto", len(task.rows), task.l0 / task.k)
    # Adam's moments of latents that never fire decay into denormals, which are slow on a CPU.
    torch.set_flush_denormal(True)
    try:
        # Casts would round what a rival compares to find its largest latents.
        with matmul_precision(reduced=True), torch.autocast("cpu", enabled=False):
            rows = torch.from_numpy(fit_rows).to(device)
            train(network, rows, scaling, lr, steps, batch, weight_decay)
    finally:
        torch.set_flush_denormal(False)
    network.eval().calibrate(torch.from_numpy(scaling(validation)).to(device))
    return NetworkCoder(network, scaling, time.perf_counter() - begin)


def train(
    network: Network,
    rows: Tensor,
    scaling: Scaling,
    lr: float,
    steps: int,
    batch_size: int,
    weight_decay: float,
) -> None:
    """AdamW on batches drawn without replacement, epoch by epoch; biases do not decay."""
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=lr,
        betas=network.betas,
        fused=True,
    )
    mean = torch.from_numpy(scaling.mean).to(rows.device)
    network.train()
    batches: list[Tensor] = []
    for step in range(steps):
        if not batches:
            batches = list(torch.randperm(len(rows), device=rows.device).split(batch_size))
            batches = [batch for batch in batches if len(batch) == min(batch_size, len(rows))]
        x = (rows[batches.pop()].float() / 255 - mean) / float(scaling.sd)
        if step == 0:
            network.start(x)
        for group in optimizer.param_groups:
            group["lr"] = lr * schedule(step / steps)
        optimizer.zero_grad(set_to_none=True)
        network.loss(x, step / steps).backward()
        network.before_step()
        optimizer.step()
        network.after_step()
