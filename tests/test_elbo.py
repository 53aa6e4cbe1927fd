import itertools
import math

import pytest
import torch
from test_vae import model
from torch.distributions import Normal, kl_divergence

from sparsecode.elbo import elbo_terms, iwae_bound, rate_spike
from sparsecode.kl import spike_slab_kl

PRIORS = [
    {},
    {"spike_weight": 0.0},
    {"posterior": "gaussian"},
    {"posterior": "gaussian", "prior": "normal"},
    {"posterior": "gaussian", "prior": "laplace"},
    {"likelihood": "bernoulli"},
    {"likelihood": "continuous_bernoulli"},
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def x():
    return torch.rand(9, 6, generator=generator(1))


def terms_of(vae, x, seed=0, **arguments):
    q = vae.encode(x)
    likelihood = vae.decode(q.rsample(generator=generator(seed)))
    return q, likelihood, elbo_terms(vae, x, q, likelihood, **arguments)


def test_the_gate_costs_its_entropy_at_exact_density():
    p, k = 0.8, 20
    gate = (torch.arange(k) >= p * k).float()[None]
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
    assert rate_spike(gate, p).item() == pytest.approx(k * entropy, rel=1e-6)
    # Fewer open gates are cheaper by the log odds of the spike.
    fewer = gate.clone()
    fewer[0, -1] = 0
    difference = rate_spike(gate, p) - rate_spike(fewer, p)
    assert difference.item() == pytest.approx(math.log(p / (1 - p)), rel=1e-5)
    assert rate_spike(torch.ones(3, 5), 0.0).tolist() == [0, 0, 0]


def test_the_parts_add_up(x):
    q, likelihood, terms = terms_of(model(), x)
    expected = kl_divergence(Normal(q.loc, q.scale), Normal(torch.zeros(()), torch.ones(())))
    torch.testing.assert_close(terms.rate_slab, (q.gate * expected).sum(1))
    torch.testing.assert_close(terms.rate_spike, rate_spike(q.gate, 0.5))
    torch.testing.assert_close(terms.distortion, -likelihood.log_prob(x))
    torch.testing.assert_close(terms.rate, terms.rate_slab + terms.rate_spike)
    torch.testing.assert_close(terms.elbo, -terms.distortion - terms.rate)
    assert terms.elbo.shape == (9,)


@pytest.mark.parametrize("posterior", ["spike_slab", "gaussian"])
def test_without_a_spike_it_is_the_plain_vae(posterior, x):
    q, _, terms = terms_of(model(spike_weight=0.0, posterior=posterior), x)
    assert (q.gate == 1).all()
    expected = kl_divergence(Normal(q.loc, q.scale), Normal(torch.zeros(()), torch.ones(())))
    torch.testing.assert_close(terms.rate, expected.sum(1))
    assert (terms.rate_spike == 0).all()


def test_the_gaussian_posterior_pays_for_all_latents(x):
    q, _, terms = terms_of(model(posterior="gaussian"), x)
    torch.testing.assert_close(terms.rate, spike_slab_kl(q.loc, q.scale, 0.5, 0.2).sum(1))


@pytest.mark.parametrize("prior", ["spike_slab", "normal", "laplace"])
def test_monte_carlo_rates_are_near_the_exact_ones(prior, x):
    vae = model(posterior="gaussian", prior=prior)
    exact = terms_of(vae, x)[2].rate
    draws = torch.stack(
        [terms_of(vae, x, kl_samples=200, generator=generator(s))[2].rate for s in range(20)]
    )
    # 9 z-scores (t with 19 degrees of freedom) each; beyond 7: probability 1e-6.
    z = (draws.mean(0) - exact) / (draws.std(0) / math.sqrt(20))
    assert z.abs().max() < 7
    assert draws.std(0).min() > 0


@pytest.mark.parametrize("changes", PRIORS)
def test_the_importance_weighted_bound_lies_above_the_elbo(changes, x):
    vae = model(**changes)
    with torch.no_grad():
        elbo = torch.stack([terms_of(vae, x, seed=s)[2].elbo for s in range(400)])
    bound = iwae_bound(vae, x, torch.randn(2, 256, 4, generator=generator(3)))
    assert bound.shape == (9,)
    # By 5 standard errors of the ELBO's mean of 400 at least. Gates are drawn for the bound and
    # computed for the ELBO, so this holds for these models, not by necessity.
    assert (bound > elbo.mean(0) - 5 * elbo.std(0) / 20).all()
    assert bound.mean() > elbo.mean()


def test_one_draw_gives_the_elbo_on_average(x):
    vae = model(spike_weight=0.0)  # all gates open, drawn or computed
    with torch.no_grad():
        elbo = torch.stack([terms_of(vae, x, seed=s)[2].elbo.mean() for s in range(400)])
    noise = torch.randn(400, 2, 1, 4, generator=generator(4))
    single = torch.stack([iwae_bound(vae, x, eps).mean() for eps in noise])
    # Two means of 400: 5 standard errors, probability 6e-7.
    error = math.sqrt((elbo.var() + single.var()) / 400)
    assert abs(elbo.mean() - single.mean()) < 5 * error


def test_the_bound_approaches_log_p_where_that_is_known():
    # A linear Gaussian model: log p(x) in closed form.
    vae = model(spike_weight=0.0).double()
    with torch.no_grad():
        vae.encoder.log_scale.bias.fill_(-0.5)
    x = torch.randn(5, 6, dtype=torch.float64, generator=generator(5))
    loadings = vae.input_scale * vae.linear_decoder.weight.detach()
    covariance = loadings @ loadings.T + (vae.scale * vae.input_scale) ** 2 * torch.eye(6)
    marginal = torch.distributions.MultivariateNormal(
        vae.input_mean + vae.input_scale * vae.linear_decoder.bias.detach(), covariance
    )
    noise = torch.randn(2, 50_000, 4, dtype=torch.float64, generator=generator(6))
    bound = iwae_bound(vae, x, noise)
    torch.testing.assert_close(bound, marginal.log_prob(x), atol=0.1, rtol=0)


def test_the_bound_approaches_log_p_summed_over_all_gates():
    # Given the gates, a linear decoder makes a Gaussian of x.
    vae = model().double()
    with torch.no_grad():
        vae.encoder.log_scale.bias.fill_(-0.5)
    x = torch.randn(5, 6, dtype=torch.float64, generator=generator(5))
    loadings = vae.input_scale * vae.linear_decoder.weight.detach()
    mean = vae.input_mean + vae.input_scale * vae.linear_decoder.bias.detach()
    noise_variance = (vae.scale * vae.input_scale) ** 2 * torch.eye(6)
    terms = []
    for gates in itertools.product((0.0, 1.0), repeat=4):
        gate = torch.tensor(gates, dtype=torch.float64)
        covariance = (loadings * gate) @ loadings.T + noise_variance
        density = torch.distributions.MultivariateNormal(mean, covariance).log_prob(x)
        terms.append(density - rate_spike(gate, vae.spec.spike_weight))
    noise = torch.randn(2, 100_000, 4, dtype=torch.float64, generator=generator(6))
    expected = torch.stack(terms).logsumexp(0)
    torch.testing.assert_close(iwae_bound(vae, x, noise), expected, atol=0.1, rtol=0)


@pytest.mark.parametrize("changes", PRIORS)
def test_the_bound_of_a_row_does_not_depend_on_its_neighbours(changes, x):
    vae = model(**changes).double()
    x = x.double()
    noise = torch.randn(2, 2000, 4, dtype=torch.float64, generator=generator(7))
    whole = iwae_bound(vae, x, noise)  # two rows at a time
    alone = torch.cat([iwae_bound(vae, row[None], noise) for row in x])
    torch.testing.assert_close(whole, alone, rtol=1e-10, atol=1e-10)
