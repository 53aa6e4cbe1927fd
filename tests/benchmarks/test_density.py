"""The benchmark of densities: what it draws, what it bounds, what its tables say."""

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Independent

from benchmarks import density
from benchmarks.common import DataSet
from benchmarks.gate_prior import own_p
from sparsecode.elbo import iwae_bound
from sparsecode.loader import as_rows

N, D, K = 400, 16, 6


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 2, (4, D)) * 200 + 20
    rows = patterns[rng.integers(0, 4, N)].astype(np.uint8)
    return DataSet("MNIST", rows, np.zeros(N, int), rows[:100], np.zeros(100, int))


@pytest.fixture(scope="module")
def model(data):
    line = density.Density("tiny", {"n_components": K, "p": 0.5, "hidden_sizes": (8,)})
    return density.fit(line, data, seed=0, epochs=10).model_


@pytest.fixture(scope="module")
def x(data):
    return torch.from_numpy(density.drawn_test_rows(data))


def test_every_batch_is_drawn_anew_from_the_grey_levels(data):
    rows = as_rows(np.repeat(data.train[:1], 2000, axis=0), torch.device("cpu"))
    index = torch.arange(2000)
    with density.binarised(seed=0):
        first, second = rows.batch(index), rows.batch(index)
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(first, second)
    # 16 means of 2,000 draws; beyond 5 standard errors: probability 1e-5.
    expected = rows.batch(index[:1])[0]
    error = (expected * (1 - expected) / 2000).sqrt()
    assert ((first.mean(0) - expected).abs() < 5 * error).all()
    assert torch.equal(rows.batch(index)[0], expected)  # and afterwards they are as they were


def test_at_the_models_own_spread_it_is_the_packages_bound(model, x):
    # Each is a mean of log-weights whose spread depends on the fit, so the difference is judged by
    # its standard error: beyond 5, probability 1e-6.
    draws, repeats = 3, 400
    prior = Independent(Bernoulli(torch.full((K,), 1 - model.spec.spike_weight)), 1)
    ours = torch.tensor(
        [
            density.stochastic_gate_bound(model, x, draws, 1.0, prior, seed=seed)
            for seed in range(repeats)
        ]
    )
    noise = torch.randn(repeats, 2, draws, K, generator=torch.Generator().manual_seed(1))
    packages = torch.stack([iwae_bound(model, x, each).mean() for each in noise])
    error = ((ours.var() + packages.var()) / repeats).sqrt()
    assert error < 0.2  # else the comparison says little
    assert abs(ours.mean() - packages.mean()) < 5 * error


def test_what_own_frequencies_save_is_what_gibbs_allows(model, x):
    gates = density.gates_of(model, x)
    own = own_p(gates)
    frequency = (gates.sum(0) + 0.5) / (len(x) + 1)
    torch.testing.assert_close(own.log_prob(gates), Bernoulli(frequency).log_prob(gates).sum(1))
    # No prior of independent gates is cheaper for these than their own frequencies.
    saved = density.saved(own, gates, 0.5)
    assert saved > -0.01
    shared = Bernoulli(torch.tensor(0.5)).log_prob(gates).sum(1).mean()
    assert saved == pytest.approx(float(own.log_prob(gates).mean() - shared), abs=1e-4)


def test_a_line_measures_and_the_tables_show_it(data):
    line = density.Density("tiny", {"n_components": K, "p": 0.5, "hidden_sizes": (8,)})
    row = density.measure(line, data, seed=0, epochs=2, n_test=100)
    assert row["bound"] < row["rate_slab"] + row["rate_spike"] + row["distortion"] + 1
    name = "spike_slab, 50 latents, p = .5"
    table = density.table([{"model": name, **row}])
    assert [line["model"] for line in table] == [*density.PUBLISHED, name]
    assert table[-1]["-log p(x) ≤"] == f"{row['bound']:.2f}"
    assert table[-1]["mixture saves"] == f"{row['mixture']:.2f}"
    gates = density.gate_table([{"model": name, **row}])
    assert gates[0]["spread 1"] == f"{row['bound_drawn_1']:.2f}"
    assert gates[0]["spread 1, mixture"] == f"{row['bound_mixture']:.2f}"
