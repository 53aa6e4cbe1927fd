"""Features to compare codes with, that need only the inputs: raw, PCA, dictionary learning."""

from collections.abc import Iterable

import numpy as np
from sklearn.decomposition import PCA, MiniBatchDictionaryLearning

from sparsecode.probe.linear import Features

SIMPLE = ("raw", "pca", "dictionary")


def simple_baselines(
    X: Features, n_components: int, l0: float, names: Iterable[str] = ("raw", "pca"), seed: int = 0
) -> dict[str, Features]:
    """Compute baseline features of the rows; nothing here looks at labels.

    Parameters
    ----------
    X : ndarray or csr_array of shape (n_samples, n_features)
        uint8 is scaled to [0, 1].
    n_components : int
        Latents of the codes; PCA has at most as many as X allows.
    l0 : float
        Non-zeros per code, for the dictionary's.
    names : iterable of {"raw", "pca", "dictionary"}
        "dictionary" is `sklearn.decomposition.MiniBatchDictionaryLearning`: slow.
    seed : int, default=0

    Returns
    -------
    dict of str to ndarray
        Features by what to call them in a table.
    """
    names = set(names)
    if unknown := names - set(SIMPLE):
        raise ValueError(f"unknown baselines {sorted(unknown)}; known are {', '.join(SIMPLE)}")
    dense = X if isinstance(X, np.ndarray) else X.toarray()
    scale = np.float32(255 if dense.dtype == np.uint8 else 1)
    dense = dense.astype(np.float32) / scale
    features: dict[str, Features] = {}
    if "raw" in names:
        features["raw inputs"] = dense
    if "pca" in names:
        n = min(n_components, *dense.shape)
        features[f"PCA, {n}"] = PCA(n, svd_solver="covariance_eigh").fit_transform(dense)
    if "dictionary" in names:
        features[f"dictionary learning, {n_components}"] = _dictionary(
            dense, n_components, max(1, round(l0)), seed
        )
    return features


def _dictionary(X: np.ndarray, n_components: int, l0: int, seed: int) -> np.ndarray:
    learner = MiniBatchDictionaryLearning(
        n_components, batch_size=256, max_iter=10, transform_algorithm="omp",
        transform_n_nonzero_coefs=l0, random_state=seed,
    )  # fmt: skip
    return learner.fit_transform(X - X.mean(0)).astype(np.float32)
