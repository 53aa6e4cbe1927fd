import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import mutual_info_score

from sparsecode import diagnostics


def test_entropy_against_scipy(codes, as_csr):
    frequency = (codes != 0).mean(axis=0)
    expected = stats.entropy([frequency, 1 - frequency], base=2)
    np.testing.assert_allclose(diagnostics.activation_entropy(as_csr(codes)), expected, atol=1e-12)


@pytest.mark.parametrize("kind", ["text", "numbers", "one class"])
def test_mutual_information_against_sklearn(codes, as_csr, kind):
    rng = np.random.default_rng(0)
    labels = {
        "text": rng.choice(["a", "b", "long name"], len(codes)).astype(object),
        "numbers": rng.integers(-3, 3, len(codes)),
        "one class": np.zeros(len(codes)),
    }[kind]
    got = diagnostics.mutual_information(as_csr(codes), labels)
    for column, bits in zip(codes.T, got, strict=True):
        expected = mutual_info_score(labels, column != 0) / np.log(2)
        assert bits == pytest.approx(expected, abs=1e-9)


def test_shares_by_label_by_hand():
    codes = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, 0.0]])
    by_label = diagnostics.activation_by_label(codes, ["b", "b", "a", "b"])
    assert list(by_label.classes) == ["a", "b"]
    assert list(by_label.counts) == [1, 3]
    np.testing.assert_allclose(by_label.shares, [[0, 2 / 3], [1, 0]])


def test_a_latent_that_is_the_label_tells_all_of_it():
    labels = np.tile([0, 1], 50)
    told = diagnostics.mutual_information(np.column_stack([labels * 2.0, np.ones(100)]), labels)
    assert list(told) == pytest.approx([1.0, 0.0])


def test_labels_must_fit():
    with pytest.raises(ValueError, match="there are 2 samples"):
        diagnostics.mutual_information(np.eye(2), [1, 2, 3])
