"""The mixture prior of gates: a distribution, fitted, and drawn from."""

import itertools

import pytest
import torch

from benchmarks.gate_prior import GateMixture

K = 6


@pytest.fixture(scope="module")
def gates():
    """Two patterns, a tenth of whose gates are turned over."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0]]).float()
    chosen = patterns[torch.randint(2, (2000,), generator=generator)]
    turned = torch.bernoulli(torch.full(chosen.shape, 0.1), generator=generator)
    return (chosen - turned).abs()


@pytest.fixture(scope="module")
def mixture(gates):
    return GateMixture.fit(gates, n_components=4)


def test_probabilities_of_all_gates_sum_to_one(mixture):
    everything = torch.tensor(list(itertools.product((0.0, 1.0), repeat=K)))
    assert float(mixture.log_prob(everything).exp().sum()) == pytest.approx(1, abs=1e-5)


def test_it_is_nearly_as_cheap_as_the_distribution_itself(mixture, gates):
    # Entropy of a pattern and of six turns of a tenth, less what both patterns give alike: between
    # the turns alone, and turns and pattern.
    turns = K * -(0.1 * torch.tensor(0.1).log() + 0.9 * torch.tensor(0.9).log())
    cost = -mixture.log_prob(gates).mean()
    assert turns < cost < turns + torch.tensor(2.0).log() + 0.02
    alone = torch.distributions.Bernoulli(gates.mean(0)).log_prob(gates).sum(1).mean()
    assert cost < -alone - 0.3


def test_draws_go_together_as_the_gates_do(mixture, gates):
    drawn = mixture.sample(20_000, torch.Generator().manual_seed(1))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    # 36 frequencies of pairs; of 2,000 and 20,000 rows they differ by .0117 at most (one standard
    # error), beyond .06 with a probability below 1e-5.
    pairs, of_gates = drawn.T @ drawn / len(drawn), gates.T @ gates / len(gates)
    assert (pairs - of_gates).abs().max() < 0.06


def test_more_components_than_rows_are_not_asked_for(gates):
    assert len(GateMixture.fit(gates[:3], n_components=10).weights) == 3


def test_gates_that_never_or_always_open_are_no_trouble(gates):
    ends = torch.cat([gates, torch.zeros(len(gates), 1), torch.ones(len(gates), 1)], 1)
    cost = -GateMixture.fit(ends, n_components=4).log_prob(ends).mean()
    alone = -GateMixture.fit(gates, n_components=4).log_prob(gates).mean()
    assert cost == pytest.approx(float(alone), abs=0.01)  # they say nothing, and cost nothing
