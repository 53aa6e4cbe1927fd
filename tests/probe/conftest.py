"""Codes whose labels are known to be readable."""

import numpy as np
import pytest
from scipy import sparse


@pytest.fixture(scope="session")
def labelled():
    """1,500 sparse codes of 30 latents in 5 classes; latent j is on more often in class j % 5."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 1500)
    proba = np.where(np.arange(30) % 5 == y[:, None], 0.5, 0.1)
    codes = (rng.random(proba.shape) < proba) * rng.gamma(2.0, size=proba.shape)
    return sparse.csr_array(codes.astype(np.float32)), y
