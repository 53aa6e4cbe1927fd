"""Training: ``Trainer.fit`` -> ``run_epoch`` -> ``train_step``.

A train step has static shapes and never waits for the device: counters and sums stay in tensors
that are read once per epoch, its place in the schedule comes from a table on the device.
"""

import copy
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sparsecode.capture import Recorder, Recording
from sparsecode.device import matmul_precision, threads_for
from sparsecode.distributions import GatedNormal
from sparsecode.elbo import ElboTerms, elbo_terms
from sparsecode.errors import FitInterruptedWarning, TrainingDivergedError
from sparsecode.loader import Rows, epoch_index
from sparsecode.vae import SparseVAE

# Fractions of the schedule: warm-up of the learning rate, annealing of p from 0.
_WARM_UP = 0.05
_ANNEAL = 0.1
_AUXILIARY_WEIGHT = 1 / 32
# Of this many rows of a batch one is decoded again to revive latents: decoding all of them made a
# step 1.6 times as long.
_AUXILIARY_ROWS = 4
# A latent is dead in training when it has not fired for so many steps (or an epoch, if shorter).
_DEAD_AFTER = 200
# Where in its schedule a stream stands: past warm-up and annealing, half the learning rate.
_MIDDLE = 0.5
_CLIP_NORM = 1e3
_VALIDATION_SEED = 0
_VALIDATION_CHUNK = 4096
_CLOCK_STEPS = 20
# A look at the dead latents waits for a GPU, so there is one in so many steps.
_LOOK_STEPS = 1000
# Steps in one recording.
_STEPS_AT_ONCE = 10


@dataclass(frozen=True)
class TrainingOptions:
    """How to train, resolved to plain numbers.

    Attributes
    ----------
    batch_size : int
        Rows in a step.
    n_epochs : int
        Passes over the training rows.
    learning_rate : float
        Peak of AdamW's step size.
    weight_decay : float
        Of AdamW: each step shrinks the weights by the product of the two.
    beta : float
        Weight of the rate in the loss; 1 is the ELBO.
    kl_samples : int
        Draws of the Monte Carlo KL; 0 for the exact KL.
    constant : bool
        Keep the learning rate and p constant, as for a stream of unknown length.
    max_time : float or None
        Seconds.
    n_iter_no_change : int or None
        Stop after so many epochs without the validation loss falling by ``tol``; None never does.
    tol : float
        Smallest fall that counts, in nats per sample.
    """

    batch_size: int
    n_epochs: int
    learning_rate: float
    weight_decay: float
    beta: float
    kl_samples: int = 0
    constant: bool = False
    max_time: float | None = None
    n_iter_no_change: int | None = None
    tol: float = 1e-4


@dataclass(frozen=True)
class EpochRecord:
    """Means over one epoch of training, in nats per sample.

    Attributes
    ----------
    epoch : int
        From 1.
    loss : float
        distortion + beta · rate_slab; rate_spike is constant for a gate of fixed density.
    rate_slab, rate_spike, distortion : float
        Parts of the negative ELBO.
    density : float
        Fraction of open gates.
    dead : int
        Latents that did not fire in this epoch.
    validation_loss : float or None
        Loss on held-out rows, where there are some.
    n_samples : int
        Rows trained on.
    seconds : float
        Time this epoch took.
    """

    epoch: int
    loss: float
    rate_slab: float
    rate_spike: float
    distortion: float
    density: float
    dead: int
    validation_loss: float | None
    n_samples: int
    seconds: float

    @property
    def rate(self) -> float:
        """rate_slab + rate_spike."""
        return self.rate_slab + self.rate_spike


ProgressCallback = Callable[[int, int, EpochRecord | None], None]
"""Called with steps done, steps planned and, at the end of an epoch, its record."""


