import copy
import pickle
import warnings

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC
from torch import nn

from sparsecode import SparseVAETransformer
from sparsecode.errors import UnscaledFeatureWarning


def dense(codes):
    return codes.toarray() if sparse.issparse(codes) else np.asarray(codes)


def zero_fraction(codes):
    return (dense(codes) == 0).mean()


def same_bits(one, other):
    return np.array_equal(dense(one), dense(other))


def mixtures(n, seed):
    """Rows that are sparse mixtures of 20 directions, with noise."""
    directions = np.random.default_rng(0).normal(size=(20, 30))
    rng = np.random.default_rng(seed)
    codes = rng.exponential(size=(n, 20)) * (rng.random((n, 20)) < 0.15)
    return (codes @ directions + 0.1 * rng.normal(size=(n, 30))).astype(np.float32)


# -- codes -------------------------------------------------------------------------------------


def test_codes_have_the_promised_form(fitted, digits):
    codes = fitted.transform(digits[500:600])
    assert codes.shape == (100, 16)
    assert codes.dtype == np.float32
    assert isinstance(codes, sparse.csr_array if fitted.sparse_output else np.ndarray)
    assert np.isfinite(dense(codes)).all()
    if fitted.sparse_output:
        assert (codes.data != 0).all()
        assert codes.has_canonical_format
        assert codes.indices.dtype == codes.indptr.dtype == np.int32


@pytest.mark.parametrize("classifier", [SVC(), LogisticRegression(solver="liblinear")])
def test_codes_go_into_estimators_that_take_no_64_bit_indices(gated, digits, classifier):
    codes, is_bright = gated.transform(digits[:100]), digits[:100].mean(1) > digits.mean()
    assert classifier.fit(codes, is_bright).score(codes, is_bright) > 0.6


def test_a_code_depends_on_its_row_alone(fitted, digits):
    X = digits[500:620]
    codes = dense(fitted.transform(X))
    order = np.random.default_rng(0).permutation(len(X))
    for other in (
        np.concatenate([dense(fitted.transform(row[None])) for row in X]),
        np.concatenate([dense(fitted.transform(part)) for part in np.array_split(X, 7)]),
        dense(fitted.transform(X[order]))[np.argsort(order)],
    ):
        assert np.array_equal(codes == 0, other == 0)
        np.testing.assert_allclose(other, codes, rtol=1e-4, atol=1e-5)


def test_codes_do_not_depend_on_the_number_of_threads(fitted, digits):
    before = torch.get_num_threads()
    codes = []
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            codes.append(dense(fitted.transform(digits[500:])))
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(codes[0] == 0, codes[1] == 0)
    np.testing.assert_allclose(codes[0], codes[1], rtol=1e-4, atol=1e-5)


def test_fit_transform_is_fit_and_transform(make, digits):
    X = digits[:300]
    assert same_bits(make().fit_transform(X), make().fit(X).transform(X))


# With n rows held out by 300 the zero fraction has a standard error of .0035 (model.md), and the
# 597 or 1000 test rows add .0025; .015 is more than three of both together.
@pytest.mark.parametrize("posterior", ["spike_slab", "gaussian"])
@pytest.mark.parametrize("p", [0.5, 0.9])
def test_p_is_kept_on_unseen_digits(make, digits, posterior, p):
    coder = make(n_components=32, p=p, posterior=posterior, hidden_sizes=()).fit(digits[:1200])
    assert zero_fraction(coder.transform(digits[1200:])) == pytest.approx(p, abs=0.015)
    assert coder.density_ == pytest.approx(1 - p, abs=1e-3)


# Rows of this data set differ more: SD .1, standard error .0044 from 600 rows held out and 4000
# looked at.
@pytest.mark.parametrize("p", [0.8, 0.98])
def test_p_is_kept_on_unseen_mixtures(make, p):
    coder = make(n_components=64, p=p, max_iter=3).fit(mixtures(6000, 1))
    assert zero_fraction(coder.transform(mixtures(4000, 2))) == pytest.approx(p, abs=0.015)


def test_p_is_kept_when_rows_are_too_few_to_spare(make):
    # Cross-fitted: 150 rows, 64 latents that overfit them. Standard error .008 from 150 rows and
    # .003 from 1000, and models of different folds differ.
    coder = make(n_components=64, p=0.8, max_iter=20, batch_size=32).fit(mixtures(150, 1))
    assert zero_fraction(coder.transform(mixtures(1000, 2))) == pytest.approx(0.8, abs=0.03)
    assert len(coder.history_) == 20


