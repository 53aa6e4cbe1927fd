import numpy as np
import pytest
from scipy import sparse
from sklearn.calibration import calibration_curve
from sklearn.metrics import r2_score

from sparsecode import diagnostics
from sparsecode.diagnostics.reconstruction import without_entries


def decoder(k, d=7):
    weight = np.random.default_rng(0).normal(size=(k, d))
    return lambda codes: np.tanh(codes @ weight) + codes @ weight[:, ::-1]


def test_explained_variance_against_sklearn():
    X = np.random.default_rng(0).normal(size=(50, 4))
    X_hat = X + np.random.default_rng(1).normal(size=(50, 4)) / 3
    error, variation = ((X - X_hat) ** 2).sum(0), ((X - X.mean(0)) ** 2).sum(0)
    expected = np.average(r2_score(X, X_hat, multioutput="raw_values"), weights=variation)
    assert diagnostics.explained_variance(X, X_hat) == pytest.approx(expected)
    assert diagnostics.explained_variance(X, X_hat) == pytest.approx(
        1 - error.sum() / variation.sum()
    )
    assert np.isnan(diagnostics.explained_variance(np.ones((3, 2)), np.zeros((3, 2))))
    with pytest.raises(ValueError, match="differ"):
        diagnostics.explained_variance(X, X[:, :2])


def test_removed_by_brute_force(codes, as_csr, monkeypatch):
    monkeypatch.setattr("sparsecode.diagnostics.reconstruction._BLOCK", 17)
    decode = decoder(codes.shape[1])
    X = decode(codes) + np.random.default_rng(1).normal(size=(len(codes), 7)) / 2
    got = diagnostics.explained_variance_removed(as_csr(codes), X, decode)
    for j in range(codes.shape[1]):
        removed = codes.copy()
        removed[:, j] = 0
        with_it = diagnostics.explained_variance(X, decode(codes))
        without = diagnostics.explained_variance(X, decode(removed))
        assert got[j] == pytest.approx(with_it - without, abs=1e-9, nan_ok=True)


def test_without_entries_leaves_the_input_alone():
    matrix = sparse.csr_array([[1.0, 2.0, 0.0], [0.0, 3.0, 4.0]])
    got = without_entries(matrix, np.array([1, 3]))
    np.testing.assert_array_equal(got.toarray(), [[1, 0, 0], [0, 3, 0]])
    np.testing.assert_array_equal(matrix.toarray(), [[1, 2, 0], [0, 3, 4]])


def test_reliability_against_sklearn():
    rng = np.random.default_rng(0)
    proba = rng.random((40, 50))
    happened = rng.random((40, 50)) < proba**1.5
    curve = diagnostics.reliability(proba, happened)
    observed, predicted = calibration_curve(happened.ravel(), proba.ravel(), n_bins=10)
    np.testing.assert_allclose(curve.observed, observed)
    np.testing.assert_allclose(curve.predicted, predicted)
    assert curve.counts.sum() == 2000
    expected = np.average(np.abs(observed - predicted), weights=curve.counts)
    assert curve.error == pytest.approx(expected)


def test_reliability_of_a_calibrated_forecast_is_small():
    # 20,000 events in 10 bins: the error is near .009 by chance, above .02 in no seed of 1,000.
    rng = np.random.default_rng(0)
    proba = rng.random(20_000)
    assert diagnostics.reliability(proba, rng.random(20_000) < proba).error < 0.02


def test_reliability_has_empty_bins_and_checks_its_input():
    curve = diagnostics.reliability([0.0, 1.0], [False, True], n_bins=4)
    np.testing.assert_array_equal(np.isnan(curve.predicted), [False, True, True, False])
    assert curve.error == 0
    for proba, happened in (([0.5], [1, 0]), ([], [])):
        with pytest.raises(ValueError, match="do not go together"):
            diagnostics.reliability(proba, happened)
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        diagnostics.reliability([np.nan], [True])


def test_latent_changes_by_brute_force(codes):
    k = codes.shape[1]
    decode = decoder(k)
    top = diagnostics.top_samples(codes, 3)
    latents = np.arange(k)[::-1]
    got = diagnostics.latent_changes(sparse.csr_array(codes), latents, top[latents], decode)
    for latent, change in zip(latents, got, strict=True):
        rows = codes[top[latent][top[latent] >= 0]]
        if not len(rows):
            rows = np.eye(1, k, latent)
        without = rows.copy()
        without[:, latent] = 0
        np.testing.assert_allclose(change, (decode(rows) - decode(without)).mean(0), atol=1e-9)
