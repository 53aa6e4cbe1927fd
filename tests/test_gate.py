import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sparsecode.gate import Gate, exact_threshold


@settings(max_examples=200, deadline=None)
@given(
    scores=arrays(
        np.float32,
        st.integers(1, 60),
        elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False),
        unique=True,
    ),
    p=st.floats(0, 1),
)
def test_the_threshold_closes_the_fraction_asked_for(scores, p):
    threshold = exact_threshold(scores, p)
    n = len(scores)
    # The gate compares in float32, where the threshold is stored.
    assert (scores <= np.float32(threshold)).sum() == round(p * n)


def test_the_threshold_lies_between_scores_and_not_on_one():
    assert exact_threshold(np.array([[3.0, 1.0], [2.0, 4.0]]), 0.5) == 2.5
    assert exact_threshold(np.array([1.0, 2.0]), 0.0) == -math.inf
    assert exact_threshold(np.array([1.0, 2.0]), 1.0) == 2.0


def test_neighbouring_floats_are_told_apart():
    first = np.float32(1)
    for _ in range(4):
        second = np.nextafter(first, np.float32(2))
        scores = np.array([first, second], dtype=np.float32)
        assert (scores > np.float32(exact_threshold(scores, 0.5))).tolist() == [False, True]
        first = second


def test_tied_scores_are_closed_together():
    assert exact_threshold(np.array([1.0, 1.0, 1.0, 2.0]), 0.5) == 1.0


@pytest.mark.parametrize("posterior", ["spike_slab", "gaussian"])
def test_without_a_spike_every_gate_is_open(posterior):
    gate = Gate(4, 0.0, posterior, 0.3)
    scores = gate.scores(torch.tensor([[-1e30, -1.0, 0.0, 1.0]]))
    gate.track(scores, torch.tensor(0.0), is_first=True)
    assert gate(scores).tolist() == [[1, 1, 1, 1]]
    assert gate.gain.tolist() == [1, 1, 1, 1]


def test_the_gate_is_open_above_the_threshold_only():
    gate = Gate(3, 0.5, "spike_slab", 0.0)
    gate.threshold.fill_(1.0)
    assert gate(torch.tensor([[0.5, 1.0, 1.5]])).tolist() == [[0, 0, 1]]


def test_scores_of_the_gaussian_posterior_ignore_the_sign():
    gate = Gate(2, 0.5, "gaussian", 0.3)
    assert gate.scores(torch.tensor([[-2.0, 1.0]])).tolist() == [[2, 1]]


def test_a_gate_that_closes_less_than_half_passes_both_signs():
    loc = torch.tensor([[-2.0, 1.0]])
    assert Gate(2, 0.4, "spike_slab", 0.0).scores(loc).tolist() == [[2, 1]]
    assert Gate(2, 0.5, "spike_slab", 0.0).scores(loc).tolist() == [[-2, 1]]


# Sizes where a stride through the scores could miss latents: 512 and 384 share 128.
@pytest.mark.parametrize(("n", "k"), [(64, 8), (3072, 512), (97, 256)])
def test_the_running_threshold_converges_to_the_quantile(n, k):
    # Latents differ in scale, so a threshold from some of them only would be off.
    gate = Gate(k, 0.8, "spike_slab", 0.0)
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(-1, 1, k)[torch.randperm(k, generator=generator)]
    closed = []
    for step in range(60):
        scores = scale * torch.randn(n, k, generator=generator)
        gate.track(scores, torch.tensor(0.8), is_first=step == 0)
        if step >= 30:
            closed.append((scores <= gate.threshold).float().mean().item())
    # Mean of 30 steps; the sampled quantile has a standard error of .018 (n·k = 512) at a step,
    # and a memory of 10 steps: SD of the mean about .006. 5 SD: probability 6e-7 for another seed.
    assert np.mean(closed) == pytest.approx(0.8, abs=0.03 if n * k < 4096 else 0.01)


def test_one_batch_sets_the_first_threshold_as_it_is():
    gate = Gate(5, 0.8, "spike_slab", 0.0)
    gate.track(torch.arange(10.0).reshape(2, 5), torch.tensor(0.5), is_first=True)
    assert 4 <= gate.threshold.item() <= 5
    before = gate.threshold.item()
    gate.track(torch.full((2, 5), 100.0), torch.tensor(0.5))
    assert gate.threshold.item() == pytest.approx(before + 0.1 * (100 - before))


def test_latents_that_fire_often_must_score_higher():
    gate = Gate(3, 0.5, "spike_slab", 0.5)
    for _ in range(2000):
        gate.track_usage(torch.tensor([[1.0, 0.5, 0.0]]))
    torch.testing.assert_close(gate.usage, torch.tensor([1.0, 0.5, 0.0]), atol=1e-3, rtol=0)
    # (usage / mean usage) ** -1/2, with a floor of 1 % under the relative usage.
    torch.testing.assert_close(gate.gain, torch.tensor([2**-0.5, 1.0, 10.0]), atol=0.01, rtol=0)
    loc = torch.tensor([[1.0, 1.0, -1.0]])
    torch.testing.assert_close(gate.scores(loc), loc * gate.gain)


@pytest.mark.parametrize(("spike_weight", "posterior"), [(0.8, "spike_slab"), (0.3, "spike_slab")])
def test_a_score_exceeds_a_level_where_the_mean_exceeds_that_of_its_latent(spike_weight, posterior):
    gate = Gate(5, spike_weight, posterior, usage_balance=0.6)
    gate.usage.copy_(torch.tensor([0.01, 0.1, 0.2, 0.4, 0.9]))
    loc = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    level = torch.tensor(0.3)
    assert torch.equal(gate.sized(loc) > gate.levels(level), gate.scores(loc) > level)
    row, latent = torch.arange(200), torch.arange(200) % 5
    assert torch.equal(gate.scores(loc[row, latent], latent), gate.scores(loc)[row, latent])
