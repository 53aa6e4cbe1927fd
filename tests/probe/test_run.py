import json
from io import StringIO

import numpy as np
import pytest
from rich.console import Console
from scipy import sparse
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.preprocessing import StandardScaler

from sparsecode import SparseCodes
from sparsecode.errors import RefusedError
from sparsecode.probe import probe
from sparsecode.probe.linear import STRENGTHS, scaled
from sparsecode.probe.run import _split


@pytest.fixture(scope="module")
def result(labelled):
    codes, y = labelled
    noise = np.random.default_rng(1).normal(size=(len(y), 4)).astype(np.float32)
    return probe(codes, y, baselines={"noise": noise}, missing={"magic": "not invented"})


def test_accuracy_is_within_a_fifth_of_a_point_of_sklearns_best_c(labelled, result):
    codes, y = labelled
    split = _split(y, None, is_regression=False, seed=0)
    x = StandardScaler(with_mean=False).fit(codes[split.train]).transform(codes)
    accuracy = {}
    for C in STRENGTHS:
        model = LogisticRegression(C=C, max_iter=1000)
        held_out = model.fit(x[split.fit], y[split.fit]).score(
            x[split.validation], y[split.validation]
        )
        accuracy[C] = (
            held_out,
            model.fit(x[split.train], y[split.train]).score(x[split.test], y[split.test]),
        )
    best = max(accuracy.values())[1]
    assert abs(result.codes.linear.value - best) <= 0.002


def test_scores_beat_chance_and_noise_does_not(result):
    # 300 test rows of 5 classes: noise is right in 20 % ± 2.3 %, above 30 % in 1 seed of 10^5.
    chance, noise = result.baselines
    assert result.codes.linear.value > 0.7
    assert min(result.codes.cosine.value, result.codes.l2.value) > 0.4
    assert noise.linear.value < 0.3
    assert chance.name == "chance"
    assert chance.linear.value < 0.25
    assert result.missing == {"magic": "not invented"}


def test_intervals_confusion_and_classes(labelled, result):
    n = result.n_test
    assert (result.n_train, n) == (1200, 300)
    right = result.confusion.diagonal().sum()
    assert right / n == pytest.approx(result.codes.linear.value)
    low, high = binomtest(int(right), n).proportion_ci(method="wilson")
    assert (result.codes.linear.low, result.codes.linear.high) == pytest.approx((low, high))
    split = _split(labelled[1], None, is_regression=False, seed=0)
    np.testing.assert_array_equal(
        result.confusion.sum(axis=1), np.bincount(labelled[1][split.test])
    )
    first = result.confusion[0, 0] / result.confusion[0].sum()
    assert result.per_class["0"] == pytest.approx(first)


def test_splits_are_disjoint_and_stratified(labelled):
    _, y = labelled
    split = _split(y, None, is_regression=False, seed=3)
    parts = [split.fit, split.validation, split.test]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(y)))
    shares = [np.bincount(y[part]) / len(part) for part in parts]
    np.testing.assert_allclose(shares[1:], [shares[0]] * 2, atol=0.01)


def test_more_latents_and_more_labels_help(result):
    assert [k for k, _ in result.k_sparse] == [1, 2, 5, 10, 20]
    values = [score.value for _, score in result.k_sparse]
    assert values[0] < values[2] < values[4] <= result.codes.linear.value + 0.02
    few = {row.n_labels: row.mean for row in result.few_labels}
    assert list(few) == [10, 30, 100, 300, 1000]
    assert few[10] < few[100] < few[1000]


def test_the_seed_decides_all(labelled):
    codes, y = labelled
    a, b, other = (probe(codes, y, seed=seed).to_dict() for seed in (4, 4, 5))
    for each in (a, b, other):
        each.pop("seconds")
        each["codes"].pop("seconds")
    assert a == b
    assert a["codes"] != other["codes"]


def test_a_perfect_latent_is_found_first():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 600)
    codes = rng.random((600, 9)) * (rng.random((600, 9)) < 0.3)
    codes[:, 7] = y * 2.0
    result = probe(sparse.csr_array(codes), y)
    assert result.k_sparse[0][1].value == 1.0


def test_text_labels_and_codes_that_bring_them(labelled):
    codes, y = labelled
    names = np.array([f"class {label}" for label in y], dtype=object)
    rows = np.array([str(i) for i in range(len(y))], dtype=object)
    own = probe(SparseCodes(codes, rows, {"label": names}))
    assert own.codes.linear == probe(codes, y).codes.linear
    assert own.classes[0] == "class 0"


def test_regression_of_numbers():
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(800, 6)) * (rng.random((800, 6)) < 0.5)
    y = codes @ [1.0, 2.0, 0, 0, 0, 0] + 0.1 * rng.normal(size=800)
    result = probe(sparse.csr_array(codes), y)
    assert result.metric == "R²"
    assert result.codes.linear.value > 0.98
    assert result.codes.linear.low < result.codes.linear.value < result.codes.linear.high
    assert abs(result.baselines[0].linear.value) < 0.05
    assert result.k_sparse[1][1].value > 0.98
    assert result.confusion is None
    assert result.per_class == {}
    json.loads(result.to_json())
    assert probe(codes, y > 0).metric == "accuracy"


def test_given_test_rows_are_used(labelled):
    codes, y = labelled
    test = np.arange(len(y)) >= 1000
    result = probe(codes, y, test=test)
    assert (result.n_train, result.n_test) == (1000, 500)


def test_views(result):
    console = Console(width=150, record=True, file=StringIO())
    console.print(result)
    text = console.export_text()
    for words in ("codes", "noise", "magic", "not invented", "Hardest class", "seed 0"):
        assert words in text
    assert "<table>" in result._repr_html_()
    plain = json.loads(result.to_json())
    assert plain["codes"]["linear"]["value"] == result.codes.linear.value
    assert np.array(plain["confusion"]).shape == (5, 5)


def test_scaling_uses_the_training_rows_alone(labelled):
    codes, _ = labelled
    train = np.arange(700)
    expected = codes.toarray() / codes[:700].toarray().std(axis=0)
    np.testing.assert_allclose(scaled(codes, train).toarray(), expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (None, "no labels"),
        (np.zeros(9), "9"),
        (np.r_[np.nan, np.zeros(39)], "NaN"),
        (np.r_[1, np.zeros(39)], "cannot be split"),
        (np.zeros(40), "two classes"),
    ],
)
def test_unfit_labels_are_refused(y, words):
    with pytest.raises(RefusedError, match=words):
        probe(np.eye(40), y)


def test_other_refusals(labelled):
    codes, y = labelled
    with pytest.raises(RefusedError, match="'raw' has 3 rows"):
        probe(codes, y, baselines={"raw": np.ones((3, 2))})
    with pytest.raises(RefusedError, match="needs numbers"):
        probe(codes, y.astype(str), task="regress")
    with pytest.raises(ValueError, match="NaN"):
        probe(np.full((40, 2), np.nan), np.arange(40) % 2)


def test_confusion_is_sklearns(labelled):
    codes, y = labelled
    result = probe(codes, y)
    split = _split(y, None, is_regression=False, seed=0)
    x = scaled(codes, split.train)
    model = LogisticRegression(C=result.codes.C, max_iter=1000).fit(x[split.train], y[split.train])
    expected = confusion_matrix(y[split.test], model.predict(x[split.test]))
    assert np.abs(expected - result.confusion).sum() <= 4
