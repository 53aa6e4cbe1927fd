"""Predictions from nearest neighbours, by cosine and by Euclidean distance."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sparsecode.probe.linear import Features

# Test rows whose products with all training rows are held at once.
_BLOCK = 256


def neighbour_predictions(
    train: Features, y: NDArray[Any], test: Features, n_neighbours: int, is_regression: bool
) -> dict[str, NDArray[Any]]:
    """Predict by the majority, or the mean, of the nearest training rows.

    One product of the two matrices serves both metrics: half the work of a search for each.

    Parameters
    ----------
    train, test : ndarray or csr_array of shape (n, n_features)
    y : ndarray of shape (n_train,)
        Of the training rows.
    n_neighbours : int
        At least 1, at most n_train.
    is_regression : bool
        Mean instead of majority; of equal votes, the first class wins.

    Returns
    -------
    dict of str to ndarray
        Predictions (n_test,) for "cosine" and "L2".
    """
    squares = _squares(train)
    transposed = sparse.csr_array(train.T) if sparse.issparse(train) else train.T
    lengths = np.sqrt(np.where(squares > 0, squares, 1)).astype(np.float32)
    classes, votes = (None, y) if is_regression else np.unique(y, return_inverse=True)
    found: dict[str, list[NDArray[Any]]] = {"cosine": [], "L2": []}
    for start in range(0, test.shape[0], _BLOCK):
        products: Any = test[start : start + _BLOCK] @ transposed
        products = products.toarray() if sparse.issparse(products) else products
        distances = {"cosine": -products / lengths, "L2": squares.astype(np.float32) - 2 * products}
        for metric, distance in distances.items():
            nearest = np.argpartition(distance, n_neighbours - 1, axis=1)[:, :n_neighbours]
            found[metric].append(_decide(votes[nearest], classes))
    return {metric: np.concatenate(parts) for metric, parts in found.items()}


def _squares(x: Features) -> NDArray[np.float64]:
    if not isinstance(x, np.ndarray):
        return np.asarray(x.multiply(x).sum(axis=1), dtype=np.float64).ravel()
    return np.einsum("ij,ij->i", x, x, dtype=np.float64)


def _decide(votes: NDArray[Any], classes: NDArray[Any] | None) -> NDArray[Any]:
    if classes is None:
        return votes.mean(axis=1)
    n, c = len(votes), len(classes)
    cell = (np.arange(n)[:, None] * c + votes).ravel()
    return classes[np.bincount(cell, minlength=n * c).reshape(n, c).argmax(axis=1)]
