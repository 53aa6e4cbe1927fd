"""Every variant of the ablations changes what it says, and nothing is left of it afterwards."""

from functools import cache
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import ablations
from benchmarks.ablations import cells, fitted, measure, selected, tables, validation
from benchmarks.codes.protocol import Point
from benchmarks.common import DataSet, row_l0
from benchmarks.variants import (
    KERNEL_WIDTH,
    VARIANTS,
    OwnHeadGate,
    ScalePerRow,
    SignedGate,
    TwoHeads,
)
from sparsecode import defaults, trainer, transformer, vae
from sparsecode.distributions import GatedNormal
from sparsecode.gate import Gate
from sparsecode.networks import DictionaryPlusHidden, Encoder, TiedEncoder

N, D, POINT = 400, 784, Point(16, 2)
PARAMETERS = {"max_iter": 2, "batch_size": 16}
# The number of steps is given here.
NOT_IN_TWO_EPOCHS = {"default", "steps / 3", "steps x 2"}


@pytest.fixture(scope="module", autouse=True)
def many_rows():
    """Choose defaults as for MNIST and many latents; latents count as dead."""
    with (
        patch.object(defaults, "_MANY_ROWS", 1),
        patch.object(defaults, "_ROWS_PER_FEATURE", 0),
        patch.object(vae, "_TIED_FROM", 0.0),
        patch.object(trainer, "_DEAD_AFTER", -1),
    ):
        yield


@cache
def data():
    rng = np.random.default_rng(0)
    patterns = rng.normal(size=(12, D))
    weights = rng.normal(size=(N, 12))
    rows = np.clip(128 + 30 * weights @ patterns, 0, 255).astype(np.uint8)
    labels = weights.argmax(1) % 3
    return DataSet("images", rows, labels, rows[:100], labels[:100])


@cache
def fit(name):
    with VARIANTS[name].in_force():
        estimator = fitted(VARIANTS[name], data(), 0, POINT, **PARAMETERS)
        estimator.codes = estimator.transform(data().test).toarray()
    return estimator


def model(name):
    return fit(name).model_


def heads(name):
    fitted_model, x = model(name), torch.from_numpy(data().test.astype(np.float32) / 255)
    with torch.no_grad(), VARIANTS[name].in_force():
        return fitted_model.heads(x)


def gate_gradient(name):
    """Gradient of the gates by loc, and how far the scores are from the threshold."""
    loc = heads(name)[0].clone().requires_grad_()
    with VARIANTS[name].in_force():
        gates = model(name).posterior(loc, torch.ones_like(loc)).gate
        distance = model(name).gate.scores(loc) - model(name).gate.threshold
    gates.sum().backward()
    return loc.grad / model(name).gate.gain, distance.detach()


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in NOT_IN_TWO_EPOCHS])
def test_a_variant_trains_another_model_than_what_it_is_compared_with(name):
    assert np.isfinite(fit(name).codes).all()
    assert not np.array_equal(fit(name).codes, fit(VARIANTS[name].against).codes)


def test_nothing_is_left_of_a_variant():
    before = fit("default").codes
    for name in VARIANTS:
        with VARIANTS[name].in_force():
            pass
    fit.cache_clear()
    np.testing.assert_array_equal(fit("default").codes, before)


def test_scores():
    norms = model("score: loc times atom length")
    loc = torch.ones(1, POINT.k)
    gain = Gate.gain.__get__(norms.gate)  # of the usage alone
    expected = gain * norms.dictionary.weight.norm(dim=0)
    torch.testing.assert_close(norms.gate.scores(loc)[0], expected)

    assert isinstance(model("score: abs(loc), signed codes").gate, SignedGate)
    assert (fit("score: abs(loc), signed codes").codes < 0).any()

    own = model("score: a head of its own")
    assert isinstance(own.gate, OwnHeadGate)
    assert isinstance(own.encoder, TwoHeads)
    heads("score: a head of its own")
    is_open = (own.gate.scores(loc) > own.gate.threshold).numpy()
    np.testing.assert_array_equal(is_open, fit("score: a head of its own").codes != 0)
    assert own.encoder.filters.bias.abs().max() > 0  # it learns


