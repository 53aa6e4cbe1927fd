"""Refined codes: never worse, of the same L0, and at the known optimum where there is one."""

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge
from torch import nn

from sparsecode import SparseVAETransformer
from sparsecode.networks import build_decoder
from sparsecode.refinement import _ByInnerProducts, _ByOutputs, _linearisable, _solve

N = 150


@pytest.fixture(scope="module")
def digits():
    return load_digits().data[:800].astype(np.float32)


def fitted(digits, **parameters):
    values = {"n_components": 24, "p": 0.75, "max_iter": 8, "random_state": 0, **parameters}
    return SparseVAETransformer(**values).fit(digits)


@pytest.fixture(scope="module")
def linear(digits):
    return fitted(digits, hidden_sizes=())


@pytest.fixture(scope="module")
def deeper(digits):
    return fitted(digits, hidden_sizes=(32,))


def errors(coder, x, codes):
    return np.square(x - coder.inverse_transform(codes)).mean(1)


def counts(codes):
    return np.diff(sparse.csr_array(codes).indptr)


@pytest.mark.parametrize("n_swaps", [0, 3])
def test_values_of_a_linear_decoder_are_those_of_ridge_regression(linear, digits, n_swaps):
    x = digits[:20]
    after = linear.refine(x, n_swaps=n_swaps)
    # -log p(x | z) + .1 z²/2 is ridge regression on the open atoms, with a tenth of the noise's
    # variance as its penalty; the error of the decoder's own bias is part of the target.
    scale = float(linear.model_.scale * linear.model_.input_scale)
    target = x - linear.inverse_transform(np.zeros((20, 24), np.float32))
    for i in range(20):
        support = after[[i]].indices
        ridge = Ridge(alpha=0.1 * scale**2, fit_intercept=False)
        ridge.fit(linear.components_[support].T, target[i])
        np.testing.assert_allclose(after[[i]].toarray()[0, support], ridge.coef_, atol=2e-3)


@pytest.mark.parametrize("name", ["linear", "deeper"])
@pytest.mark.parametrize("n_swaps", [0, 1, 3, 100])
def test_l0_stays_and_the_error_falls(name, n_swaps, digits, request):
    coder = request.getfixturevalue(name)
    x = digits[:N]
    before, after = coder.transform(x), coder.refine(x, n_swaps=n_swaps)
    assert after.dtype == np.float32
    np.testing.assert_array_equal(counts(after), counts(before))
    if n_swaps == 0:
        np.testing.assert_array_equal(after.indices, before.indices)
    assert errors(coder, x, after).mean() < 0.97 * errors(coder, x, before).mean()


def test_exchanges_lower_the_error_further(linear, digits):
    x = digits[:N]
    means = [errors(linear, x, linear.refine(x, n_swaps=n)).mean() for n in (0, 1, 4)]
    assert means[0] > means[1] > means[2]


@pytest.mark.parametrize("name", ["linear", "deeper"])
@pytest.mark.parametrize("n_swaps", [0, 3])
def test_a_row_depends_on_that_row_alone(name, n_swaps, digits, request):
    coder = request.getfixturevalue(name)
    x = digits[:N]
    together = coder.refine(x, n_swaps=n_swaps)
    for i in (0, 7, 149):
        alone = coder.refine(x[i : i + 1], n_swaps=n_swaps)
        np.testing.assert_array_equal(alone.indices, together[[i]].indices)
        np.testing.assert_allclose(alone.data, together[[i]].data, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "parameters",
    [
        {"posterior": "gaussian"},
        {"image_shape": (8, 8)},
        {"p": 0.3},
        {"p": 0.0},
        {"sparse_output": False},
    ],
    ids=str,
)
def test_every_kind_of_model_can_be_refined(parameters, digits):
    coder = fitted(digits[:300], **parameters)
    x = digits[:40]
    before, after = coder.transform(x), coder.refine(x, n_swaps=2)
    assert type(after) is type(before)
    np.testing.assert_array_equal(counts(after), counts(before))
    assert (errors(coder, x, after).mean()) <= errors(coder, x, before).mean()


def test_other_likelihoods_are_refined_by_their_own_objective(digits):
    x = (digits > 8).astype(np.float32)
    coder = fitted(x, likelihood="bernoulli", hidden_sizes=())
    before, after = coder.transform(x[:N]), coder.refine(x[:N])

    def cross_entropy(codes):
        mean = np.clip(coder.inverse_transform(codes), 1e-6, 1 - 1e-6)
        return -(x[:N] * np.log(mean) + (1 - x[:N]) * np.log1p(-mean)).sum(1).mean()

    assert cross_entropy(after) < cross_entropy(before)


def test_codes_from_elsewhere_are_a_start_too(deeper, digits):
    x = digits[:30]
    codes = deeper.transform(x)
    np.testing.assert_array_equal(
        deeper.refine(x, codes.toarray()).toarray(), deeper.refine(x).toarray()
    )
    half = codes.copy()
    half.data[::2] = 0
    half.eliminate_zeros()
    np.testing.assert_array_equal(counts(deeper.refine(x, half)), counts(half))


def test_rows_without_any_value_stay_empty(deeper, digits):
    nothing = np.zeros((3, 24), np.float32)
    assert deeper.refine(digits[:3], nothing, n_swaps=2).nnz == 0


