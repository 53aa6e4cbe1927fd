"""`SparseVAETransformer`: with its defaults, with a linear decoder, refined, and untrained."""

import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import override

from benchmarks.codes.protocol import Fitted, Images, Task, remember_last
from benchmarks.common import Features, unit_float
from sparsecode import SparseVAETransformer
from sparsecode.elbo import gated_rate_slab, rate_spike

# One pass with steps too small to move a weight: what training adds is then all that differs.
UNTRAINED: dict[str, Any] = {"max_iter": 1, "learning_rate": 1e-12}
_CHUNK = 2000


class Ours(Fitted):
    """The estimator behind the protocol.

    ``n_swaps`` codes by `SparseVAETransformer.refine`; None by its encoder alone.
    """

    def __init__(
        self, estimator: SparseVAETransformer, seconds: float, n_swaps: int | None = None
    ) -> None:
        self.estimator = estimator
        self.seconds = seconds
        self.n_swaps = n_swaps

    @override
    def encode(self, rows: Images) -> Features:
        if self.n_swaps is None:
            return self.estimator.transform(rows)
        return self.estimator.refine(rows, n_swaps=self.n_swaps)

    @override
    def decode(self, codes: Features) -> NDArray[np.float32]:
        return self.estimator.inverse_transform(codes)

    @override
    @torch.no_grad()
    def rate(self, rows: Images) -> float | None:
        """Mean of rate_slab + rate_spike; none for refined codes, which are no posterior's."""
        if self.n_swaps is not None:
            return None
        model = self.estimator.model_
        total = 0.0
        for i in range(0, len(rows), _CHUNK):
            q = model.encode(torch.from_numpy(unit_float(rows[i : i + _CHUNK])).to(model.scale))
            total += float((gated_rate_slab(q) + rate_spike(q.gate, model.spec.spike_weight)).sum())
        return total / len(rows)


@remember_last
def fit_ours(task: Task, **parameters: Any) -> Ours:
    """Fit with defaults; nothing is tuned per point."""
    begin = time.perf_counter()
    estimator = SparseVAETransformer(
        task.k, 1 - task.l0 / task.k, random_state=task.seed, **parameters
    ).fit(task.rows)
    return Ours(estimator, time.perf_counter() - begin)


def fit_refined(task: Task, *, n_swaps: int = 0, **parameters: Any) -> Ours:
    """Code with the same model, refined."""
    fitted = fit_ours(task, **parameters)
    return Ours(fitted.estimator, fitted.seconds, n_swaps)


def fit_untrained(task: Task) -> Ours:
    """Code with the same network at its start, its gate calibrated."""
    begin = time.perf_counter()
    estimator = SparseVAETransformer(
        task.k, 1 - task.l0 / task.k, random_state=task.seed, **UNTRAINED
    ).fit(task.rows)
    return Ours(estimator, time.perf_counter() - begin)