def test_gate_of_rows_and_gradients():
    assert (row_l0(fit("gate: top L0 of each row").codes) == POINT.l0).all()
    assert (row_l0(fit("default").codes) != POINT.l0).any()

    gradient, _ = gate_gradient("gate gradient: straight-through")
    torch.testing.assert_close(gradient, torch.ones_like(gradient))
    gradient, distance = gate_gradient(f"gate gradient: rectangle, width {KERNEL_WIDTH:g}")
    is_near = distance.abs() < KERNEL_WIDTH / 2
    assert is_near.any()
    torch.testing.assert_close(gradient, is_near / KERNEL_WIDTH)


def test_networks():
    assert isinstance(model("default").encoder, TiedEncoder)
    assert isinstance(model("encoder: untied").encoder, Encoder)
    assert isinstance(model("encoder: untied").decoder, DictionaryPlusHidden)
    alone = model("encoder: hidden units alone")
    assert isinstance(alone.encoder.body[0], nn.Linear)
    assert isinstance(alone.decoder, DictionaryPlusHidden)
    assert model("encoder: dictionary alone").encoder.hidden is None
    assert isinstance(model("encoder: dictionary alone").encoder, TiedEncoder)
    for side in ("encoder", "decoder"):
        for name in [name for name in VARIANTS if name.startswith(side) and "hidden units" in name]:
            if "alone" not in name:
                wanted = int(name.split()[1].replace(",", ""))
                assert getattr(model(name), side).hidden.mlp[0].out_features == wanted
    per_row = "encoder: scale for each row"
    assert isinstance(model(per_row).encoder, ScalePerRow)
    assert heads(per_row)[1].std(0).min() > 0
    assert heads("default")[1].ndim == 1

    tied = model("decoder: linear, tied")
    assert tied.encoder.dictionary is tied.linear_decoder
    assert model("decoder: linear").linear_decoder is not None
    assert model("decoder: linear").encoder.hidden is not None
    assert model("encoder and decoder: linear").linear_decoder is not None
    assert model("encoder and decoder: linear").encoder.hidden is None
    for kind, layers in {"MLP alone": 3, "convolutional": 7}.items():
        decoder = model(f"decoder: {kind}").decoder
        assert isinstance(decoder, nn.Sequential)
        assert len(decoder) == layers
        assert not model(f"decoder: {kind}").encoder.body
    assert len(model("encoder and decoder: convolutional").encoder.body) > 0


def test_objective():
    assert model("likelihood: Bernoulli").spec.likelihood == "bernoulli"
    assert model("likelihood: continuous Bernoulli").spec.likelihood == "continuous_bernoulli"
    for name in [name for name in VARIANTS if name.startswith("beta")]:
        beta = VARIANTS[name].parameters["beta"]
        assert beta != defaults.resolve_beta("auto", "spike_slab", POINT.p, N, D)
        last = fit(name).history_[-1]
        assert last.loss == pytest.approx(last.distortion + beta * last.rate_slab)
    for name in ("no noise", "beta 0, no noise: autoencoder"):
        with VARIANTS[name].in_force():
            ones = torch.ones(3)
            assert torch.equal(GatedNormal(2 * ones, ones, ones).rsample(), 2 * ones)


def test_schedules():
    density = {
        name: fit(name).history_[0].density
        for name in ("default", *(n for n in VARIANTS if n.startswith("p annealed")))
    }
    assert density["p annealed: not"] < density["default"]
    assert density["default"] < density["p annealed: over half of training"]

    late = trainer._warm_up_cosine(0.9)
    with VARIANTS["learning rate constant after warm-up"].in_force():
        assert trainer._warm_up_cosine(0.9) > 0.9 > late
        assert trainer._warm_up_cosine(0.01) < 0.5
    n_epochs = {}
    for name in ("default", "steps / 3", "steps x 2"):
        with VARIANTS[name].in_force():
            n_epochs[name] = transformer.resolve_max_iter("auto", 60_000, 256)
    assert n_epochs["steps / 3"] == pytest.approx(n_epochs["default"] / 3, abs=1)
    assert n_epochs["steps x 2"] == pytest.approx(n_epochs["default"] * 2, abs=1)


