"""Codes that the tests of all measures share: random, structured, degenerate."""

import numpy as np
import pytest
from scipy import sparse


def _random(n, k, density, seed):
    rng = np.random.default_rng(seed)
    return rng.gamma(2.0, size=(n, k)) * (rng.random((n, k)) < density)


def _cases():
    mixed = _random(60, 9, 0.3, 1)
    mixed[:, 3] = 0  # a dead latent
    mixed[:, 4] = 2.5  # constant, always on
    mixed[10:13] = 0  # empty rows
    mixed[:, 6] = mixed[:, 5]  # a twin
    return {
        "random": _random(200, 12, 0.3, 0),
        "mixed": mixed,
        "signed": _random(80, 6, 0.5, 2) * np.random.default_rng(3).choice([-1, 1], (80, 6)),
        "dense": _random(50, 5, 1.0, 4),
        "one row": _random(1, 8, 0.5, 5),
        "one latent": _random(40, 1, 0.5, 6),
        "all zero": np.zeros((7, 4)),
        "single value": np.eye(1, 5, 2),
        "identity": np.eye(6),
        "tiny": _random(30, 5, 0.4, 7) * 1e-30,
    }


CASES = _cases()


@pytest.fixture(params=CASES.values(), ids=CASES)
def codes(request):
    """One dense matrix of codes; `as_csr` makes it sparse with stored zeros."""
    return request.param.copy()


@pytest.fixture
def as_csr():
    """Turn a dense matrix into CSR with a stored zero wherever the first row has one."""

    def convert(dense):
        stored = dense.copy()
        stored[0, stored[0] == 0] = 7.0
        matrix = sparse.csr_array(stored)
        matrix.data[: matrix.indptr[1]][dense[0] == 0] = 0.0
        return matrix

    return convert
