import numpy as np
import pytest
from scipy import sparse
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from sparsecode.probe.neighbours import neighbour_predictions


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("n_neighbours", [1, 5])
def test_against_sklearn(labelled, form, n_neighbours, monkeypatch):
    monkeypatch.setattr("sparsecode.probe.neighbours._BLOCK", 64)
    codes, y = labelled[0].toarray(), labelled[1]
    # Codes of one or two non-zeros are parallel to many others: ties, to be cut either way.
    kept = np.count_nonzero(codes, axis=1) >= 4
    train, test = codes[kept][:500], codes[kept][500:]
    labels = y[kept][:500]
    assert len(test) > 100
    for is_regression, kind in ((False, KNeighborsClassifier), (True, KNeighborsRegressor)):
        got = neighbour_predictions(form(train), labels, form(test), n_neighbours, is_regression)
        for metric, name in (("cosine", "cosine"), ("L2", "euclidean")):
            model = kind(n_neighbours, metric=name, algorithm="brute").fit(train, labels)
            np.testing.assert_allclose(got[metric], model.predict(test))


def test_an_empty_code_has_no_direction():
    train = sparse.csr_array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    got = neighbour_predictions(train, np.array([0, 1, 2]), train[1:], 1, False)
    np.testing.assert_array_equal(got["cosine"], [1, 2])
