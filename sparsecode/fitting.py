"""One fit, from rows to a calibrated model: split, train, calibrate."""

import copy
import warnings
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sparsecode.calibration import (
    N_FOLDS,
    Fold,
    calibrate,
    cross_fitted_level,
    n_held_out,
)
from sparsecode.errors import UnscaledFeatureWarning
from sparsecode.loader import Rows, moments
from sparsecode.progress import TrainingProgress
from sparsecode.trainer import EpochRecord, Trainer, TrainingOptions
from sparsecode.vae import ModelSpec, SparseVAE

# A feature with a larger share of the variance than this leaves nothing for the others.
_DOMINANT, _SAMPLE = 0.9, 10_000


@dataclass(frozen=True)
class Seeds:
    """Independent seeds of one fit."""

    split: int
    weights: int
    training: int


@dataclass(frozen=True)
class FitPlan:
    """Everything a fit needs besides the rows, resolved to plain values.

    Attributes
    ----------
    spec : ModelSpec
    options : TrainingOptions
        ``max_time`` covers the whole fit, cross-fitting included.
    validation_fraction : float
    early_stopping : bool
    seeds : Seeds
    device : torch.device
    encoder, decoder : Module or None
        Own networks, copied for each model.
    """

    spec: ModelSpec
    options: TrainingOptions
    validation_fraction: float
    early_stopping: bool
    seeds: Seeds
    device: torch.device
    encoder: nn.Module | None = None
    decoder: nn.Module | None = None


@dataclass(frozen=True)
class FitResult:
    """A trained and calibrated model.

    Attributes
    ----------
    model : SparseVAE
    history : list of EpochRecord
    density : float
        Fraction of non-zeros on the rows that calibrated the threshold.
    """

    model: SparseVAE
    history: list[EpochRecord]
    density: float


def new_model(plan: FitPlan, rows: Rows, train: Tensor) -> SparseVAE:
    """Untrained model on the plan's device, its input scaling set from the rows at ``train``."""
    # Copied at once, so that weights shared between them stay shared.
    own = copy.deepcopy((plan.encoder, plan.decoder))
    # On the CPU whatever torch's default device is: the generator is there. Torch's layers draw
    # weights when they are made.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        model = SparseVAE(plan.spec, *own)
    mean, variance = moments(rows, train)
    generator = torch.Generator("cpu").manual_seed(plan.seeds.weights)
    model.initialise_(mean.cpu(), variance.cpu(), generator)
    return model.to(plan.device)


def new_trainer(plan: FitPlan, model: SparseVAE) -> Trainer:
    """Trainer with fresh optimiser state and the plan's seed."""
    generator = torch.Generator(plan.device).manual_seed(plan.seeds.training)
    return Trainer(model, generator)


def fit_model(
    plan: FitPlan, rows: Rows, start: SparseVAE | None, progress: TrainingProgress
) -> FitResult:
    """Train on the rows and calibrate the threshold.

    With many rows, ``validation_fraction`` of them are held out, and the threshold is the
    p-quantile of their scores. With few, all rows train the model and the threshold is
    cross-fitted (see :mod:`sparsecode.calibration`).

    Parameters
    ----------
    plan : FitPlan
    rows : Rows
    start : SparseVAE or None
        Go on from a copy of this model.
    progress : TrainingProgress
    """
    shuffle = torch.Generator("cpu").manual_seed(plan.seeds.split)
    index = torch.randperm(rows.n_rows, generator=shuffle, device="cpu").to(plan.device)
    n_spared = n_held_out(rows.n_rows, plan.validation_fraction)
    crosses = n_spared == 0 and plan.spec.spike_weight > 0
    if crosses and plan.options.max_time is not None:
        share = plan.options.max_time / (N_FOLDS + 1)
        plan = replace(plan, options=replace(plan.options, max_time=share))
    if plan.early_stopping and not n_spared:
        n_spared = max(1, int(plan.validation_fraction * rows.n_rows))
    train, held_out = (index[n_spared:], index[:n_spared]) if n_spared else (index, None)

    if start is None:
        model = new_model(plan, rows, train)
        _warn_of_one_feature(model, rows, train)
    else:  # on the CPU, if it was copied or pickled
        model = copy.deepcopy(start).to(plan.device)
    trainer = new_trainer(plan, model)
    callback = progress.stage("training", plan.options.n_epochs)
    history = trainer.fit(rows, train, held_out, plan.options, callback)
    if trainer.unrecorded:
        progress.say(
            "each step was launched from Python, which is slower than a CUDA graph; none could be "
            f"recorded: {trainer.unrecorded}"
        )
    if not crosses or trainer.interrupted:
        calibrating = train if held_out is None else held_out
        return FitResult(
            model, history, calibrate(model, rows, calibrating, plan.spec.spike_weight)
        )
    level = _cross_fit(plan, rows, index, progress)
    calibrate(model, rows, train, level)
    # By construction: over the folds, this is the density of the rows held out.
    return FitResult(model, history, 1 - plan.spec.spike_weight)


def _warn_of_one_feature(model: SparseVAE, rows: Rows, train: Tensor) -> None:
    # A sample will do: the shares that matter are far from the limit.
    variance = moments(rows, train[:_SAMPLE])[1]
    share = float(variance.max() / variance.sum().clamp(min=torch.finfo().tiny))
    if model.spec.n_features > 2 and share > _DOMINANT:
        warnings.warn(
            f"feature {int(variance.argmax())} holds {share:.1%} of the variance of X, so codes "
            "will tell of little else. Features are not scaled one by one; if their units differ, "
            "scale them before (sklearn.preprocessing.StandardScaler).",
            UnscaledFeatureWarning,
            stacklevel=3,
        )


def _cross_fit(plan: FitPlan, rows: Rows, index: Tensor, progress: TrainingProgress) -> float:
    n_done = 0

    def fit_fold(fold: Fold) -> SparseVAE:
        nonlocal n_done
        n_done += 1
        callback = progress.stage(f"calibrating {n_done}/{N_FOLDS}", plan.options.n_epochs)
        model = new_model(plan, rows, fold.train)
        trainer = new_trainer(plan, model)
        held_out = fold.held_out if plan.early_stopping else None
        trainer.fit(rows, fold.train, held_out, plan.options, callback)
        if trainer.interrupted:
            raise KeyboardInterrupt
        return model

    try:
        return cross_fitted_level(fit_fold, rows, index, plan.spec.spike_weight)
    except KeyboardInterrupt:  # said by the trainer; the quantile of the training rows must do
        return plan.spec.spike_weight
