import numpy as np
import pytest
import torch
from scipy import stats

from sparsecode import diagnostics
from sparsecode.distributions import GatedNormal
from sparsecode.elbo import gated_rate_slab, rate_spike


def test_active_units_are_those_that_vary(codes, as_csr):
    for threshold in (0.01, 1.0):
        got = diagnostics.active_units(as_csr(codes), threshold)
        np.testing.assert_array_equal(got, codes.var(axis=0) > threshold)


@pytest.mark.parametrize("p", [0.0, 0.3, 0.95])
def test_rates_add_up_to_those_of_the_model(codes, as_csr, p):
    scale = np.random.default_rng(0).uniform(0.05, 1.5, codes.shape[1])
    got = diagnostics.rate_per_latent(as_csr(codes), p, scale)
    z, gate = torch.tensor(codes), torch.tensor((codes != 0).astype(float))
    slab = gated_rate_slab(GatedNormal(z, torch.tensor(scale).expand_as(z), gate))
    assert got.slab.sum() == pytest.approx(float(slab.mean()))
    assert got.spike.sum() == pytest.approx(float(rate_spike(gate, p).mean()), abs=1e-12)


def test_rates_of_one_latent_do_not_depend_on_the_others(codes):
    whole = diagnostics.rate_per_latent(codes, 0.8)
    for j in range(codes.shape[1]):
        alone = diagnostics.rate_per_latent(codes[:, [j]], 0.8)
        assert (alone.slab[0], alone.spike[0]) == pytest.approx((whole.slab[j], whole.spike[j]))


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_p_is_checked(p):
    with pytest.raises(ValueError, match="p="):
        diagnostics.rate_per_latent(np.eye(2), p)


@pytest.mark.parametrize("scale", [0.0, [1.0, -1.0], [np.nan, 1.0]])
def test_scales_are_checked(scale):
    with pytest.raises(ValueError, match="slab_scale"):
        diagnostics.rate_per_latent(np.eye(2), 0.5, scale)


def test_dead_latents_are_collapsed_and_a_faint_one_is_too():
    codes = np.array([[0.0, 1e-3, 2.0], [0.0, 1e-3, 1.0]])
    rates = diagnostics.rate_per_latent(codes, 0.5)
    np.testing.assert_array_equal(diagnostics.collapsed_latents(rates.slab), [1, 1, 0])
    with pytest.raises(ValueError, match="rate_slab"):
        diagnostics.collapsed_latents([np.nan])


def test_effective_latents_is_the_exponential_of_scipys_entropy(codes, as_csr):
    energy = (codes**2).sum(axis=0)
    if energy.sum() == 0:
        assert diagnostics.effective_latents(as_csr(codes)) == 0
        assert np.isnan(diagnostics.energy_share(codes)).all()
    else:
        expected = np.exp(stats.entropy(energy))
        assert diagnostics.effective_latents(as_csr(codes)) == pytest.approx(expected)
        np.testing.assert_allclose(diagnostics.energy_share(codes), energy / energy.sum())


def test_histograms_against_numpy(codes, as_csr):
    counts, edges = diagnostics.value_histograms(as_csr(codes), n_bins=7)
    values = codes[codes != 0]
    assert counts.sum() == len(values)
    assert len(edges) == 8
    assert edges[0] <= 0 <= edges[-1]
    for column, got in zip(codes.T, counts, strict=True):
        inside = np.clip(column[column != 0], edges[0], edges[-1])
        np.testing.assert_array_equal(got, np.histogram(inside, edges)[0])
    with pytest.raises(ValueError, match="n_bins"):
        diagnostics.value_histograms(codes, 0)


def test_top_samples_against_sorting(codes, as_csr):
    top = diagnostics.top_samples(as_csr(codes), 5)
    for column, got in zip(np.abs(codes).T, top, strict=True):
        order = [i for i in np.argsort(-column, kind="stable") if column[i] > 0][:5]
        assert list(got) == order + [-1] * (5 - len(order))
    with pytest.raises(ValueError, match="n="):
        diagnostics.top_samples(codes, 0)
