import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Independent, Laplace, Normal

from sparsecode import SpikeAndSlab
from sparsecode.distributions import GatedNormal, likelihood_distribution, sample_prior

C = math.sqrt(0.05)
GRID = torch.linspace(-12, 12, 240_001, dtype=torch.float64)


def double(value):
    return torch.tensor(value, dtype=torch.float64)


def generator(seed):
    return torch.Generator().manual_seed(seed)


PRIORS = {
    "source": SpikeAndSlab(double(0.8), C),
    "wide slab": SpikeAndSlab(double(0.3), 0.1, 1.7),
    "sharp spike": SpikeAndSlab(double(0.95), 0.05),
    "slab only": SpikeAndSlab(double(0.0), C),
}


@pytest.fixture(params=PRIORS.values(), ids=PRIORS)
def prior(request):
    return request.param


def test_the_density_has_mass_one_and_the_moments_it_claims(prior):
    density = prior.log_prob(GRID).exp()
    assert torch.trapezoid(density, GRID).item() == pytest.approx(1, abs=1e-8)
    assert torch.trapezoid(density * GRID, GRID).item() == pytest.approx(0, abs=1e-8)
    second = torch.trapezoid(density * GRID**2, GRID).item()
    assert prior.variance.item() == pytest.approx(second, abs=1e-7)
    assert prior.stddev.item() == pytest.approx(math.sqrt(second), abs=1e-7)
    assert prior.mean.item() == 0


def test_the_density_is_the_mixture_of_two_normals():
    prior = PRIORS["wide slab"]
    z = np.linspace(-3, 3, 13)
    expected = 0.3 * stats.norm.pdf(z, scale=0.1) + 0.7 * stats.norm.pdf(z, scale=1.7)
    np.testing.assert_allclose(prior.log_prob(torch.tensor(z)).exp(), expected, rtol=1e-12)


def test_the_cdf_is_the_integral_of_the_density(prior):
    density = prior.log_prob(GRID).exp()
    integral = torch.cumulative_trapezoid(density, GRID)
    torch.testing.assert_close(prior.cdf(GRID[1:]), integral, atol=1e-7, rtol=0)


def test_draws_follow_the_cdf(prior):
    # Kolmogorov-Smirnov; another seed would fail with probability 1e-4 for each prior.
    draws = prior.sample((20_000,), generator(1)).numpy()
    assert stats.kstest(draws, lambda z: prior.cdf(torch.tensor(z)).numpy()).pvalue > 1e-4


def test_each_dimension_chooses_between_spike_and_slab_on_its_own():
    # The source drew one choice for the whole vector. Correlation of the choices of two
    # dimensions over n = 20,000 draws has SD .007; |z| > 4.5 has probability 7e-6 per pair.
    prior = SpikeAndSlab(torch.full((3,), 0.7), 1e-4)
    is_slab = (prior.sample((20_000,), generator(2)).abs() > 0.01).numpy()
    correlation = np.corrcoef(is_slab.T)
    assert np.abs(correlation[np.triu_indices(3, 1)]).max() < 4.5 / math.sqrt(20_000)
    assert np.abs(is_slab.mean(0) - 0.3).max() < 4.5 * math.sqrt(0.21 / 20_000)


def test_a_point_mass_spike_gives_exact_zeros_and_an_atom():
    prior = SpikeAndSlab(double(0.6), 0.0)
    draws = prior.sample((10_000,), generator(3))
    # Share of zeros: binomial, SD .0049; 4.5 SD has probability 7e-6.
    assert abs((draws == 0).double().mean().item() - 0.6) < 4.5 * 0.0049
    assert prior.log_prob(double(0.0)).item() == pytest.approx(math.log(0.6))
    z = double(0.4)
    expected = math.log(0.4) + stats.norm.logpdf(0.4)
    assert prior.log_prob(z).item() == pytest.approx(expected)
    jump = prior.cdf(double(0.0)) - prior.cdf(double(-1e-12))
    assert jump.item() == pytest.approx(0.6)
    assert prior.cdf(double(9.0)).item() == pytest.approx(1)
    assert prior.variance.item() == pytest.approx(0.4)
    assert prior.slab_responsibility(double(0.0)).item() == 0
    assert prior.slab_responsibility(z).item() == 1


