import math

import numpy as np
import pytest
import torch
from torch.distributions import Laplace, Normal, kl_divergence

from sparsecode import SpikeAndSlab
from sparsecode.kl import expected_slab_responsibility, kl_monte_carlo, spike_slab_kl

C = math.sqrt(0.05)
PRIORS = [(p, c2) for p in (0.5, 0.8, 0.95, 0.99) for c2 in (0.0025, 0.01, 0.05)]


def normal_logpdf(z, scale):
    return -0.5 * (z / scale) ** 2 - np.log(scale) - 0.5 * math.log(2 * math.pi)


def reference(loc, scale, p, c, s=1.0, points=10_001):
    """KL and E[P(slab | z)] in float64 on a fine grid, by the definition."""
    unit = np.linspace(-12, 12, points)
    z = loc[:, None] + scale[:, None] * unit
    log_q = normal_logpdf(unit, 1.0) - np.log(scale)[:, None]
    slab = math.log1p(-p) + normal_logpdf(z, s)
    log_p = np.logaddexp(math.log(p) + normal_logpdf(z, c), slab)
    weights = np.exp(normal_logpdf(unit, 1.0))
    kl = np.trapezoid(weights * (log_q - log_p), unit)
    return kl, np.trapezoid(weights * np.exp(slab - log_p), unit)


def locations_and_scales(n, seed):
    rng = np.random.default_rng(seed)
    loc, scale = rng.uniform(-6, 6, n), 10 ** rng.uniform(-3, 0, n)
    loc[: n // 2] /= 10  # where the spike matters
    loc[0], scale[0], scale[1] = 0.0, 1.0, 1.0
    return loc, scale


@pytest.mark.parametrize(("p", "c2"), PRIORS)
def test_quadrature_agrees_with_a_fine_grid(p, c2):
    loc, scale = locations_and_scales(60, seed=int(1e4 * (p + c2)))
    # Widths around 0.32 / sqrt(b), where the rule changes and either is at its worst.
    unit = 1 / math.sqrt((1 / c2 - 1) / 2)
    around = unit * np.repeat([0.2, 0.25, 0.3, 0.319, 0.321, 0.35, 0.4, 0.45, 0.5], 13)
    loc = np.concatenate([loc, unit * np.tile(np.linspace(0, 6, 13), 9)])
    scale = np.concatenate([scale, around])
    kl, responsibility = reference(loc, scale, p, math.sqrt(c2))
    args = (torch.tensor(loc), torch.tensor(scale), p, math.sqrt(c2))
    np.testing.assert_allclose(spike_slab_kl(*args), kl, atol=1e-5, rtol=0)
    np.testing.assert_allclose(
        expected_slab_responsibility(*args), responsibility, atol=2e-5, rtol=0
    )
    single = spike_slab_kl(args[0].float(), args[1].float(), *args[2:])
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single, kl, atol=1e-5, rtol=1e-6)


def test_a_slab_of_another_scale():
    loc, scale = locations_and_scales(40, seed=1)
    kl, responsibility = reference(loc, scale, 0.8, 0.3, 2.0)
    args = (torch.tensor(loc), torch.tensor(scale), 0.8, 0.3, 2.0)
    np.testing.assert_allclose(spike_slab_kl(*args), kl, atol=1e-5)
    np.testing.assert_allclose(expected_slab_responsibility(*args), responsibility, atol=2e-5)


def test_half_precision_is_evaluated_in_single():
    loc, scale = torch.tensor([0.5]).half(), torch.tensor([0.25]).half()
    assert spike_slab_kl(loc, scale, 0.8, C).dtype == torch.float32


def test_without_a_spike_it_is_the_closed_form_of_two_normals():
    loc, scale = (torch.tensor(a) for a in locations_and_scales(20, seed=2))
    expected = kl_divergence(Normal(loc, scale), Normal(torch.zeros(()), torch.ones(())))
    torch.testing.assert_close(spike_slab_kl(loc, scale, 0.0, C), expected)
    assert (expected_slab_responsibility(loc, scale, 0.0, C) == 1).all()


def test_the_minimum_is_where_the_mathematics_puts_it():
    loc, scale = torch.meshgrid(
        torch.linspace(-0.5, 0.5, 41, dtype=torch.float64),
        torch.linspace(0.1, 0.6, 501, dtype=torch.float64),
        indexing="ij",
    )
    kl = spike_slab_kl(loc, scale, 0.8, C)
    best = kl.argmin()
    assert kl.min().item() == pytest.approx(0.0893, abs=5e-5)
    assert loc.flatten()[best].item() == pytest.approx(0, abs=1e-9)
    assert scale.flatten()[best].item() == pytest.approx(0.271, abs=0.001)