def test_start():
    """Seen with steps too small to move a weight."""

    def started(name):
        still = {"max_iter": 1, "learning_rate": 1e-12}
        with torch.enable_grad(), VARIANTS[name].in_force():
            return fitted(VARIANTS[name], data(), 0, POINT, **still).model_

    def cosines(model):
        atoms = nn.functional.normalize(model.dictionary.weight, dim=0)
        return (atoms.T * nn.functional.normalize(model.encoder.loc.weight, dim=1)).sum(1)

    with torch.no_grad():
        assert cosines(started("encoder: untied")).min() > 0.999
        assert cosines(started("start: filters on their own")).max() < 0.5
        at_rows = started("start: atoms at training rows")
        x = at_rows.standardise(torch.from_numpy(data().train.astype(np.float32) / 255))
        atoms = nn.functional.normalize(at_rows.dictionary.weight, dim=0)
        nearest = (nn.functional.normalize(x, dim=1) @ atoms).amax(0)
        torch.testing.assert_close(nearest, torch.ones(POINT.k))
        lengths = started("default").dictionary.weight.norm(dim=0)
        torch.testing.assert_close(at_rows.dictionary.weight.norm(dim=0), lengths)


def test_constants_reach_the_training():
    for name, variant in VARIANTS.items():
        if name.startswith("usage balance"):
            assert model(name).gate.usage_balance == float(name.split()[-1])
        if name.startswith(("weight decay", "auxiliary")):
            with variant.in_force():
                now = defaults.WEIGHT_DECAY, trainer._AUXILIARY_WEIGHT
            assert float(name.split()[-1]) in now


def test_a_row_and_its_line_of_the_table():
    rows = {
        name: [
            {"seed": seed, **measure(VARIANTS[name], data(), seed, POINT, **PARAMETERS)}
            for seed in (0, 1)
        ]
        for name in ("default", "usage balance 0")
    }
    first = rows["default"][0]
    assert first["rate_slab"] > 0
    p = POINT.p
    expected = -first["l0"] * np.log(1 - p) - (POINT.k - first["l0"]) * np.log(p)
    assert first["rate_spike"] == pytest.approx(expected)
    assert first["rate_spike_own"] < expected  # each latent's own frequency codes it in fewer nats
    line = cells("usage balance 0", rows)
    deltas = [b["mse"] - a["mse"] for a, b in zip(*rows.values(), strict=True)]
    error = abs(deltas[0] - deltas[1]) / 2
    assert line["Δ MSE"] == f"{np.mean(deltas):+.5f} ± {error:.5f}"
    assert cells("default", rows)["Δ MSE"] == ""


def test_fits_that_failed_are_counted_and_in_no_mean():
    rows = [{"seed": 0, "mse": 0.01, "probe": 0.9}, {"seed": 1, "mse": 2e8, "probe": 0.1}]
    results = {"default": rows[:1], "no noise": [*rows, {"seed": 2, "diverged": True}]}
    line = cells("no noise", results)
    assert line["variant"] == "no noise (2 of 3 failed)"
    assert line["MSE"] == "0.01000"
    assert line["Δ probe"] == "+0.0000"


def test_each_point_and_data_set_has_its_table():
    rows = [
        {"data": data, "k": k, "l0_asked": 2, "variant": name, "seed": 0, "mse": k / 1e4}
        for data in ("images", "images, validation rows")
        for k in (16, 32)
        for name in ("usage balance 0", "default")
    ]
    made = tables(rows)
    assert list(made) == [
        f"{data}, {k} latents, 2 non-zeros"
        for data in ("images", "images, validation rows")
        for k in (16, 32)
    ]
    lines = made["images, 32 latents, 2 non-zeros"]
    assert [line["variant"] for line in lines] == ["default", "usage balance 0"]
    assert lines[0]["MSE"] == "0.00320"


def test_validation_rows_were_not_trained_on():
    with patch.object(ablations, "VALIDATION_ROWS", 150):
        held_out = validation(data())
    assert held_out.name != data().name
    assert (len(held_out.train), len(held_out.test)) == (N - 150, 150)
    assert np.array_equal(np.concatenate([held_out.train, held_out.test]), data().train)
    labels = np.concatenate([held_out.train_labels, held_out.test_labels])
    assert np.array_equal(labels, data().train_labels)


def test_a_selection_brings_what_it_is_compared_with():
    assert list(selected(["start: filters"])) == ["encoder: untied", "start: filters on their own"]