def test_without_a_spike_it_is_the_slab():
    z = torch.linspace(-4, 4, 17, dtype=torch.float64)
    for spike_scale in (0.0, C):
        prior = SpikeAndSlab(double(0.0), spike_scale)
        torch.testing.assert_close(prior.log_prob(z), Normal(double(0.0), 1.0).log_prob(z))
        assert (prior.slab_responsibility(z) == 1).all()
        assert (prior.sample((100,), generator(4)) != 0).all()


def test_as_the_weight_goes_to_one_it_becomes_the_spike():
    prior = SpikeAndSlab(double(1 - 1e-12), C)
    z = torch.linspace(-0.5, 0.5, 11, dtype=torch.float64)
    torch.testing.assert_close(prior.log_prob(z), Normal(double(0.0), C).log_prob(z))
    assert prior.variance.item() == pytest.approx(C**2)


def test_responsibility_is_bayes_rule_and_grows_with_the_distance_from_zero(prior):
    z = torch.linspace(0, 3, 31, dtype=torch.float64)
    w, c, s = prior.spike_weight, prior.spike_scale, prior.slab_scale
    slab = (1 - w) * torch.exp(Normal(double(0.0), s).log_prob(z))
    expected = slab / torch.exp(prior.log_prob(z))
    torch.testing.assert_close(prior.slab_responsibility(z), expected)
    assert (prior.slab_responsibility(z).diff() >= 0).all()
    torch.testing.assert_close(prior.slab_responsibility(-z), prior.slab_responsibility(z))
    assert c < s


def test_half_responsibility_of_the_source_prior_is_where_the_mathematics_puts_it():
    assert PRIORS["source"].slab_logit(double(0.551)).item() == pytest.approx(0, abs=0.01)


def test_expand_and_shapes():
    prior = SpikeAndSlab(torch.tensor([0.2, 0.8]), 0.1)
    wide = prior.expand((5, 2))
    assert wide.batch_shape == (5, 2)
    assert wide.event_shape == ()
    assert wide.sample((3,), generator(0)).shape == (3, 5, 2)
    z = torch.ones(5, 2)
    torch.testing.assert_close(wide.log_prob(z), prior.log_prob(torch.ones(2)).expand(5, 2))
    assert SpikeAndSlab(0.5, 0.1).log_prob(torch.tensor(0.0)).shape == ()