def test_wrong_arguments_name_the_rule(deeper, digits):
    with pytest.raises(ValueError, match="n_steps=0 must be at least 1"):
        deeper.refine(digits[:2], n_steps=0)
    with pytest.raises(ValueError, match=r"n_swaps=-1 at least 0"):
        deeper.refine(digits[:2], n_swaps=-1)
    with pytest.raises(ValueError, match="codes have 3 rows, but X has 2"):
        deeper.refine(digits[:2], np.zeros((3, 24)))
    with pytest.raises(ValueError, match="codes have 5 columns"):
        deeper.refine(digits[:2], np.zeros((2, 5)))


def test_values_settle_where_the_objective_is_flat(deeper, digits):
    x = digits[:20]
    codes = deeper.refine(x, n_steps=8)
    model = copy.deepcopy(deeper.model_).double()
    z = torch.from_numpy(codes.toarray()).double().requires_grad_()
    objective = -model.decode(z).log_prob(torch.from_numpy(x).double()) + 0.05 * z.square().sum(1)
    (gradient,) = torch.autograd.grad(objective.sum(), z)
    slope = (gradient * (z != 0)).abs().amax(1)
    # A row may come to rest on a kink, where there is no gradient.
    assert float(slope.median()) < 1e-2
    start = torch.from_numpy(deeper.transform(x).toarray()).double().requires_grad_()
    objective = -model.decode(start).log_prob(torch.from_numpy(x).double()).sum()
    assert float(torch.autograd.grad(objective, start)[0].abs().amax()) > 1  # it was not before


@pytest.mark.parametrize("sizes", [(), (7,), (7, 5)])
def test_tangents_through_the_layers_are_those_of_forward_mode(sizes):
    generator = torch.Generator().manual_seed(0)
    decoder = build_decoder(10, 6, sizes, None, is_gated=True)
    for weight in decoder.parameters():
        weight.data.normal_(generator=generator)
    z = torch.randn(4, 6, generator=generator)
    column = torch.stack([torch.randperm(6, generator=generator)[:3] for _ in z])
    fast, general = _ByOutputs(decoder), _ByOutputs(nn.Sequential(nn.Identity(), decoder))
    assert fast.paths
    assert general.paths is None
    with torch.no_grad():
        torch.testing.assert_close(fast.tangents(z, column), general.tangents(z, column))


@pytest.mark.parametrize("sizes", [(), (7,)])
def test_inner_products_make_the_system_that_outputs_make(sizes):
    generator = torch.Generator().manual_seed(0)
    decoder = build_decoder(10, 6, sizes, None, is_gated=True).double()
    for weight in decoder.parameters():
        weight.data.normal_(generator=generator)
    z, score = (torch.randn(5, n, generator=generator).double() for n in (6, 10))
    order = torch.stack([torch.randperm(6, generator=generator) for _ in z])
    some, others = order[:, :3], order[:, 3:5]
    information = torch.full_like(score, 3.0)
    layers = (decoder.linear, decoder.hidden) if sizes else (decoder[0], None)
    with torch.no_grad():
        looked_up = _ByInnerProducts(*layers).at(z, score, information)
        by_outputs = _ByOutputs(decoder).at(z, score, information)
        (a, b), (c, d) = ([t.along(some), t.along(others)] for t in (looked_up, by_outputs))
        torch.testing.assert_close(looked_up.inner(a, a), by_outputs.inner(c, c))
        torch.testing.assert_close(looked_up.inner(a, b), by_outputs.inner(c, d))
        torch.testing.assert_close(looked_up.slope(a), by_outputs.slope(c))


def test_a_system_without_a_minimum_moves_nothing():
    """Rounding can make one where atoms are alike; the rows beside it are solved."""
    curvature = torch.stack([torch.full((2, 2), -4.0), torch.eye(2)])
    step = _solve(curvature, torch.ones(2, 2), torch.zeros(2, 2), torch.ones(2, 2))
    torch.testing.assert_close(step, torch.tensor([[0.0, 0.0], [1 / 1.1, 1 / 1.1]]))


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
@pytest.mark.parametrize("sizes", [(), (32,), (32, 16), (80,)])
def test_the_faster_system_is_taken_where_it_holds(sizes, likelihood, digits):
    coder = fitted(digits / 16, hidden_sizes=sizes, likelihood=likelihood, max_iter=1)
    holds = likelihood == "gaussian" and sizes in ((), (32,))
    decoder = _linearisable(coder.model_)
    assert isinstance(decoder, _ByInnerProducts if holds else _ByOutputs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("sizes", [(), (32,)])
@pytest.mark.parametrize("n_swaps", [0, 2])
def test_the_gpu_refines_as_the_cpu_does(digits, sizes, n_swaps):
    coder = fitted(digits, hidden_sizes=sizes, device="cuda")
    on_cpu = pickle.loads(pickle.dumps(coder))
    x = digits[:N]
    start = on_cpu.transform(x)
    ours, theirs = (c.refine(x, start, n_swaps=n_swaps).toarray() for c in (coder, on_cpu))
    np.testing.assert_array_equal(ours == 0, theirs == 0)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
