import dataclasses

import numpy as np
import pytest
from scipy.sparse import csr_array

from sparsecode.codes import SparseCodes


@pytest.fixture
def codes():
    matrix = csr_array(np.array([[0, 1, 2], [0, 0, 0], [3, 0, 0]], dtype=np.float32))
    names = np.array(["a/1.png", "a/2.png", "b/1.png"], dtype=object)
    obs = {"label": np.array(["a", "a", "b"], dtype=object)}
    return SparseCodes(matrix, names, obs, {"dead": np.zeros(3, dtype=bool)})


def test_shape_and_columns(codes):
    assert codes.shape == (3, 3)
    assert len(codes) == 3
    assert codes.n_latents == 3
    assert list(codes.labels) == ["a", "a", "b"]
    assert SparseCodes(codes.matrix, codes.names).labels is None


def test_active_indices(codes):
    assert [codes.active_indices(i).tolist() for i in (0, 1, 2, -1, -3)] == [
        [1, 2],
        [],
        [0],
        [0],
        [1, 2],
    ]
    for i in (3, -4):
        with pytest.raises(IndexError, match=f"row {i} is out of range: there are 3 rows"):
            codes.active_indices(i)


def test_active_indices_pass_over_stored_zeros(codes):
    codes.matrix.data[0] = 0
    assert codes.active_indices(0).tolist() == [2]


def test_repr_says_what_it_is(codes):
    assert repr(codes) == (
        "SparseCodes: 3 samples x 3 latents, 33.33% non-zero; obs columns: label"
    )


def test_columns_must_fit(codes):
    for change in ({"names": codes.names[:2]}, {"obs": {"label": [1]}}, {"var": {"dead": [1]}}):
        with pytest.raises(ValueError, match=r"entries, but the matrix has shape \(3, 3\)"):
            dataclasses.replace(codes, **change)


def test_frozen(codes):
    with pytest.raises(dataclasses.FrozenInstanceError):
        codes.names = []
