"""The threshold that keeps p on unseen data: the p-quantile of the scores of held-out rows."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsecode.device import matmul_precision
from sparsecode.gate import exact_threshold
from sparsecode.loader import Rows
from sparsecode.vae import SparseVAE

# The zero fraction of a row has a standard deviation of .01 to .1 over rows, so 500 held-out rows
# place p within .0045 (one standard error) at worst. Fewer than 100 are too few: folds are crossed.
_ENOUGH = 500
_TOO_FEW = 100
_MAX_FRACTION = 0.25
N_FOLDS = 5
# Scores looked at, at most: 64 Mi float32 values, the quantile's error is then below 1e-4.
_MAX_SCORES = 1 << 26


def n_held_out(n_rows: int, validation_fraction: float) -> int:
    """Count of rows to hold out: the fraction asked for, or what a threshold needs if more.

    0 if the rows are too few to spare enough of them, so that the threshold must be cross-fitted.
    """
    wanted = int(max(validation_fraction * n_rows, min(_ENOUGH, _MAX_FRACTION * n_rows)))
    return wanted if wanted >= _TOO_FEW else 0


@dataclass(frozen=True)
class Fold:
    """Indices (int64) to train on and to hold out."""

    train: Tensor
    held_out: Tensor


def folds(index: Tensor) -> list[Fold]:
    """Cut a shuffled index into at most ``N_FOLDS`` folds, each held out once."""
    parts = index.tensor_split(min(N_FOLDS, len(index)))
    return [
        Fold(torch.cat([p for j, p in enumerate(parts) if j != i]), part)
        for i, part in enumerate(parts)
    ]


@torch.no_grad()
def row_scores(model: SparseVAE, rows: Rows, index: Tensor) -> NDArray[np.float32]:
    """Scores (m, k) of the rows at ``index``, or of as many of them as memory allows."""
    index = index[: max(1, _MAX_SCORES // model.spec.n_latents)]
    parts = []
    with matmul_precision(reduced=False):
        for part in index.split(4096):
            loc = model.encoder.mean(model.standardise(rows.batch(part)))
            parts.append(model.gate.scores(loc.float()).cpu())
    return torch.cat(parts).numpy()


def calibrate(model: SparseVAE, rows: Rows, index: Tensor, level: float) -> float:
    """Set the model's threshold to a quantile of the scores of some rows.

    Parameters
    ----------
    model : SparseVAE
    rows : Rows
    index : Tensor of int64
        Rows to look at: held out from training, or all of them with a cross-fitted ``level``.
    level : float
        Fraction of scores to close.

    Returns
    -------
    float
        Density: the fraction of these scores above the threshold.
    """
    if model.spec.spike_weight == 0:
        return 1.0
    scores = row_scores(model, rows, index)
    model.gate.threshold.fill_(exact_threshold(scores, level))
    return float((scores > model.gate.threshold.item()).mean())


def cross_fitted_level(
    fit_fold: Callable[[Fold], SparseVAE], rows: Rows, index: Tensor, spike_weight: float
) -> float:
    """Quantile of *training* scores that closes the fraction p of the scores of *unseen* rows.

    A model fires less on rows it has not seen. For each fold, held-out scores are expressed as
    quantiles of that fold's own training scores, a unit that carries over to a model trained on
    all rows; the p-quantile of these numbers over all folds is the level to use there.

    Parameters
    ----------
    fit_fold : callable
        Trains a fresh model on ``fold.train``.
    rows : Rows
    index : Tensor of int64
        The rows to cut into folds, shuffled.
    spike_weight : float
        p in [0, 1).

    Returns
    -------
    float
        In [0, 1].
    """
    if spike_weight == 0:
        return 0.0
    quantiles = []
    for fold in folds(index):
        model = fit_fold(fold)
        seen = np.sort(row_scores(model, rows, fold.train), axis=None)
        unseen = row_scores(model, rows, fold.held_out)
        quantiles.append(np.searchsorted(seen, unseen.ravel(), side="right") / len(seen))
    return exact_threshold(np.concatenate(quantiles), spike_weight)