def test_without_a_spike_codes_are_dense(make, digits):
    for posterior in ("spike_slab", "gaussian"):
        coder = make(p=0.0, posterior=posterior, hidden_sizes=()).fit(digits[:200])
        assert zero_fraction(coder.transform(digits[200:300])) == 0
        assert coder.threshold_ == -np.inf
        assert coder.density_ == 1


@pytest.mark.parametrize("p", [0.999, 1 - 1e-12])
def test_p_next_to_one_does_not_break(make, digits, p):
    coder = make(p=p).fit(digits[:500])
    codes = coder.transform(digits[500:])
    assert zero_fraction(codes) >= 0.99
    assert np.isfinite(coder.score_samples(digits[:20])).all()
    np.testing.assert_allclose(
        coder.inverse_transform(sparse.csr_array((1, 16))), coder.mean_[None], atol=0.5
    )


# -- determinism -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"posterior": "gaussian", "kl": "monte_carlo", "hidden_sizes": (5,)},
        {"image_shape": (8, 8)},
    ],
)
def test_the_same_seed_gives_the_same_bits(make, digits, parameters):
    X = digits[:150]
    state = torch.random.get_rng_state()
    first = make(**parameters).fit(X)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(123)
    np.random.seed(5)  # noqa: NPY002  (the global seed must not matter)
    second = make(**parameters).fit(X)
    torch.random.set_rng_state(state)
    assert same_bits(first.transform(X), second.transform(X))
    assert np.array_equal(first.score_samples(X[:9]), second.score_samples(X[:9]))
    other = make(**parameters, random_state=1).fit(X)
    assert not same_bits(first.transform(X), other.transform(X))


def test_random_states_are_taken_as_scikit_learn_does(make, digits):
    X = digits[:150]
    one = make(random_state=np.random.RandomState(3)).fit(X)
    assert same_bits(one.transform(X), make(random_state=3).fit(X).transform(X))


# -- input -------------------------------------------------------------------------------------


def as_uint8(digits):
    return (digits * 255).astype(np.uint8)


@pytest.mark.parametrize("likelihood", ["auto", "bernoulli"])
def test_uint8_means_the_same_as_floats_of_it(make, digits, likelihood):
    images = as_uint8(digits[:300])
    floats = images.astype(np.float32) / np.float32(255)
    one = make(likelihood=likelihood).fit(images)
    other = make(likelihood=likelihood).fit(floats)
    assert same_bits(one.transform(images), other.transform(floats))
    assert same_bits(one.transform(floats), other.transform(images))
    assert np.array_equal(one.score_samples(images[:5]), other.score_samples(floats[:5]))
    assert one.inverse_transform(one.transform(images)).mean() == pytest.approx(
        floats.mean(), abs=0.1
    )


def kinds(X, path):
    np.save(path, X)
    read_only = X.copy()
    read_only.setflags(write=False)
    return {
        "csr_array": sparse.csr_array(X),
        "csr_matrix": sparse.csr_matrix(X),
        "coo": sparse.coo_array(X),
        "float64": X.astype(np.float64),
        "Fortran": np.asfortranarray(X),
        "list": X.tolist(),
        "memory map": np.load(path, mmap_mode="r"),
        "read-only": read_only,
        "strided": np.repeat(X, 2, axis=0)[::2],
    }


def test_every_kind_of_matrix_gives_the_same_codes(make, digits, tmp_path):
    X = digits[:200]
    expected = make().fit(X)
    for name, kind in kinds(X, tmp_path / "x.npy").items():
        coder = make().fit(kind)
        assert same_bits(coder.transform(kind), expected.transform(X)), name
        assert same_bits(expected.transform(kind), expected.transform(X)), name
        np.testing.assert_array_equal(coder.score_samples(kind), expected.score_samples(X))