def test_exact_and_monte_carlo_agree():
    # z-scores of 12 means of 20,000 draws; one beyond 5 has probability 7e-6 for another seed.
    loc = torch.tensor([0.0, 0.2, 0.6, 2.0], dtype=torch.float64).repeat(3)
    scale = torch.tensor([0.05, 0.27, 0.9], dtype=torch.float64).repeat_interleave(4)
    prior = SpikeAndSlab(torch.tensor(0.8, dtype=torch.float64), C)
    generator = torch.Generator().manual_seed(3)
    q = Normal(loc, scale)
    means = torch.stack([kl_monte_carlo(q, prior, 200, generator) for _ in range(100)])
    z = (means.mean(0) - spike_slab_kl(loc, scale, 0.8, C)) / (means.std(0) / 10)
    assert z.abs().max() < 5


def test_monte_carlo_takes_any_prior_and_its_own_generator():
    q, prior = Normal(torch.zeros(3, 2), torch.ones(3, 2)), Laplace(torch.zeros(()), torch.ones(()))
    before = torch.random.get_rng_state()
    first, second = (
        kl_monte_carlo(q, prior, 5, torch.Generator().manual_seed(0)) for _ in range(2)
    )
    assert first.shape == (3, 2)
    assert torch.equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("p", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("spike_scale", [0.05, C, 0.9])
def test_gradients_are_finite_everywhere_in_single_precision(p, spike_scale):
    loc, scale = torch.meshgrid(
        torch.tensor([-100.0, -6.0, -1e-3, 0.0, 1e-8, 0.3, 6.0, 100.0]),
        torch.cat([torch.tensor([1e-30, 1e-20]), torch.logspace(-6, 3, 37)]),
        indexing="ij",
    )
    loc, scale = loc.clone().requires_grad_(), scale.clone().requires_grad_()
    kl = spike_slab_kl(loc, scale, p, spike_scale)
    assert kl.isfinite().all()
    for gradient in torch.autograd.grad(kl.sum(), (loc, scale)):
        assert gradient.isfinite().all()


def test_gradients_are_those_of_finite_differences():
    loc = torch.tensor([0.0, 0.1, 0.5, 1.0, -2.0], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([0.27, 0.01, 0.5, 1.0, 0.1], dtype=torch.float64, requires_grad=True)
    for function in (spike_slab_kl, expected_slab_responsibility):
        torch.autograd.gradcheck(lambda m, s, f=function: f(m, s, 0.8, C), (loc, scale))


def test_gradients_do_not_jump_where_the_rule_changes():
    width = 0.32 / math.sqrt((1 / C**2 - 1) / 2)
    loc = torch.full((2,), 0.2, dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([width * (1 - 1e-9), width * (1 + 1e-9)], dtype=torch.float64)
    scale.requires_grad_()
    kl = spike_slab_kl(loc, scale, 0.8, C)
    for gradient in torch.autograd.grad(kl.sum(), (loc, scale)):
        assert gradient[0].item() == pytest.approx(gradient[1].item(), abs=1e-3)


def test_the_expected_gradient_is_not_zero():
    # The source sampled without reparameterisation: its expected gradient is zero.
    loc = torch.full((4000,), 1.0, requires_grad=True)
    scale = torch.full((4000,), 0.1, requires_grad=True)
    exact = torch.autograd.grad(spike_slab_kl(loc, scale, 0.8, C).sum(), (loc, scale))
    prior = SpikeAndSlab(torch.tensor(0.8), C)
    estimate = kl_monte_carlo(Normal(loc, scale), prior, 10, torch.Generator().manual_seed(4))
    sampled = torch.autograd.grad(estimate.sum(), (loc, scale))
    for one, other in zip(exact, sampled, strict=True):
        # SD of the mean over 4000 rows measured on the rows; 5 of them: probability 6e-7 each.
        assert abs(other.mean() - one.mean()) < 5 * other.std() / math.sqrt(4000)
        assert abs(other.mean()) > 20 * other.std() / math.sqrt(4000)


def test_kl_divergence_of_torch_knows_the_pair():
    q = Normal(torch.tensor([[0.3, 1.0]]), torch.tensor([[0.2, 0.1]]))
    prior = SpikeAndSlab(torch.full((2,), 0.9), 0.1, 1.5)
    expected = spike_slab_kl(q.loc, q.scale, 0.9, 0.1, 1.5)
    torch.testing.assert_close(kl_divergence(q, prior), expected)


def test_what_the_exact_kl_cannot_do_is_said():
    q = Normal(torch.zeros(2), torch.ones(2))
    with pytest.raises(NotImplementedError, match="infinite for spike_scale=0; use a GatedNormal"):
        kl_divergence(q, SpikeAndSlab(torch.full((2,), 0.9), 0.0))
    mixed = SpikeAndSlab(torch.tensor([0.9, 0.8]), 0.1)
    with pytest.raises(
        NotImplementedError, match=r"same spike_weight in every dim.*kl_monte_carlo"
    ):
        kl_divergence(q, mixed)