def test_draws_depend_on_their_generator_alone():
    prior = SpikeAndSlab(torch.full((4,), 0.5), 0.1)
    before = torch.random.get_rng_state()
    first, second = (prior.sample((7,), generator(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(prior.sample((7,), generator(6)), first)
    prior.sample((7,))
    assert not torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, 0.1), "spike_weight"),
        ((-0.1, 0.1), "spike_weight"),
        ((float("nan"), 0.1), "spike_weight"),
        ((0.5, -0.1), "spike_scale"),
        ((0.5, 0.1, 0.0), "slab_scale"),
        ((0.5, 1.0), "spike_scale must be smaller than slab_scale, got 1.0 and 1.0"),
        ((0.5, 0.3, 0.2), "spike_scale must be smaller than slab_scale, got 0.3 and 0.2"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SpikeAndSlab(*arguments, validate_args=True)


def test_a_value_that_is_not_a_number_is_refused():
    prior = SpikeAndSlab(0.5, 0.1, validate_args=True)
    for method in (prior.log_prob, prior.cdf):
        with pytest.raises(ValueError, match="within the support"):
            method(torch.tensor(float("nan")))


@pytest.mark.parametrize(
    "prior",
    [Normal(torch.zeros(()), 1.0), Laplace(torch.zeros(()), 0.5**0.5), SpikeAndSlab(0.3, 0.1)],
)
def test_every_prior_is_sampled_from_the_generator(prior):
    # Kolmogorov-Smirnov; another seed would fail with probability 1e-4 for each prior.
    before = torch.random.get_rng_state()
    draws = sample_prior(prior.expand((5000,)), generator(7))
    assert stats.kstest(draws.numpy(), lambda z: prior.cdf(torch.tensor(z)).numpy()).pvalue > 1e-4
    assert torch.equal(draws, sample_prior(prior.expand((5000,)), generator(7)))
    assert draws.dtype == torch.float32
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.fixture
def posterior():
    loc = torch.tensor([[0.5, -1.0, 2.0]], requires_grad=True)
    scale = torch.tensor([[0.1, 0.2, 0.3]], requires_grad=True)
    return GatedNormal(loc, scale, torch.tensor([[1.0, 0.0, 1.0]]), validate_args=True)


def test_a_closed_gate_gives_exact_zeros(posterior):
    draws = posterior.rsample((1000,), generator(8))
    assert draws.shape == (1000, 1, 3)
    assert (draws[..., 1] == 0).all()
    assert (draws[..., [0, 2]] != 0).all()
    assert posterior.mean.tolist() == [[0.5, 0, 2]]
    torch.testing.assert_close(posterior.variance, torch.tensor([[0.01, 0, 0.09]]))
    # Means of 1000 draws: 5 SD, probability 6e-7 for each.
    z = (draws[..., 0].mean() - 0.5) / (0.1 / math.sqrt(1000))
    assert abs(z.item()) < 5


def test_the_gated_density_has_an_atom_where_the_gate_is_closed(posterior):
    value = torch.tensor([[0.6, 0.0, 1.0]])
    log_prob = posterior.log_prob(value)
    assert log_prob[0, 0].item() == pytest.approx(stats.norm.logpdf(0.6, 0.5, 0.1), abs=1e-5)
    assert log_prob[0, 1].item() == 0
    assert posterior.log_prob(torch.full((1, 3), 0.1))[0, 1] == -torch.inf


def test_gradients_reach_the_open_latents_only(posterior):
    z = posterior.rsample((), generator(9))
    d_loc, d_scale = torch.autograd.grad(z.sum(), (posterior.loc, posterior.scale))
    assert d_loc.tolist() == [[1, 0, 1]]
    noise = (z - posterior.mean) / posterior.scale
    torch.testing.assert_close(d_scale, noise * posterior.gate)


@pytest.mark.parametrize(
    ("name", "logpdf"),
    [
        ("gaussian", lambda x, out: stats.norm.logpdf(x, out, 0.5)),
        ("bernoulli", lambda x, out: x * out - np.logaddexp(0, out)),
        (
            "continuous_bernoulli",
            # Loaiza-Ganem and Cunningham 2019, eq. 2, with λ = sigmoid(out).
            lambda x, out: x * out - np.logaddexp(0, out) + np.log(out / np.tanh(out / 2)),
        ),
    ],
)
def test_likelihoods_sum_over_features(name, logpdf):
    x, out = np.array([[0.0, 0.25, 1.0], [0.5, 1.0, 0.0]]), np.array([[-1.0, 0.7, 2.0]] * 2)
    got = likelihood_distribution(name, torch.tensor(out), double(0.5)).log_prob(torch.tensor(x))
    np.testing.assert_allclose(got, logpdf(x, out).sum(1), rtol=1e-6)


def test_the_isotropic_normal_is_independent_normals_of_one_scale():
    loc, x = torch.randn(2, 5, 3, generator=generator(0), dtype=torch.float64).unbind()
    isotropic = likelihood_distribution("gaussian", loc, double(0.3))
    expected = Independent(Normal(loc, double(0.3)), 1)
    torch.testing.assert_close(isotropic.log_prob(x), expected.log_prob(x))
    torch.testing.assert_close(isotropic.mean, expected.mean)
    torch.testing.assert_close(isotropic.variance, expected.variance)
