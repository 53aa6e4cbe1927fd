import math
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_vae import model
from torch import nn

from sparsecode import SparseVAETransformer
from sparsecode.errors import FitInterruptedWarning, TrainingDivergedError
from sparsecode.loader import as_rows
from sparsecode.trainer import Trainer, TrainingOptions

CPU = torch.device("cpu")
OPTIONS = {
    "batch_size": 32,
    "n_epochs": 3,
    "learning_rate": 4e-3,
    "beta": 1.0,
    "weight_decay": 0.0,
}


def options(**changes):
    return TrainingOptions(**{**OPTIONS, **changes})


def trainer(**changes):
    return Trainer(model(**changes), torch.Generator().manual_seed(0))


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(2)
    mixing = torch.randn(3, 6, generator=generator)
    codes = torch.randn(200, 3, generator=generator).relu()
    return as_rows((codes @ mixing).numpy(), CPU)


EVERY = torch.arange(200)


def test_the_loss_falls(rows):
    history = trainer().fit(rows, EVERY, None, options(n_epochs=10, learning_rate=0.05))
    losses = [record.loss for record in history]
    assert losses[-1] < losses[0] - 0.5
    assert [record.epoch for record in history] == list(range(1, 11))


def test_records_hold_the_parts_of_the_loss(rows):
    for record in trainer().fit(rows, EVERY, EVERY[:50], options(beta=0.5)):
        assert record.loss == pytest.approx(record.distortion + 0.5 * record.rate_slab)
        assert record.rate == record.rate_slab + record.rate_spike
        assert record.n_samples == 192  # six batches; the remainder sits out
        assert 0 <= record.density <= 1
        assert 0 <= record.dead <= 4
        assert record.seconds > 0
        assert math.isfinite(record.validation_loss)


def test_density_goes_from_all_to_what_was_asked_for(rows):
    history = trainer(spike_weight=0.75).fit(rows, EVERY, None, options(n_epochs=20))
    assert history[0].density > 0.75
    assert history[-1].density == pytest.approx(0.25, abs=0.05)


def test_the_learning_rate_warms_up_and_decays(rows):
    ours = trainer()
    seen = []
    ours.fit(
        rows, EVERY, None, options(n_epochs=4), lambda *_: seen.append(float(ours.learning_rate))
    )
    # One look at the end of each epoch of six steps.
    assert seen == sorted(seen, reverse=True)
    assert 0 < seen[-1] < seen[0] <= 4e-3


def test_a_stream_keeps_its_learning_rate(rows):
    ours = trainer()
    for _ in range(3):
        ours.fit(rows, EVERY, None, options(n_epochs=1, constant=True))
        assert float(ours.learning_rate) == pytest.approx(2e-3, rel=0.01)
    assert ours.n_epochs == 3
    assert ours.n_steps == 18


def test_the_model_is_left_in_evaluation_mode(rows):
    ours = trainer()
    ours.fit(rows, EVERY, None, options())
    assert not ours.model.training


def test_the_same_generator_gives_the_same_bits(rows):
    first, second = trainer(), trainer()
    before = torch.random.get_rng_state()
    for each in (first, second):
        each.fit(rows, EVERY, None, options())
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_progress_is_called_with_steps_and_records(rows):
    calls = []
    trainer().fit(rows, EVERY, None, options(batch_size=8), lambda *call: calls.append(call))
    assert {n_steps for _, n_steps, _ in calls} == {75}
    ends = [(step, record.epoch) for step, _, record in calls if record is not None]
    assert ends == [(25, 1), (50, 2), (75, 3)]
    assert len(calls) > 3  # and in between


def test_early_stopping_keeps_the_best_epoch(rows):
    train, validation = EVERY[:20], EVERY[100:]
    ours = trainer(encoder_sizes=(40,), decoder_sizes=(40,))
    chosen = options(n_epochs=200, learning_rate=0.02, beta=0.0, batch_size=8, n_iter_no_change=5)
    history = ours.fit(rows, train, validation, chosen)
    losses = [record.validation_loss for record in history]
    assert len(losses) < 200  # 20 rows are overfitted soon
    assert np.argmin(losses) < len(losses) - 1
    assert ours.validation_loss(rows, validation, chosen) == pytest.approx(min(losses), rel=1e-6)


