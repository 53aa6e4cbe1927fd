"""The laws of the rival coders: what makes the comparison with them trustworthy."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from benchmarks.codes import autoencoders, training, variational
from benchmarks.codes.methods import METHODS
from benchmarks.codes.protocol import Scaling, Task, dense
from benchmarks.codes.settings import settings_for
from benchmarks.codes.sklearn_peers import DictionaryCoder, fit_dictionary
from sparsecode.defaults import resolve_hidden_sizes

K, L0, D = 20, 4, 30
NETWORKS = {
    name: method
    for name, method in METHODS.items()
    if method.family in ("autoencoder", "variational")
}
EXACT = {"topk", "k_sparse", "k_sparse_decay", "topk_mlp", "vae_truncated"}
CALIBRATED = {"batch_topk", "batch_topk_hidden", "jumprelu", "vsc", "vsc_threshold", "vaease"}


@pytest.fixture(scope="module")
def rows():
    """4,000 images of 30 pixels, each a sum of 3 of 12 patterns."""
    rng = np.random.default_rng(0)
    patterns = rng.normal(size=(12, D))
    weights = rng.exponential(size=(4000, 12)) * (rng.random((4000, 12)) < 0.25)
    x = 128 + 30 * weights @ patterns + rng.normal(0, 5, (4000, D))
    return np.clip(x, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def fitted(rows):
    """Fit a method once, briefly."""
    known = {}

    def fit(name):
        if name not in known:
            method = METHODS[name]
            settings = {**settings_for(method, None), "steps": 60}
            known[name] = method.fit(Task(rows[:3000], 0, K, L0), **settings)
        return known[name]

    return fit


def test_every_network_is_either_exact_or_calibrated_or_dense():
    assert set(NETWORKS) == EXACT | CALIBRATED | {"vae"}


@pytest.mark.parametrize("name", sorted(EXACT))
def test_exact_coders_keep_l0_in_every_row(fitted, rows, name):
    codes = dense(fitted(name).encode(rows[3000:]))
    # A rectified code may have fewer, where a row has fewer positive pre-activations.
    counts = (codes != 0).sum(1)
    assert counts.max() == L0
    assert counts.mean() > 0.98 * L0


def test_weights_decay_where_that_is_asked_for(rows):
    sizes = {}
    for decay in (0.0, 10.0):
        settings = {"lr": 4e-3, "steps": 60, "weight_decay": decay}
        network = METHODS["k_sparse"].fit(Task(rows[:3000], 0, K, L0), **settings).network
        sizes[decay] = sum(float(p.detach().square().sum()) for p in network.parameters())
    assert sizes[10.0] < 0.7 * sizes[0.0]


@pytest.mark.parametrize("name", sorted(CALIBRATED))
def test_calibrated_coders_meet_l0_on_validation_rows(fitted, rows, name):
    _, validation = Task(rows[:3000], 0, K, L0).split()
    codes = fitted(name).encode(validation)
    assert codes.nnz / len(validation) == pytest.approx(L0, rel=0.02)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_training_explains_more_than_the_mean(fitted, rows, name):
    coder, test = fitted(name), rows[3000:]
    error = np.square(coder.decode(coder.encode(test)) - test / 255).mean()
    assert error < np.square(rows[:3000].mean(0) / 255 - test / 255).mean()


@pytest.mark.parametrize("name", ["topk", "vsc"])
def test_one_seed_gives_one_code(rows, name):
    settings = {**settings_for(METHODS[name], None), "steps": 5}
    first, second = (
        METHODS[name].fit(Task(rows[:1000], 3, K, L0), **settings).encode(rows[:50])
        for _ in range(2)
    )
    assert np.array_equal(first.toarray(), second.toarray())


@pytest.mark.parametrize("name", ["topk", "batch_topk", "batch_topk_hidden", "jumprelu"])
def test_dictionaries_stay_on_the_unit_sphere(fitted, name):
    norms = fitted(name).network.dictionary.norm(dim=0)
    assert norms.detach().numpy() == pytest.approx(1, abs=1e-5)


def test_the_gradient_does_not_change_the_norms():
    network = autoencoders.TopK(D, K, L0)
    network.loss(torch.randn(16, D), 0.0).backward()
    network.before_step()
    inner = (network.dictionary.grad * network.dictionary).sum(0)
    assert inner.detach().abs().max() < 1e-6


def test_batch_topk_keeps_n_l0_of_the_batch():
    network = autoencoders.BatchTopK(D, K, L0)
    z = network.sparsify(torch.randn(16, K))
    assert int((z != 0).sum()) == 16 * L0
    assert z.min() == 0


def test_in_our_network_batch_topk_starts_as_it_is_and_has_our_sizes():
    networks = []
    for build in (autoencoders.BatchTopK, autoencoders.BatchTopKHidden):
        torch.manual_seed(0)
        networks.append(build(D, K, L0))
    plain, ours = networks
    x = torch.randn(16, D)
    torch.testing.assert_close(ours.pre(x), plain.pre(x))
    torch.testing.assert_close(ours.decode(ours.pre(x)), plain.decode(plain.pre(x)))
    sizes = ours.beside_encoder[0].out_features, ours.beside_decoder[0].out_features
    assert ((sizes[0],), (sizes[1],)) == resolve_hidden_sizes("auto", "spike_slab", None, 60_000, K)


def test_auxiliary_loss_lets_the_best_dead_latents_explain_the_error():
    torch.manual_seed(0)
    network = autoencoders.TopK(D, K, L0)
    pre, error = torch.randn(8, K), torch.randn(8, D)
    dead = torch.arange(K) < 3
    revived = torch.where(dead, pre, 0).relu()
    expected = (revived @ network.dictionary.T - error).square().sum()
    expected = expected / (error - error.mean(0)).square().sum()
    z = network.sparsify(pre)
    assert network.auxiliary_loss(pre, z, error, dead).item() == pytest.approx(expected.item())
    assert network.auxiliary_loss(pre, z, error, dead & False).item() == 0


def test_auxiliary_loss_of_the_mlp_does_not_train_the_living():
    network = autoencoders.TopKMlp(D, K, L0)
    pre = torch.randn(8, K, requires_grad=True)
    dead = torch.arange(K) < 3
    z = network.sparsify(pre)
    network.auxiliary_loss(pre, z, torch.randn(8, D), dead).backward()
    assert pre.grad[:, :3].abs().sum() > 0
    assert pre.grad[:, 3:].abs().sum() == 0


def test_jumprelu_gradients_are_those_of_the_straight_through_formula():
    pre = torch.tensor([[0.4, 0.55, 1.2, -1.0]], requires_grad=True)
    threshold = torch.full((4,), 0.5, requires_grad=True)
    z = autoencoders.JumpReLUFunction.apply(pre, threshold, 0.25)
    assert z.tolist() == [[0, pytest.approx(0.55), pytest.approx(1.2), 0]]
    (z * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert pre.grad.tolist() == [[0, 2, 3, 0]]
    # -(theta / epsilon) K((z - theta) / epsilon) g, K the rectangle of width 1.
    assert threshold.grad.tolist() == [-2.0, -4.0, 0.0, 0.0]


def test_step_gradients_are_those_of_the_straight_through_formula():
    pre = torch.tensor([[0.4, 0.55, 1.2]], requires_grad=True)
    threshold = torch.full((3,), 0.5, requires_grad=True)
    gate = autoencoders.StepFunction.apply(pre, threshold, 0.25)
    assert gate.tolist() == [[0, 1, 1]]
    gate.sum().backward()
    assert pre.grad is None
    assert threshold.grad.tolist() == [-4.0, -4.0, 0.0]


def test_jumprelu_starts_at_its_l0():
    network = autoencoders.JumpReLU(D, K, L0, bandwidth=0.3)
    x = torch.randn(500, D)
    network.start(x)
    assert (network.pre(x) > network.log_threshold.exp()).sum(1).float().mean() == pytest.approx(
        L0, rel=0.01
    )


def test_k_sparse_anneals_its_count_and_ties_its_weights():
    network = autoencoders.KSparse(D, K, L0)
    x = torch.randn(5, D)
    assert (network.activities(x, network.first) != 0).sum(1).tolist() == [16] * 5
    assert (network.codes(x) != 0).sum(1).tolist() == [L0] * 5
    z = torch.eye(K)
    assert torch.equal(network.decode(z) - network.bias, network.weight)


@pytest.mark.parametrize(("loc", "scale", "logit"), [(0.7, 0.4, -1.0), (-2.0, 1.5, 3.0)])
def test_spike_and_slab_kl_is_the_integral(loc, scale, logit):
    prior, on = 0.2, 1 / (1 + math.exp(-logit))
    q, p = stats.norm(loc, scale), stats.norm(0, 1)

    def integrand(z):
        return on * q.pdf(z) * (math.log(on / prior) + q.logpdf(z) - p.logpdf(z))

    slab, _ = integrate.quad(integrand, loc - 12 * scale, loc + 12 * scale)
    atom = (1 - on) * math.log((1 - on) / (1 - prior))
    args = (torch.tensor(value, dtype=torch.float64) for value in (loc, scale, logit))
    kl = variational.spike_slab_kl(*args, prior)
    assert kl.item() == pytest.approx(slab + atom, abs=1e-8)


def test_bernoulli_kl_stands_certainty():
    logits = torch.tensor([-200.0, 200.0], requires_grad=True)
    kl = variational.bernoulli_kl(logits, 0.2)
    assert kl.tolist() == pytest.approx([-math.log(0.8), -math.log(0.2)])
    kl.sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_vsc_survives_the_end_of_its_warm_up_with_tiny_scales():
    network = variational.VSC(D, K, L0)
    torch.nn.init.constant_(network.scale_head.bias, -20.0)
    network.loss(torch.randn(8, D), 0.5).backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_thresholded_samples_have_exact_zeros_and_the_stated_gradients():
    network = variational.ThresholdedVSC(D, K, L0)
    loc, scale, threshold = (
        torch.full((1, 2), value, requires_grad=True) for value in (3.0, 1.0, 1.0)
    )
    noise = torch.tensor([[0.5, -1.5]])
    z = network.sample(loc, scale, threshold, noise)
    assert z.tolist() == [[0.0, 2.5]]
    z.sum().backward()
    assert loc.grad.tolist() == [[1, 1]]
    assert scale.grad.tolist() == [[0.5, -1.5]]
    assert threshold.grad.tolist() == [[0, 1]]


def test_thresholded_samples_of_the_prior_are_as_sparse_as_asked():
    network = variational.ThresholdedVSC(D, K, L0)
    zero, one = torch.zeros(5000, K), torch.ones(5000, K)
    z = network.sample(zero, one, network.mean_threshold * one, torch.randn(5000, K))
    assert (z != 0).float().mean().item() == pytest.approx(L0 / K, rel=0.03)


def test_vaease_codes_are_what_its_decoder_sees(fitted, rows):
    coder = fitted("vaease")
    x = torch.from_numpy(coder.scaling(rows[:20]))
    loc, scale, _ = coder.network.outputs(x)
    seen = ((1 - scale) * loc).detach().numpy()
    codes = dense(coder.encode(rows[:20]))
    assert codes[codes != 0] == pytest.approx(seen[codes != 0], rel=1e-4)


def test_the_likelihood_is_that_of_the_best_scale():
    network = variational.DenseVAE(D, K, L0, beta=2.0)
    x, z = torch.randn(64, D), torch.randn(64, K)
    error = (x - network.decode(z)).square()
    sigma = error.mean().sqrt()
    nll = -torch.distributions.Normal(network.decode(z), sigma).log_prob(x).sum(1).mean()
    constant = D / 2 * (1 + math.log(2 * math.pi))
    loss = network.negative_elbo(x, z, torch.ones(64, K))
    assert loss.item() == pytest.approx(nll.item() - constant + 2.0 * K, rel=1e-5)


@pytest.mark.parametrize("name", ["vae", "vsc", "vaease", "vsc_threshold"])
def test_rates_are_finite_and_positive(fitted, rows, name):
    assert 0 < fitted(name).rate(rows[3000:]) < 1e6


def test_the_schedule_warms_up_and_ends_at_nothing():
    values = [training.schedule(step / 1000) for step in range(1000)]
    assert values[0] < 0.05
    assert max(values) > 0.99
    assert values[-1] < 1e-4


@pytest.mark.parametrize("name", ["dictionary_omp", "dictionary_lasso"])
def test_dictionary_codes_meet_l0(rows, name):
    task = Task(rows[:3000], 0, K, L0)
    coder = METHODS[name].fit(task, alpha=1.0, steps=5)
    _, validation = task.split()
    counts = (coder.encode(validation[:300]).toarray() != 0).sum(1)
    if name == "dictionary_omp":
        assert set(counts) == {L0}
    else:
        assert counts.mean() == pytest.approx(L0, rel=0.02)


def test_few_rounds_of_coordinate_descent_make_as_good_a_dictionary(rows):
    task = Task(rows[:3000], 0, 2 * D, L0)
    errors = []
    for sweeps in (30, 1000):
        dictionary = fit_dictionary(task, alpha=0.3, steps=10, sweeps=sweeps)
        coder = DictionaryCoder(dictionary, L0)
        errors.append(np.square(coder.decode(coder.encode(rows[3000:])) - rows[3000:] / 255).mean())
    few, many = errors
    assert few == pytest.approx(many, rel=0.02)


@pytest.mark.parametrize("name", ["pca", "sparse_pca", "nmf"])
def test_dense_classics_reconstruct_better_dense_than_truncated(rows, name):
    task, test = Task(rows[:3000], 0, 10, 3), rows[3000:]
    settings = {**settings_for(METHODS[name], None)}
    errors = []
    for method in (METHODS[name], METHODS[f"{name}_truncated"]):
        coder = method.fit(task, **settings)
        codes = coder.encode(test)
        errors.append(np.square(coder.decode(codes) - test / 255).mean())
    assert (dense(codes) != 0).sum(1).max() == 3
    assert errors[0] < errors[1]
    assert errors[0] < np.square(rows.mean(0) / 255 - test / 255).mean()


@pytest.mark.parametrize("name", ["pca", "sparse_pca", "nmf", "dictionary_omp"])
def test_classics_stand_more_latents_than_features(rows, name):
    coder = METHODS[name].fit(
        Task(rows[:2000], 0, D + 10, L0), **{**settings_for(METHODS[name], None), **_brief(name)}
    )
    codes = coder.encode(rows[2000:2020])
    assert codes.shape == (20, D if name == "pca" else D + 10)
    assert np.isfinite(coder.decode(codes)).all()


def _brief(name):
    return {} if name == "pca" else {"steps": 2}


def test_topk_agrees_with_dictionary_learning():
    """Forward pass and auxiliary loss, on random weights and with some latents dead."""
    reference = pytest.importorskip(
        "dictionary_learning.trainers.top_k", reason="dictionary-learning is not installed"
    )
    torch.manual_seed(0)
    network = autoencoders.TopK(D, K, L0)
    trainer = reference.TopKTrainer(100, D, K, L0, 0, "none", warmup_steps=10, device="cpu")
    with torch.no_grad():
        network.encoder.normal_()
        network.encoder_bias.normal_()
        network.bias.normal_()
        trainer.ae.decoder.weight.copy_(network.dictionary)
        trainer.ae.encoder.weight.copy_(network.encoder)
        trainer.ae.encoder.bias.copy_(network.encoder_bias)
        trainer.ae.b_dec.copy_(network.bias)
    x = torch.randn(16, D)
    pre = network.pre(x)
    z = network.sparsify(pre)
    assert torch.allclose(trainer.ae.encode(x), z, atol=1e-5)
    assert torch.allclose(trainer.ae(x), network.decode(z), atol=1e-4)
    dead = torch.arange(K) < 6
    trainer.num_tokens_since_fired[dead] = trainer.dead_feature_threshold + 1
    error = (x - network.decode(z)).detach()
    theirs = trainer.get_auxiliary_loss(error, pre.relu())
    assert torch.allclose(network.auxiliary_loss(pre, z, error, dead), theirs, rtol=1e-5)


def test_topk_agrees_with_sae_lens():
    """Forward pass; their auxiliary loss is not divided by the variance of the error."""
    reference = pytest.importorskip("sae_lens.saes.topk_sae", reason="sae-lens is not installed")
    torch.manual_seed(0)
    network = autoencoders.TopK(D, K, L0)
    config = reference.TopKTrainingSAEConfig(
        d_in=D, d_sae=K, k=L0, rescale_acts_by_decoder_norm=False
    )
    theirs = reference.TopKTrainingSAE(config)
    with torch.no_grad():
        theirs.W_enc.copy_(network.encoder.T)
        theirs.b_enc.copy_(network.encoder_bias)
        theirs.W_dec.copy_(network.dictionary.T)
        theirs.b_dec.copy_(network.bias)
    x = torch.randn(16, D)
    codes = theirs.encode(x)
    assert torch.allclose(codes, network.codes(x), atol=1e-5)
    assert torch.allclose(theirs.decode(codes), network.decode(network.codes(x)), atol=1e-5)


def test_inputs_of_all_networks_have_unit_mean_square(fitted, rows):
    scaling = fitted("topk").scaling
    assert isinstance(scaling, Scaling)
    assert np.square(scaling(rows[:3000])).mean() == pytest.approx(1, abs=0.02)
