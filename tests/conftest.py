"""Small data and fitted models that several test files share."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from sparsecode import SparseVAETransformer

SMALL = {"n_components": 16, "max_iter": 2, "batch_size": 64, "random_state": 0}
CONFIGS = {
    "gated": {},
    "gated, MLP": {"hidden_sizes": (12,), "p": 0.5},
    "gated, signed": {"p": 0.3},
    "gated, dense output": {"sparse_output": False},
    "gaussian": {"posterior": "gaussian", "hidden_sizes": (12,)},
    "gaussian, Monte Carlo": {"posterior": "gaussian", "kl": "monte_carlo", "kl_samples": 2},
    "normal prior": {"posterior": "gaussian", "prior": "normal", "hidden_sizes": ()},
    "laplace prior": {"posterior": "gaussian", "prior": "laplace", "hidden_sizes": ()},
    "bernoulli": {"likelihood": "bernoulli"},
    "continuous bernoulli": {"likelihood": "continuous_bernoulli", "beta": 0.5},
    "dense": {"p": 0.0},
    "dense, gaussian": {"p": 0.0, "posterior": "gaussian", "hidden_sizes": ()},
    "convolutional": {"image_shape": (8, 8)},
    "early stopping": {"early_stopping": True, "n_iter_no_change": 1},
}


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Keep tests that run side by side from waiting for each other; small models gain nothing."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits():
    """1797 digits of 8 x 8 pixels in [0, 1], shuffled; read-only, for every test sees them."""
    X = load_digits().data[np.random.default_rng(0).permutation(1797)] / 16
    X = X.astype(np.float32)
    X.setflags(write=False)
    return X


@pytest.fixture
def make():
    """Make a small, fast estimator; keyword arguments override."""
    return lambda **parameters: SparseVAETransformer(**{**SMALL, **parameters})


@pytest.fixture(scope="session", params=CONFIGS.values(), ids=CONFIGS)
def fitted(request, digits):
    """Return one fitted estimator of each kind, not to be changed by a test."""
    return SparseVAETransformer(**{**SMALL, **request.param}).fit(digits[:500])


@pytest.fixture(scope="session")
def gated(digits):
    """Fitted estimator of the default kind, not to be changed by a test."""
    return SparseVAETransformer(**SMALL).fit(digits[:500])