def test_early_stopping_waits_for_falls_that_count(rows):
    history = trainer().fit(rows, EVERY, EVERY, options(n_epochs=50, n_iter_no_change=3, tol=1e9))
    assert len(history) == 4


def test_validation_is_done_in_evaluation_mode(rows):
    own = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 8))
    ours = Trainer(
        type(model())(model().spec, own, nn.Linear(4, 6)), torch.Generator().manual_seed(0)
    )
    ours.model.train()
    first, second = (ours.validation_loss(rows, EVERY[:40], options()) for _ in range(2))
    assert first == second
    assert own[0].num_batches_tracked == 0
    assert ours.model.training


def test_time_is_up(rows):
    history = trainer().fit(rows, EVERY, None, options(n_epochs=10**6, max_time=0.5))
    assert 1 <= len(history) < 10**6
    assert sum(record.seconds for record in history) < 30  # half a second, on a machine at rest


class FailsAtCall(nn.Module):
    """Decoder that gives NaN at one call, or raises."""

    def __init__(self, n_latents, n_features, call, error=None):
        super().__init__()
        self.linear = nn.Linear(n_latents, n_features)
        self.calls, self.call, self.error = 0, call, error

    def forward(self, z):
        self.calls += 1
        if self.calls == self.call and self.error:
            raise self.error
        return self.linear(z) * (math.nan if self.calls == self.call else 1.0)


def own(make, call, error=None, **parameters):
    # posterior="gaussian" decodes once in a step; 60 training rows make two steps of 30.
    return make(
        n_components=3,
        posterior="gaussian",
        p=0.0,
        encoder=nn.Linear(5, 6),
        decoder=FailsAtCall(3, 5, call, error),
        batch_size=30,
        max_iter=4,
        **parameters,
    )


X = np.random.default_rng(0).normal(size=(60, 5))


def test_divergence_names_the_step_and_the_last_good_epoch(make):
    with pytest.raises(
        TrainingDivergedError,
        match=r"at step 2 of epoch 3; the last good epoch is 2. Lower learning_rate",
    ):
        own(make, call=6).fit(X)


def test_an_absurd_learning_rate_is_said_and_not_hidden(make, digits):
    with pytest.raises(TrainingDivergedError, match=r"learning_rate \(now 1e\+30\)"):
        make(learning_rate=1e30).fit(digits[:200])


def test_a_failed_continuation_leaves_the_model_as_it_was(make, digits):
    coder = make(warm_start=True).fit(digits[:500])
    before = coder.transform(digits[:50])
    coder.set_params(learning_rate=1e30)
    with pytest.raises(TrainingDivergedError):
        coder.fit(digits[:500])
    assert (coder.transform(digits[:50]) != before).nnz == 0


def test_an_interrupted_fit_keeps_the_model_and_says_so(make):
    coder = own(make, call=6, error=KeyboardInterrupt())
    with pytest.warns(FitInterruptedWarning, match="interrupted in epoch 3; the model keeps"):
        coder.fit(X)
    assert coder.n_iter_ == len(coder.history_) == 2
    assert coder.transform(X).shape == (60, 3)


def test_an_interrupted_stream_keeps_the_model(make):
    coder = own(make, call=1, error=KeyboardInterrupt())
    with pytest.warns(FitInterruptedWarning, match="interrupted in epoch 1"):
        coder.partial_fit(X)
    assert coder.n_iter_ == 0
    coder.partial_fit(X)
    assert coder.n_iter_ == 1
    assert coder.transform(X).shape == (60, 3)


def test_a_stream_goes_on_after_an_error_in_its_first_chunk(make):
    coder = own(make, call=1, error=RuntimeError("out of memory"))
    with pytest.raises(RuntimeError, match="out of memory"):
        coder.partial_fit(X)
    assert coder.partial_fit(X).n_samples_seen_ == 60