@pytest.mark.parametrize(
    "parameters",
    [{}, {"posterior": "gaussian"}, {"image_shape": (8, 8)}, {"hidden_sizes": (4,)}],
    ids=str,
)
def test_torchs_default_device_does_not_matter(make, digits, parameters):
    # Nothing can be computed on "meta": whoever is made there by mistake is found.
    expected = make(max_iter=2, **parameters).fit(digits[:100])
    with torch.device("meta"):
        fitted = make(max_iter=2, **parameters).fit(digits[:100])
        codes = fitted.transform(digits[:50])
        assert same_bits(codes, expected.transform(digits[:50]))
        for function in ("inclusion_proba", "score_samples", "refine", "partial_fit"):
            getattr(fitted, function)(digits[:50])
        fitted.inverse_transform(codes)
        fitted.sample(2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("function", ["partial_fit", "fit"])
def test_a_copy_which_is_on_the_cpu_trains_on_where_the_original_did(make, digits, function):
    original = make(max_iter=2, warm_start=True, device="cuda").fit(digits[:500])
    copied = copy.deepcopy(original)
    getattr(copied, function)(digits[:500])
    assert copied.model_.scale.device.type == "cuda"


def test_the_input_is_not_changed(make, digits):
    X = digits[:200].copy()
    coder = make().fit(X)
    coder.transform(X)
    coder.score_samples(X)
    assert np.array_equal(X, digits[:200])


def test_a_data_frame_gives_names_that_are_checked(make, digits):
    frame = pd.DataFrame(digits[:150], columns=[f"pixel{i}" for i in range(64)])
    coder = make().fit(frame)
    assert coder.feature_names_in_.tolist() == list(frame)
    with pytest.raises(ValueError, match="feature names should match"):
        coder.transform(frame[frame.columns[::-1]])
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        codes = coder.transform(digits[:150])
    assert same_bits(codes, coder.transform(frame))


BAD = [
    ({"p": 1.0}, "The 'p' parameter .* must be a float in the range \\[0.0, 1.0\\). Got 1.0"),
    ({"p": -0.1}, "The 'p' parameter"),
    ({"p": float("nan")}, "The 'p' parameter"),
    ({"n_components": 0}, "The 'n_components' parameter .*\\[1, inf\\). Got 0"),
    ({"posterior": "normal"}, "The 'posterior' parameter .*'spike_slab'"),
    ({"likelihood": "poisson"}, "The 'likelihood' parameter"),
    ({"kl": "approximate"}, "The 'kl' parameter"),
    ({"kl_samples": 0}, "The 'kl_samples' parameter"),
    ({"spike_scale": 1.0}, "The 'spike_scale' parameter"),
    ({"beta": -1}, "The 'beta' parameter"),
    ({"max_iter": 0}, "The 'max_iter' parameter"),
    ({"batch_size": 0}, "The 'batch_size' parameter"),
    ({"learning_rate": 0}, "The 'learning_rate' parameter"),
    ({"max_time": 0}, "The 'max_time' parameter"),
    ({"validation_fraction": 1.0}, "The 'validation_fraction' parameter"),
    ({"encoder": "mlp"}, "The 'encoder' parameter"),
    ({"device": "abacus"}, "device='abacus' is unknown; use 'auto', 'cpu' or 'cuda'"),
    ({"prior": "laplace"}, "prior='laplace' needs posterior='gaussian'"),
    ({"decoder": nn.Identity()}, "encoder and decoder go together, but encoder is None; give both"),
    ({"encoder": nn.Identity()}, "encoder and decoder go together, but decoder is None"),
    ({"image_shape": (8, 9)}, r"image_shape=\(8, 9\) must be .* as many values as X .* \(64\)"),
    ({"image_shape": (2, 32)}, "H and W at least 4"),
    ({"image_shape": (64,)}, r"image_shape=\(64,\) must be \(H, W\) or"),
    ({"image_shape": ("8", "8")}, "image_shape="),
    ({"hidden_sizes": (8, 0)}, r"hidden_sizes=\(8, 0\) must be 'auto' or integers of at least 1"),
    ({"hidden_sizes": [2.5]}, "hidden_sizes="),
    ({"hidden_sizes": 8}, "hidden_sizes"),
    ({"hidden_sizes": ["8"]}, "hidden_sizes="),
]


@pytest.mark.parametrize(("parameters", "message"), BAD, ids=lambda value: str(value)[:40])
def test_wrong_parameters_are_refused(make, digits, parameters, message):
    for method in ("fit", "partial_fit"):
        with pytest.raises(ValueError, match=message):
            getattr(make(**parameters), method)(digits[:100])


@pytest.mark.skipif(torch.cuda.is_available(), reason="only without a GPU")
def test_a_gpu_that_is_not_there_is_said(make, digits):
    with pytest.raises(ValueError, match="device='cuda', but torch sees no GPU; use 'auto'"):
        make(device="cuda").fit(digits[:100])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(make, gated, digits, value):
    X = digits[:100].copy()
    X[3, 5] = value
    for call in (make().fit, make().partial_fit, gated.transform, gated.score_samples):
        for data in (X, sparse.csr_array(X)):
            with pytest.raises(ValueError, match=r"contains (NaN|infinity)"):
                call(data)


def test_data_out_of_the_likelihoods_range_are_refused(make, digits):
    needs = r"likelihood='bernoulli' needs data in \[0, 1\], but X ranges from .* to 2\."
    coder = make(likelihood="bernoulli")
    with pytest.raises(ValueError, match=needs):
        coder.fit(digits[:100] * 2)
    coder.fit(digits[:100])
    for call in (coder.partial_fit, coder.score_samples):
        with pytest.raises(ValueError, match=needs):
            call(digits[:100] * 2)


def test_floats_up_to_255_are_refused_after_uint8(make, digits):
    images = as_uint8(digits[:200])
    coder = make(warm_start=True).fit(images)
    floats = images.astype(float)
    for call in (coder.transform, coder.score_samples, coder.partial_fit, coder.fit):
        for X in (floats, sparse.csr_array(floats)):
            with pytest.raises(ValueError, match=r"up to 255, but fit saw uint8.*divide X by 255"):
                call(X)
    assert coder.transform(floats / 255).shape == (200, 16)


def test_uint8_is_refused_after_floats_up_to_255(make, digits):
    images = as_uint8(digits[:200])
    coder = make().fit(images.astype(float))
    for call in (coder.transform, coder.score_samples, coder.partial_fit):
        with pytest.raises(ValueError, match="fit saw floats with a mean of up to"):
            call(images)


def test_another_number_of_features_is_refused(gated, digits):
    message = "X has 63 features, but SparseVAETransformer is expecting 64 features as input"
    for method in ("transform", "inclusion_proba", "score_samples"):
        with pytest.raises(ValueError, match=message):
            getattr(gated, method)(digits[:5, 1:])
    with pytest.raises(ValueError, match=r"codes have 15 columns, but .* has 16 components"):
        gated.inverse_transform(np.zeros((2, 15)))


def test_an_unfitted_estimator_says_so(make, digits, tmp_path):
    coder = make()
    for call in (
        lambda: coder.transform(digits[:5]),
        lambda: coder.inverse_transform(np.zeros((2, 16))),
        lambda: coder.inclusion_proba(digits[:5]),
        lambda: coder.score_samples(digits[:5]),
        lambda: coder.sample(),
        lambda: coder.get_feature_names_out(),
        lambda: coder.save(tmp_path / "model.safetensors"),
    ):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            call()
    assert not hasattr(coder, "components_")
    assert list(tmp_path.iterdir()) == []


def test_one_row_is_too_few_to_fit_and_enough_to_encode(make, gated, digits):
    with pytest.raises(ValueError, match=r"1 sample\(s\).* minimum of 2 is required"):
        make().fit(digits[:1])
    assert gated.transform(digits[:1]).shape == (1, 16)
    for method in ("fit", "transform"):
        with pytest.raises(ValueError, match=r"0 sample\(s\)"):
            getattr(gated if method == "transform" else make(), method)(digits[:0])


@pytest.mark.parametrize("n_rows", [2, 3, 5])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_handful_of_rows_is_enough(make, digits, n_rows, early_stopping):
    coder = make(early_stopping=early_stopping).fit(digits[:n_rows])
    assert np.isfinite(coder.score_samples(digits[:9])).all()
    assert coder.transform(digits[:9]).shape == (9, 16)


def test_more_latents_than_features_and_than_rows(make, digits):
    coder = make(n_components=100).fit(digits[:60, :10])
    assert coder.transform(digits[:60, :10]).shape == (60, 100)
    assert np.isfinite(coder.score(digits[:60, :10]))


@pytest.mark.parametrize("likelihood", ["auto", "bernoulli", "continuous_bernoulli"])
def test_constant_features_do_no_harm(make, digits, likelihood):
    X = digits[:150].copy()
    X[:, ::2] = 0.25
    coder = make(likelihood=likelihood, max_iter=5).fit(X)
    assert np.isfinite(coder.score_samples(X)).all()
    if likelihood == "auto":
        decoded = coder.inverse_transform(coder.transform(X))
        assert np.abs(decoded[:, ::2] - 0.25).mean() < np.abs(decoded[:, 1::2] - 0.25).mean()


@pytest.mark.parametrize("value", [0.0, 1.0, -7.5])
def test_data_without_any_variation_do_no_harm(make, value):
    X = np.full((150, 6), value)
    coder = make().fit(X)
    assert np.isfinite(dense(coder.transform(X))).all()
    assert np.isfinite(coder.score_samples(X)).all()
    np.testing.assert_allclose(coder.inverse_transform(coder.transform(X)), X, atol=0.2)


def test_a_large_offset_and_scale_do_not_matter(make, digits):
    X = digits[:200].astype(np.float64)
    one, other = make().fit(X), make().fit(1000 * X + 5000)
    kept = dense(one.transform(X)) != 0
    moved = dense(other.transform(1000 * X + 5000)) != 0
    assert (kept == moved).mean() > 0.99


# -- estimator ---------------------------------------------------------------------------------


def test_attributes_after_fit(fitted, digits):
    assert fitted.n_features_in_ == 64
    assert fitted.n_iter_ == len(fitted.history_) == 2
    assert not hasattr(fitted, "feature_names_in_")
    assert fitted.likelihood_ in ("gaussian", "bernoulli", "continuous_bernoulli")
    np.testing.assert_allclose(fitted.mean_, digits[:500].mean(0), atol=0.1)
    assert fitted.density_ == pytest.approx(1 - fitted.p, abs=1e-3)
    assert fitted.image_options_ is None
    for epoch, record in enumerate(fitted.history_, 1):
        assert record.epoch == epoch
        parts = (record.loss, record.rate_slab, record.rate_spike, record.distortion)
        assert np.isfinite(parts).all()
        assert record.seconds > 0
        assert 0 <= record.dead <= 16


def test_names_of_the_codes(gated):
    names = gated.get_feature_names_out().tolist()
    assert names == [f"sparsevaetransformer{i}" for i in range(16)]


@pytest.mark.parametrize(
    ("container", "kind"), [("pandas", pd.DataFrame), ("polars", pl.DataFrame)]
)
def test_set_output(make, digits, container, kind):
    coder = make(sparse_output=False).set_output(transform=container)
    frame = coder.fit_transform(digits[:150])
    assert type(frame) is kind
    assert list(frame.columns) == coder.get_feature_names_out().tolist()
    plain = make(sparse_output=False).fit_transform(digits[:150])
    np.testing.assert_array_equal(frame.to_numpy(), plain)


def copies(coder, path):
    joblib.dump(coder, path)
    return {
        "pickle": pickle.loads(pickle.dumps(coder)),
        "copy": copy.deepcopy(coder),
        "joblib": joblib.load(path),
    }


def test_copies_encode_alike(fitted, digits, tmp_path):
    for name, other in copies(fitted, tmp_path / "model.joblib").items():
        assert same_bits(fitted.transform(digits[:50]), other.transform(digits[:50])), name
        assert other.history_ == fitted.history_


def test_copies_train_on_alike(make, digits, tmp_path):
    coder = make().partial_fit(digits[:200])
    others = copies(coder, tmp_path / "model.joblib")
    coder.partial_fit(digits[200:400])
    for name, other in others.items():
        other.partial_fit(digits[200:400])
        assert same_bits(coder.transform(digits[:50]), other.transform(digits[:50])), name
        assert other.history_[-1].loss == coder.history_[-1].loss


def test_a_clone_is_unfitted_and_has_the_parameters(fitted):
    other = clone(fitted)
    assert other.get_params() == fitted.get_params()
    assert not hasattr(other, "model_")


def test_partial_fit_learns_from_a_stream(make, digits):
    coder = make(p=0.8, batch_size=32)
    for start in list(range(0, 1600, 100)) * 2:
        coder.partial_fit(digits[start : start + 100])
    assert coder.n_iter_ == len(coder.history_) == 32
    assert coder.history_[-1].distortion < coder.history_[0].distortion
    # The running threshold follows the last batches: no calibration, so a wider margin.
    assert zero_fraction(coder.transform(digits[1600:])) == pytest.approx(0.8, abs=0.06)
    coder.partial_fit(digits[:1])
    assert coder.history_[-1].n_samples == 1


def test_the_rate_weighs_less_as_a_stream_goes_on(make, digits):
    coder = make(batch_size=50)
    betas = []
    for start in range(0, 1000, 250):
        record = coder.partial_fit(digits[start : start + 250]).history_[-1]
        betas.append((record.loss - record.distortion) / record.rate_slab)
    assert betas == pytest.approx([10 * 64 / n for n in (250, 500, 750, 1000)], rel=1e-3)
    # Epochs of a fit do not count as rows.
    coder.fit(digits[:600])
    assert coder.partial_fit(digits[600:1000]).n_samples_seen_ == 1000


def test_partial_fit_goes_on_from_fit(make, digits):
    coder = make().fit(digits[:500])
    before = coder.transform(digits[:20])
    coder.partial_fit(digits[500:700])
    assert coder.n_iter_ == 3
    assert not same_bits(before, coder.transform(digits[:20]))


def test_warm_start_goes_on(make, digits):
    X = digits[:500]
    coder = make(warm_start=True, max_iter=10).fit(X)
    first = coder.history_
    coder.fit(X)
    assert coder.history_[0].epoch == 1
    assert coder.history_[0].distortion < first[0].distortion
    assert coder.history_[-1].distortion < first[-1].distortion
    cold = make(max_iter=10)
    assert cold.fit(X).history_[0].loss == cold.fit(X).history_[0].loss == first[0].loss


@pytest.mark.parametrize(
    ("name", "value"), [("n_components", 8), ("p", 0.5), ("hidden_sizes", (4,))]
)
def test_training_cannot_go_on_with_another_model(make, digits, name, value):
    coder = make(warm_start=True).fit(digits[:200])
    coder.set_params(**{name: value})
    for method in ("fit", "partial_fit"):
        with pytest.raises(ValueError, match=f"{name} was .* and is .*{value}.* Set it back"):
            getattr(coder, method)(digits[:200])
    coder.set_params(warm_start=False).fit(digits[:200])
    assert getattr(coder, name) == value


def test_training_goes_on_with_the_networks_there_are_whatever_the_rows(make, digits):
    many = np.tile(digits[:1200], (10, 1))
    coder = make(warm_start=True, max_iter=1).fit(many)
    assert coder.model_.spec.decoder_sizes == (512,)
    assert coder.fit(digits[:200]).model_.spec.decoder_sizes == (512,)
    assert coder.partial_fit(digits[:200]).model_.spec.decoder_sizes == (512,)
    few = make(max_iter=1).fit(digits[:200])
    assert few.model_.spec.decoder_sizes == ()
    assert few.partial_fit(many).model_.spec.decoder_sizes == ()


def test_early_stopping_stops(make, digits):
    coder = make(max_iter=50, early_stopping=True, n_iter_no_change=2, tol=1e9).fit(digits[:500])
    assert coder.n_iter_ == 3
    assert all(record.validation_loss is not None for record in coder.history_)


@pytest.mark.parametrize("n_rows", [150, 500])
def test_max_time_ends_training(make, digits, n_rows):
    # Both with cross-fitting (150 rows), whose fits share the time, and without.
    coder = make(max_iter=10**6, max_time=1.0).fit(digits[:n_rows])
    assert 1 <= coder.n_iter_ < 10**6
    assert sum(record.seconds for record in coder.history_) < 30
    assert coder.transform(digits[:5]).shape == (5, 16)


def test_grid_search_over_p_in_a_pipeline(make, digits):
    y = (digits[:240].sum(1) > np.median(digits[:240].sum(1))).astype(int)
    pipeline = make_pipeline(make(batch_size=16, max_iter=10), LogisticRegression())
    search = GridSearchCV(pipeline, {"sparsevaetransformer__p": [0.5, 0.9]}, cv=2)
    search.fit(digits[:240], y)
    assert search.best_params_["sparsevaetransformer__p"] in (0.5, 0.9)
    assert search.best_score_ > 0.6
    assert search.predict(digits[:7]).shape == (7,)


def test_progress_goes_to_stderr(make, digits, capfd):
    make(verbose=1).fit(digits[:150])
    out, err = capfd.readouterr()
    assert out == ""
    assert "training: epoch 2  loss" in err
    assert "calibrating 5/5" in err
    make().fit(digits[:150])
    assert capfd.readouterr() == ("", "")


# -- decoding and density ----------------------------------------------------------------------


def test_codes_decode_alike_compressed_or_not(fitted, digits):
    codes = fitted.transform(digits[:60])
    decoded = fitted.inverse_transform(codes)
    assert decoded.shape == (60, 64)
    assert decoded.dtype == np.float32
    assert np.isfinite(decoded).all()
    assert np.array_equal(decoded, fitted.inverse_transform(dense(codes)))
    assert np.array_equal(decoded, fitted.inverse_transform(dense(codes).tolist()))
    if fitted.likelihood_ != "gaussian":
        assert decoded.min() >= 0
        assert decoded.max() <= 1


def test_decoding_is_better_than_the_mean(make, digits):
    coder = make(n_components=64, p=0.5, max_iter=20, batch_size=32).fit(digits[:1200])
    X = digits[1200:]
    error = ((coder.inverse_transform(coder.transform(X)) - X) ** 2).mean()
    assert error < 0.5 * ((X - X.mean(0)) ** 2).mean()


def test_components_are_what_each_latent_adds(make, digits):
    for posterior in ("spike_slab", "gaussian"):
        coder = make(posterior=posterior, hidden_sizes=()).fit(digits[:200])
        codes = coder.transform(digits[:30])
        assert coder.components_.shape == (16, 64)
        offset = coder.inverse_transform(np.zeros((1, 16)))
        np.testing.assert_allclose(
            coder.inverse_transform(codes), codes @ coder.components_ + offset, atol=1e-5
        )


def test_components_of_bernoulli_models_are_logits(make, digits):
    coder = make(likelihood="bernoulli", hidden_sizes=()).fit(digits[:200])
    codes = dense(coder.transform(digits[:30]))
    offset = np.log(coder.inverse_transform(np.zeros((1, 16))).astype(float))
    offset -= np.log1p(-np.exp(offset))
    decoded = 1 / (1 + np.exp(-(codes @ coder.components_ + offset)))
    np.testing.assert_allclose(coder.inverse_transform(codes), decoded, atol=1e-4)


def test_components_need_a_linear_decoder(make, digits):
    coder = make(hidden_sizes=(5,)).fit(digits[:200])
    with pytest.raises(AttributeError, match=r"only for a linear decoder.*hidden_sizes=\(\)"):
        _ = coder.components_


def test_inclusion_is_likelier_than_not_where_the_code_is_not_zero(fitted, digits):
    proba = fitted.inclusion_proba(digits[:100])
    codes = dense(fitted.transform(digits[:100]))
    assert proba.shape == (100, 16)
    assert proba.dtype == np.float32
    assert ((proba >= 0) & (proba <= 1)).all()
    if fitted.posterior == "spike_slab":
        assert np.array_equal(proba > 0.5, codes != 0)
    if fitted.p == 0:
        assert (proba == 1).all()


def test_bounds_are_finite_and_of_each_row_alone(fitted, digits):
    X = digits[:30]
    bounds = fitted.score_samples(X)
    assert bounds.shape == (30,)
    assert bounds.dtype == np.float64
    assert np.isfinite(bounds).all()
    alone = [fitted.score_samples(row[None])[0] for row in X[:5]]
    np.testing.assert_allclose(bounds[:5], alone, rtol=1e-8)
    assert np.array_equal(bounds, fitted.score_samples(X))
    assert fitted.score(X) == pytest.approx(bounds.mean())


def test_rows_unlike_the_training_rows_score_lower(make, digits):
    coder = make(max_iter=10).fit(digits[:1000])
    noise = np.random.default_rng(0).permuted(digits[1000:1100], axis=1)
    assert coder.score(digits[1000:1100]) > coder.score(noise) + 10


def test_samples(fitted):
    before = torch.random.get_rng_state()
    samples = fitted.sample(20, random_state=0)
    assert samples.shape == (20, 64)
    assert samples.dtype == np.float32
    assert np.isfinite(samples).all()
    assert np.array_equal(samples, fitted.sample(20, random_state=0))
    assert not np.array_equal(samples, fitted.sample(20, random_state=1))
    assert fitted.sample().shape == (1, 64)
    assert torch.equal(torch.random.get_rng_state(), before)
    with pytest.raises(ValueError, match="n_samples=0 must be at least 1"):
        fitted.sample(0)


# -- own networks ------------------------------------------------------------------------------


def own_networks(n_features=64, k=16):
    generator = torch.Generator().manual_seed(0)
    encoder = nn.Sequential(nn.Linear(n_features, 20), nn.Tanh(), nn.Linear(20, 2 * k))
    decoder = nn.Linear(k, n_features)
    with torch.no_grad():
        for parameter in [*encoder.parameters(), *decoder.parameters()]:
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return {"encoder": encoder, "decoder": decoder}


def test_own_networks_are_copied_and_not_changed(make, digits):
    networks = own_networks()
    before = copy.deepcopy([network.state_dict() for network in networks.values()])
    coder = make(**networks, p=0.5).fit(digits[:500])
    for network, state in zip(networks.values(), before, strict=True):
        for name, value in network.state_dict().items():
            assert torch.equal(value, state[name])
        assert network.training
        assert all(parameter.grad is None for parameter in network.parameters())
    trained = coder.model_.decoder.weight
    assert not torch.equal(trained, networks["decoder"].weight)
    assert coder.components_.shape == (16, 64)
    assert zero_fraction(coder.transform(digits[500:])) == pytest.approx(0.5, abs=0.05)
    assert same_bits(
        coder.transform(digits[:9]), clone(coder).fit(digits[:500]).transform(digits[:9])
    )


def test_weights_shared_between_own_networks_stay_shared(make, digits):
    class Transposed(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, z):
            return z @ self.layer.weight[:16]

    layer = nn.Linear(64, 32, bias=False)
    coder = make(encoder=layer, decoder=Transposed(layer)).fit(digits[:150])
    model = coder.model_
    assert model.encoder.module.weight is model.decoder.layer.weight
    assert coder.transform(digits[:9]).shape == (9, 16)


@pytest.mark.parametrize(
    ("name", "network", "message"),
    [
        ("encoder", nn.Linear(64, 16), r"encoder must map .* to \(\d+, 32\).*got \(\d+, 16\)"),
        ("decoder", nn.Linear(16, 1), r"decoder must map .* to \(\d+, 64\).*got \(\d+, 1\)"),
    ],
)
def test_own_networks_of_the_wrong_shape_are_refused(make, digits, name, network, message):
    with pytest.raises(ValueError, match=message):
        make(**{**own_networks(), name: network}).fit(digits[:150])


@pytest.mark.parametrize("shape", [(4, 16), [8, 4, 2], (5, 6, 2)])
def test_convolutional_networks_take_any_shape(make, digits, shape):
    X = digits[:100, : np.prod(shape)]
    coder = make(image_shape=shape, p=0.5, batch_size=100).fit(X)
    assert coder.inverse_transform(coder.transform(X)).shape == X.shape
    assert any(isinstance(layer, nn.Conv2d) for layer in coder.model_.modules())


def test_a_feature_that_drowns_the_others_is_named():
    x = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnscaledFeatureWarning)
        SparseVAETransformer(4, 0.5, max_iter=1).fit(x)
    x[:, 3] *= 10
    with pytest.warns(UnscaledFeatureWarning, match=r"feature 3 holds 9\d\.\d% .*StandardScaler"):
        SparseVAETransformer(4, 0.5, max_iter=1).fit(x)


# -- GPU ---------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("parameters", [{}, {"posterior": "gaussian"}, {"image_shape": (8, 8)}])
def test_a_model_from_the_gpu_encodes_alike_on_the_cpu(make, digits, tmp_path, parameters):
    coder = make(device="cuda", **parameters).fit(digits[:500])
    assert same_bits(
        coder.transform(digits),
        make(device="cuda", **parameters).fit(digits[:500]).transform(digits),
    )
    coder.save(tmp_path / "model.safetensors")
    on_gpu = dense(coder.transform(digits))
    for other in (
        SparseVAETransformer.load(tmp_path / "model.safetensors", device="cpu"),
        pickle.loads(pickle.dumps(coder)),
    ):
        assert other.model_.scale.device.type == "cpu"
        on_cpu = dense(other.transform(digits))
        assert np.array_equal(on_cpu == 0, on_gpu == 0)
        np.testing.assert_allclose(on_cpu, on_gpu, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(
            other.score_samples(digits[:9]), coder.score_samples(digits[:9]), rtol=1e-6
        )
