import numpy as np
import pytest
import torch

from sparsecode.defaults import (
    resolve_batch_size,
    resolve_beta,
    resolve_hidden_sizes,
    resolve_learning_rate,
    resolve_likelihood,
    resolve_max_iter,
    resolve_weight_decay,
)
from sparsecode.loader import as_rows


def likelihood(name, values):
    return resolve_likelihood(name, as_rows(np.array(values), torch.device("cpu")))


def test_automatic_likelihood_is_bernoulli_for_binary_data_only():
    assert likelihood("auto", [[0.0, 1.0], [1.0, 1.0]]) == "bernoulli"
    assert likelihood("auto", np.array([[0, 255]], np.uint8)) == "bernoulli"
    assert likelihood("auto", [[0.0, 0.5]]) == "gaussian"
    assert likelihood("auto", [[0.0, 0.0]]) == "gaussian"
    assert likelihood("auto", [[-1.0, 1.0]]) == "gaussian"


@pytest.mark.parametrize("name", ["bernoulli", "continuous_bernoulli"])
@pytest.mark.parametrize(("low", "high"), [(-0.5, 1.0), (0.0, 255.0)])
def test_data_out_of_range_are_refused_with_a_remedy(name, low, high):
    assert likelihood(name, [[0.0, 0.3, 1.0]]) == name
    message = rf"likelihood='{name}' needs data in \[0, 1\].*from {low:g} to {high:g}.*MinMaxScaler"
    with pytest.raises(ValueError, match=message):
        likelihood(name, [[low, high]])
    assert likelihood("gaussian", [[low, high]]) == "gaussian"


def hidden_sizes(asked="auto", posterior="spike_slab", image_shape=None, n_rows=60_000, k=512):
    return resolve_hidden_sizes(asked, posterior, image_shape, n_rows, k)


def test_hidden_sizes():
    assert hidden_sizes() == ((128,), (512,))
    assert hidden_sizes(n_rows=1_000) == ((), ())
    assert hidden_sizes(posterior="gaussian", n_rows=1_000) == ((512,), (512,))
    assert hidden_sizes(posterior="gaussian", image_shape=(8, 8)) == ((), ())
    assert hidden_sizes(np.array([3, 2]), "gaussian", n_rows=9) == ((3, 2), (2, 3))
    assert hidden_sizes(()) == ((), ())


def test_an_encoder_of_few_filters_has_more_hidden_units():
    widths = [hidden_sizes(k=k)[0] for k in (64, 256, 511, 512, 4096)]
    assert widths == [(576,), (384,), (129,), (128,), (128,)]


def test_the_rate_weighs_the_less_the_more_rows_there_are_for_each_feature():
    rows = (10, 4000, 7840, 20_000, 60_000, 10**6)
    betas = [resolve_beta("auto", "spike_slab", 0.8, n, 784) for n in rows]
    assert betas == pytest.approx([3, 1.96, 1, 0.392, 0.131, 0.1], rel=0.01)
    # A narrow table of as many rows has rows enough.
    assert resolve_beta("auto", "spike_slab", 0.8, 150, 13) < 1
    assert resolve_beta(0, "spike_slab", 0.8, 10, 784) == 0


def test_without_a_gate_the_objective_is_the_elbo():
    assert resolve_beta("auto", "gaussian", 0.8, 10, 784) == 1
    assert resolve_beta("auto", "spike_slab", 0.0, 10, 784) == 1


def test_weights_decay_less_the_more_rows_there_are_unless_the_gate_trains():
    assert resolve_weight_decay("spike_slab", 60_000) == resolve_weight_decay("spike_slab", 10)
    gaussian = [resolve_weight_decay("gaussian", n) for n in (10, 6_000, 60_000, 6_000_000)]
    assert gaussian == pytest.approx([1, 1, 0.1, 0.001])


@pytest.mark.parametrize("density", [1.0, 0.05, 1e-4])
@pytest.mark.parametrize("n_rows", [1, 2, 50, 1000, 60_000, 1_000_000, 50_000_000])
def test_steps_stay_sensible_from_one_row_to_fifty_million(n_rows, density):
    batch_size = resolve_batch_size("auto", n_rows, density)
    n_epochs = resolve_max_iter("auto", n_rows, batch_size)
    assert 1 <= batch_size <= n_rows
    assert 1 <= n_epochs <= (100 if n_rows < 1000 else 50)
    assert n_epochs * (n_rows // batch_size) <= 50_000


def test_so_few_rows_get_epochs_enough_to_learn_something():
    assert resolve_max_iter("auto", 1200, 30) == 50  # 2,000 steps
    assert resolve_max_iter("auto", 426, 16) == 57  # 1,482 steps
    assert resolve_max_iter("auto", 133, 16) == 100


def test_epochs_come_nearest_to_three_thousand_steps():
    assert resolve_max_iter("auto", 54_000, 256) == 14  # 2,940 steps
    assert resolve_max_iter("auto", 54_000, 512) == 29  # 3,045 steps


def test_latents_that_fire_rarely_get_larger_batches():
    sizes = [resolve_batch_size("auto", 60_000, density) for density in (0.2, 0.05, 0.025, 1e-9)]
    assert sizes == [256, 256, 512, 1024]


def test_numbers_are_taken_as_they_are():
    assert resolve_batch_size(10, 1000, 1.0) == 10
    assert resolve_batch_size(1000, 10, 1.0) == 10
    assert resolve_max_iter(7, 10**6, 256) == 7
    assert resolve_learning_rate(0.5, True) == 0.5
    assert resolve_learning_rate("auto", True) > resolve_learning_rate("auto", False)