def test_an_interrupt_while_calibrating_keeps_p_on_the_training_rows(make):
    # 2 epochs of 2 steps train the model, which then holds call 5: in the first fold.
    class Interrupts(nn.Linear):
        calls = 0

        def forward(self, z):
            if torch.is_grad_enabled():
                Interrupts.calls += 1
            if Interrupts.calls == 9:
                raise KeyboardInterrupt
            return super().forward(z)

    coder = make(
        n_components=4, encoder=nn.Linear(5, 8), decoder=Interrupts(4, 5), batch_size=30, p=0.5
    )
    with pytest.warns(FitInterruptedWarning):
        coder.fit(X)
    assert Interrupts.calls >= 9
    assert coder.n_iter_ == 2
    codes = coder.transform(X)
    assert codes.nnz == 120


SIGNALLED = """
import sys, warnings
import numpy as np
from torch import nn
from sparsecode import SparseVAETransformer

class Tells(nn.Linear):
    def forward(self, z):
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 30:
            print("training", flush=True)
        return super().forward(z)

X = np.random.default_rng(0).normal(size=(500, 5)).astype(np.float32)
coder = SparseVAETransformer(
    4, max_iter=10**6, batch_size=32, encoder=nn.Linear(5, 8), decoder=Tells(4, 5)
)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    coder.fit(X)
print([type(w.message).__name__ for w in caught], coder.transform(X).shape, coder.n_iter_ > 0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_keeps_the_model():
    with subprocess.Popen(
        [sys.executable, "-c", SIGNALLED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "training\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.startswith("['FitInterruptedWarning'] (500, 4)")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("posterior", ["spike_slab", "gaussian"])
@pytest.mark.parametrize("kl_samples", [0, 2])
def test_a_step_never_waits_for_the_gpu(posterior, kl_samples):
    ours = Trainer(model(posterior=posterior).cuda(), torch.Generator("cuda").manual_seed(0))
    x = torch.rand(64, 6, device="cuda")
    chosen = options(kl_samples=kl_samples)
    from_trainer = ours.fit(as_rows(x.cpu().numpy(), x.device), EVERY[:64].cuda(), None, chosen)
    assert len(from_trainer) == 3
    totals = sys.modules["sparsecode.trainer"]._Totals(4, x.device)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        ours.train_step(x, chosen, totals)
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Stand:
    """What a recording is on a GPU: fixed memory for the arguments."""

    made = 0

    def __init__(self, function, examples, generator):
        type(self).made += 1
        self.function, self.arguments = function, [example.clone() for example in examples]

    def __call__(self, *arguments):
        for recorded, argument in zip(self.arguments, arguments, strict=True):
            recorded.copy_(argument)
        self.function(*self.arguments)


class Refuses:
    """What is left of a recording that failed: a generator that is of no more use."""

    def __init__(self, function, examples, generator):
        torch.rand(1, generator=generator)
        raise RuntimeError("operation not permitted when stream is capturing\nand more")


def losses(history):
    return [(record.loss, record.density, record.dead, record.n_samples) for record in history]


def record_with(monkeypatch, recording):
    module = sys.modules["sparsecode.trainer"]
    monkeypatch.setattr(module, "_can_record", lambda rows, train: True)
    monkeypatch.setattr(module, "Recorder", lambda device: SimpleNamespace(record=recording))
    monkeypatch.setattr(Stand, "made", 0)


# Epochs of six steps are one recording; of 25, one of ten, played twice, and one of five.
@pytest.mark.parametrize(("batch_size", "recordings"), [(32, 1), (8, 2)])
def test_recorded_steps_are_the_steps(rows, monkeypatch, batch_size, recordings):
    chosen = options(n_epochs=5, batch_size=batch_size)
    plain, ours = trainer(), trainer()
    expected = losses(plain.fit(rows, EVERY, None, chosen))
    assert plain.unrecorded is None
    record_with(monkeypatch, Stand)
    assert losses(ours.fit(rows, EVERY, None, chosen)) == expected
    assert Stand.made == recordings
    assert ours.unrecorded is None
    assert ours.n_steps == plain.n_steps
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, ours.model.state_dict()[name])


def test_steps_that_cannot_be_recorded_are_the_steps(rows, monkeypatch):
    expected = losses(trainer().fit(rows, EVERY, None, options(n_epochs=5)))
    record_with(monkeypatch, Refuses)
    ours = trainer()
    assert losses(ours.fit(rows, EVERY, None, options(n_epochs=5))) == expected
    assert ours.unrecorded == "operation not permitted when stream is capturing"


def test_why_nothing_was_recorded_is_said_when_asked(make, digits, monkeypatch, capsys):
    record_with(monkeypatch, Refuses)
    for verbose in (0, 1):
        make(max_iter=4, verbose=verbose).fit(digits[:500])
        said = "could be recorded: operation not permitted" in capsys.readouterr().err
        assert said is bool(verbose)


def test_steps_that_revive_latents_are_recorded_by_themselves(rows, monkeypatch):
    record_with(monkeypatch, Stand)
    ours = trainer()
    with torch.no_grad():
        ours.model.encoder.loc.bias[0] = -100.0  # never fires
    ours.fit(rows, EVERY, None, options(n_epochs=12))
    assert Stand.made == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_trains_alike_with_and_without_recordings(rows, monkeypatch):
    X, every = rows.slice(0, 200).numpy(), EVERY.cuda()
    fits = []
    for records in (True, False):
        can = lambda rows, train, records=records: records  # noqa: E731
        monkeypatch.setattr(sys.modules["sparsecode.trainer"], "_can_record", can)
        ours = Trainer(model().cuda(), torch.Generator("cuda").manual_seed(0))
        fits.append(ours.fit(as_rows(X, every.device), every, None, options(n_epochs=5)))
        assert ours.unrecorded is None
    recorded, launched = ([record.loss for record in history] for history in fits)
    # Other noise from the sixth step on, so the means of an epoch agree to some per cent.
    assert recorded == pytest.approx(launched, rel=0.05)


class Waits(nn.Module):
    """An encoder that asks for a number while the GPU works."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 16)

    def forward(self, x):
        return self.linear(x) * math.exp(-float(x.mean()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_network_that_waits_for_the_gpu_trains_without_recordings(make, digits, capsys):
    networks = {"encoder": Waits(), "decoder": nn.Linear(8, 64)}
    fitted = make(n_components=8, **networks, max_iter=3, device="cuda", verbose=1)
    codes = fitted.fit_transform(digits[:500])
    assert "could be recorded: " in capsys.readouterr().err
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert all(math.isfinite(record.loss) for record in fitted.history_)
    assert codes.shape == (500, 8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_rows_that_a_gpu_cannot_hold_train_it_from_the_host(rows, monkeypatch):
    X, every = rows.slice(0, 200).numpy(), EVERY.cuda()
    fits = []
    for share in (0.5, 0.0):
        monkeypatch.setattr(sys.modules["sparsecode.loader"], "_RESIDENT_SHARE", share)
        ours = Trainer(model().cuda(), torch.Generator("cuda").manual_seed(0))
        source = as_rows(X, every.device)
        assert source.on_device is (share > 0)
        fits.append(ours.fit(source, every, None, options(n_epochs=5)))
    resident, streamed = ([record.loss for record in history] for history in fits)
    assert streamed == pytest.approx(resident, rel=0.05)


def test_parameters_reach_the_trainer(make, digits):
    coder = make(max_iter=3, batch_size=100, beta=0.25).fit(digits[:500])
    assert isinstance(coder, SparseVAETransformer)
    assert coder.n_iter_ == 3
    for record in coder.history_:
        assert record.n_samples == 300  # 375 are left beside the held-out quarter
        assert record.loss == pytest.approx(record.distortion + 0.25 * record.rate_slab)