class Trainer:
    """Optimiser, counters and randomness of one model; lives on between ``partial_fit`` calls.

    On a GPU that holds the rows, some steps are recorded once and replayed (`sparsecode.capture`).

    Parameters
    ----------
    model : SparseVAE
        Trained in place.
    generator : torch.Generator
        On the model's device: batches and noise.

    Attributes
    ----------
    interrupted : bool
        Ctrl-C ended the last ``fit``.
    unrecorded : str or None
        Why steps could not be recorded, where a GPU would have replayed them.
    """

    def __init__(self, model: SparseVAE, generator: torch.Generator) -> None:
        self.model = model
        self.generator = generator
        device = model.scale.device
        self.learning_rate = torch.zeros((), device=device)
        self.target = torch.zeros((), device=device)
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(model),
            lr=self.learning_rate,
            betas=(0.9, 0.99),
            fused=True,
            capturable=device.type == "cuda",
        )
        self.steps_since_fired = torch.zeros(model.spec.n_latents, device=device)
        self.n_steps = 0
        self.n_epochs = 0
        self.interrupted = False
        self.unrecorded: str | None = None
        self._revives = False

    def fit(
        self,
        rows: Rows,
        train: Tensor,
        validation: Tensor | None,
        options: TrainingOptions,
        progress: ProgressCallback | None = None,
    ) -> list[EpochRecord]:
        """Train by a warm-up and cosine schedule over steps or seconds, whichever ends first.

        Parameters
        ----------
        rows : Rows
        train, validation : Tensor of int64
            Indices into ``rows``; ``validation`` is only looked at by early stopping.
        options : TrainingOptions
        progress : callable, optional

        Returns
        -------
        list of EpochRecord

        Raises
        ------
        TrainingDivergedError
            The loss became NaN or infinite.

        Warns
        -----
        FitInterruptedWarning
            Ctrl-C: the model keeps what it has learnt.
        """
        options = replace(options, batch_size=min(options.batch_size, len(train)))
        run = _Run(options, n_steps=options.n_epochs * (len(train) // options.batch_size))
        run.recorder = Recorder(train.device) if _can_record(rows, train) else None
        self._dead_after = min(_DEAD_AFTER, max(20, len(train) // options.batch_size))
        self.optimizer.param_groups[0]["weight_decay"] = options.weight_decay
        totals = _Totals(self.model.spec.n_latents, self.model.scale.device)
        history: list[EpochRecord] = []
        best = _Best(options)
        work = options.batch_size * self.model.multiply_adds_per_row
        self.model.train()
        try:
            for _ in range(options.n_epochs):
                with matmul_precision(reduced=True), threads_for(work):
                    record = self.run_epoch(rows, train, validation, run, totals, progress)
                history.append(record)
                if best.should_stop(record, self.model) or run.is_over():
                    break
        except KeyboardInterrupt:
            self.interrupted = True
            warnings.warn(
                f"fit was interrupted in epoch {self.n_epochs + 1}; the model keeps what it has "
                "learnt so far. Interrupt again to leave.",
                FitInterruptedWarning,
                stacklevel=2,
            )
        finally:
            # As large as the weights, and in the memory of recordings, which ends with them.
            self.optimizer.zero_grad(set_to_none=True)
        best.restore(self.model)
        self.model.eval()
        return history

    def run_epoch(
        self,
        rows: Rows,
        train: Tensor,
        validation: Tensor | None,
        run: "_Run",
        totals: "_Totals",
        progress: ProgressCallback | None,
    ) -> EpochRecord:
        """Pass once over the training rows and read the counters."""
        start = time.monotonic()
        totals.reset()
        table = epoch_index(train, run.options.batch_size, self.generator)
        at_once = _STEPS_AT_ONCE if run.recorder else 1
        self._look_for_dead()
        for indices in (table if rows.on_device else table.cpu()).split(at_once):
            if self.target.device.type == "cpu" or run.passes(_LOOK_STEPS, len(indices)):
                self._look_for_dead()
            is_time = run.passes(_CLOCK_STEPS, len(indices))
            self._take(rows, indices, run, totals)
            run.step += len(indices)
            if is_time:
                run.wait_for_earlier_steps(self.target.device)
                if progress:
                    progress(run.step, run.n_steps, None)
                if run.is_over():
                    break
        record = self._record(totals, rows, validation, run, start)
        if progress:
            progress(run.step, run.n_steps, record)
        return record

    def _take(self, rows: Rows, indices: Tensor, run: "_Run", totals: "_Totals") -> None:
        """Take steps on rows at ``indices`` (s, b), from a recording where there can be one."""

        def steps(indices: Tensor, schedule: Tensor) -> None:
            for index, (learning_rate, target) in zip(indices, schedule, strict=True):
                self.learning_rate.copy_(learning_rate)
                self.target.copy_(target)
                self.train_step(rows.batch(index), run.options, totals)

        schedule = self._schedule(run, len(indices))
        kind = self._revives, len(indices)
        n_steps = self.n_steps + len(indices)
        if run.recorder and run.is_worth_recording(*kind):
            spare = _copied(self.generator)
            try:
                recording = run.recorder.record(steps, (indices, schedule), self.generator)
                run.recordings[kind] = recording
            except RuntimeError as error:  # a network that waits for the GPU, for one
                cause = error.__context__ or error  # what the end of a recording says is less
                run.recorder, self.unrecorded = None, str(cause).partition("\n")[0]
                run.recordings.clear()
                # An aborted recording leaves its generator in the state of being recorded.
                self.generator = spare
        run.warm.add(self._revives)
        run.recordings.get(kind, steps)(indices, schedule)
        self.n_steps = n_steps  # a recording counts only while it is made

    def _look_for_dead(self) -> None:
        """Decide whether steps are to revive latents."""
        if self.model.spec.is_gated:
            self._revives = bool(self._dead.any())

    def train_step(self, x: Tensor, options: TrainingOptions, totals: "_Totals") -> None:
        """Take one optimiser step on the batch x (b, d)."""
        self.optimizer.zero_grad(set_to_none=True)
        terms, gate, objective = self._objective(x, options)
        objective.backward()
        self._clip_gradients()
        self.optimizer.step()
        with torch.no_grad():
            self.steps_since_fired.add_(1).mul_(1 - gate.amax(0))
            totals.add(terms, gate, options.beta)
        self.n_steps += 1

    def _clip_gradients(self) -> None:
        # Far above any healthy gradient: only saves the weights from a single wild batch.
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        # A CPU may look whether there is anything to clip: a GPU would have to wait.
        if norm.device.type != "cpu" or not norm <= _CLIP_NORM:
            torch.nn.utils.clip_grads_with_norm_(
                self.model.parameters(), _CLIP_NORM, norm, foreach=True
            )

    def _objective(self, x: Tensor, options: TrainingOptions) -> tuple[ElboTerms, Tensor, Tensor]:
        model = self.model
        loc, scale = model.heads(x)
        scores = model.gate.scores(loc.detach())
        model.gate.track(scores, self.target, is_first=self.n_steps == 0)
        gate = model.gate(scores)
        q = model.posterior(loc, scale, gate)
        z = q.rsample(generator=self.generator)
        likelihood = model.decode(z)
        terms = elbo_terms(model, x, q, likelihood, options.kl_samples, self.generator)
        model.track_scale(x, likelihood.mean.detach())
        model.gate.track_usage(gate)
        objective = (terms.distortion + options.beta * terms.rate_slab).mean()
        if self._revives:
            objective = objective + _AUXILIARY_WEIGHT * self._auxiliary_loss(x, q, scores, z)
        return terms, gate, objective

    @property
    def _dead(self) -> Tensor:
        return self.steps_since_fired > self._dead_after

    def _auxiliary_loss(self, x: Tensor, q: GatedNormal, scores: Tensor, z: Tensor) -> Tensor:
        # The dead latents that score highest are opened and asked to explain what the open ones
        # left over; through the likelihood, so the loss is in units of the current error.
        # L. Gao et al. (2024), "Scaling and evaluating sparse autoencoders", section 2.3.
        dead = self._dead
        some = slice(-(-len(x) // _AUXILIARY_ROWS))
        x, loc, scores, z = x[some], q.loc[some], scores[some], z[some]
        n_open = max(1, round(scores.shape[1] * (1 - self.model.spec.spike_weight)))
        top = scores.masked_fill(~dead, -torch.inf).topk(n_open, dim=1).indices
        chosen = torch.zeros_like(scores).scatter_(1, top, 1.0) * dead
        revived = self.model.decode(z.detach() + chosen * loc)
        return -revived.log_prob(x).mean() * dead.any()

    def _schedule(self, run: "_Run", n_steps: int) -> Tensor:
        """Learning rate and fraction of zeros at each of the next steps, (n_steps, 2)."""
        table = []
        for i in range(n_steps):
            done = _MIDDLE if run.options.constant else run.progress(run.step + i)
            rate = run.options.learning_rate * _warm_up_cosine(done)
            table.append((rate, self.model.spec.spike_weight * _annealed(done)))
        return torch.tensor(table, device="cpu").to(self.target.device, non_blocking=True)

    def _record(
        self, totals: "_Totals", rows: Rows, validation: Tensor | None, run: "_Run", start: float
    ) -> EpochRecord:
        means, n_samples, dead, bad_step = totals.read()
        self.n_epochs += 1
        if bad_step is not None or not math.isfinite(means["loss"]):
            raise TrainingDivergedError(
                f"the loss became NaN or infinite at step {bad_step or run.step} of epoch "
                f"{self.n_epochs}; the last good epoch is {self.n_epochs - 1}. Lower learning_rate "
                f"(now {run.options.learning_rate:g}) or scale the data."
            )
        held_out = (
            None if validation is None else self.validation_loss(rows, validation, run.options)
        )
        return EpochRecord(
            epoch=self.n_epochs,
            dead=dead,
            validation_loss=held_out,
            n_samples=n_samples,
            seconds=time.monotonic() - start,
            **means,
        )

    @torch.no_grad()
    def validation_loss(self, rows: Rows, index: Tensor, options: TrainingOptions) -> float:
        """Mean loss on rows at ``index`` with the same noise every time."""
        generator = torch.Generator(index.device).manual_seed(_VALIDATION_SEED)
        total = 0.0
        self.model.eval()
        with matmul_precision(reduced=False):
            for part in index.split(_VALIDATION_CHUNK):
                x = rows.batch(part)
                q = self.model.encode(x)
                likelihood = self.model.decode(q.rsample(generator=generator))
                terms = elbo_terms(self.model, x, q, likelihood)
                total += float((terms.distortion + options.beta * terms.rate_slab).sum())
        self.model.train()
        return total / len(index)


def _can_record(rows: Rows, train: Tensor) -> bool:
    return rows.on_device and train.device.type == "cuda"


def _copied(generator: torch.Generator) -> torch.Generator:
    """Make a generator of the same draws."""
    return torch.Generator(generator.device).set_state(generator.get_state())


def _parameter_groups(model: SparseVAE) -> list[dict[str, Any]]:
    """Weights, which decay, and biases, which do not: among them the posterior's log scale."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _warm_up_cosine(done: float) -> float:
    return min(1.0, (done + 1e-3) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _annealed(done: float) -> float:
    return min(1.0, done / _ANNEAL)


class _Run:
    """How far a run has come, in steps and in seconds."""

    def __init__(self, options: TrainingOptions, n_steps: int) -> None:
        self.options = options
        self.n_steps = n_steps
        self.step = 0
        self.start = time.monotonic()
        self.recorder: Recorder | None = None
        self.recordings: dict[tuple[bool, int], Recording] = {}
        self.warm: set[bool] = set()
        self._earlier: torch.cuda.Event | None = None

    def seconds(self) -> float:
        return time.monotonic() - self.start

    def passes(self, interval: int, n_steps: int) -> bool:
        """Whether a multiple of ``interval`` is reached by the next steps."""
        return (self.step + n_steps) // interval > self.step // interval

    def is_worth_recording(self, revives: bool, n_steps: int) -> bool:
        """Whether steps of this kind are not recorded, were launched before, and go on for long.

        Libraries set themselves up when they are first used, which cannot be recorded.
        """
        is_new = (revives, n_steps) not in self.recordings
        return is_new and revives in self.warm and self.n_steps - self.step >= 2 * n_steps

    def wait_for_earlier_steps(self, device: torch.device) -> None:
        """Let a GPU come near: launched steps are not done, and clocks are looked at here.

        Waits for what had been launched at the last call, so that there is always more to do.
        """
        if device.type == "cuda":
            if self._earlier is not None:
                self._earlier.synchronize()
            self._earlier = torch.cuda.current_stream(device).record_event()

    def progress(self, step: int) -> float:
        by_steps = step / self.n_steps
        if self.options.max_time is None:
            return by_steps
        return min(1.0, max(by_steps, self.seconds() / self.options.max_time))

    def is_over(self) -> bool:
        limit = self.options.max_time
        return limit is not None and self.seconds() >= limit


class _Best:
    """Early stopping: remembers the best epoch, and that epoch's weights."""

    def __init__(self, options: TrainingOptions) -> None:
        self.options = options
        self.loss = math.inf
        self.n_worse = 0
        self.state: dict[str, Tensor] | None = None

    def should_stop(self, record: EpochRecord, model: SparseVAE) -> bool:
        patience = self.options.n_iter_no_change
        if patience is None or record.validation_loss is None:
            return False
        if record.validation_loss < self.loss - self.options.tol:
            self.n_worse = 0
        else:
            self.n_worse += 1
        if record.validation_loss < self.loss:
            self.loss = record.validation_loss
            self.state = copy.deepcopy(model.state_dict())
        return self.n_worse >= patience

    def restore(self, model: SparseVAE) -> None:
        if self.state is not None:
            model.load_state_dict(self.state)


class _Totals:
    """Sums over an epoch, kept on the device."""

    names = ("loss", "rate_slab", "rate_spike", "distortion", "density")

    def __init__(self, n_latents: int, device: torch.device) -> None:
        self.sums = torch.zeros(len(self.names), device=device, dtype=torch.float64)
        self.fired = torch.zeros(n_latents, device=device)
        self.first_bad = torch.zeros((), device=device)
        self.n_steps = torch.zeros((), device=device)
        self.batch_size = 0

    def reset(self) -> None:
        """Begin another epoch, in the same memory."""
        for sums in (self.sums, self.fired, self.n_steps):
            sums.zero_()
        self.first_bad.fill_(torch.inf)

    def add(self, terms: ElboTerms, gate: Tensor, beta: float) -> None:
        """Count a step; every step has as many rows."""
        loss = terms.distortion + beta * terms.rate_slab
        parts = (loss, terms.rate_slab, terms.rate_spike, terms.distortion, gate.mean(1))
        self.sums += torch.stack([part.double().sum() for part in parts])
        torch.maximum(self.fired, gate.amax(0), out=self.fired)
        self.batch_size = len(gate)
        self.n_steps += 1
        bad = torch.where(loss.isfinite().all(), torch.inf, self.n_steps)
        torch.minimum(self.first_bad, bad, out=self.first_bad)

    def read(self) -> tuple[dict[str, float], int, int, int | None]:
        n_samples = int(self.n_steps) * self.batch_size
        sums = (self.sums / max(1, n_samples)).tolist()
        dead = int((self.fired == 0).sum())
        first_bad = float(self.first_bad)
        bad_step = None if math.isinf(first_bad) else int(first_bad)
        return dict(zip(self.names, sums, strict=True)), n_samples, dead, bad_step
