"""The whole contract of a scikit-learn estimator; no check is expected to fail."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from sparsecode import SparseVAETransformer

SMALL = {"n_components": 4, "max_iter": 2, "batch_size": 256}
CONFIGURATIONS = [
    SparseVAETransformer(**SMALL),
    SparseVAETransformer(**SMALL, sparse_output=False, p=0.5, hidden_sizes=(6,)),
    SparseVAETransformer(**SMALL, posterior="gaussian", hidden_sizes=(6,), early_stopping=True),
    SparseVAETransformer(
        **SMALL, posterior="gaussian", prior="laplace", hidden_sizes=(), kl="monte_carlo", p=0.0
    ),
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@parametrize_with_checks(CONFIGURATIONS)
def test_estimator_contract(estimator, check):
    check(estimator)
