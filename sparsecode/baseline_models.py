"""Baselines of the probe that are networks: the same model untrained, and a dense VAE."""

import copy
from os import PathLike
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparsecode.gate import exact_threshold
from sparsecode.loader import as_rows, moments
from sparsecode.probe.linear import Features
from sparsecode.transformer import SparseVAETransformer

_CALIBRATION_ROWS = 4096


def learned_baselines(
    X: Any, n_components: int, names: list[str], model: str | PathLike[str] | None, seed: int = 0
) -> tuple[dict[str, Features], dict[str, str]]:
    """Compute features of rows by networks, without labels.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        The inputs.
    n_components : int
        Latents of the dense VAE.
    names : list of {"untrained", "dense"}
    model : path-like or None
        The model whose untrained twin is wanted.
    seed : int, default=0

    Returns
    -------
    features : dict of str to array of shape (n_samples, n_components)
    missing : dict of str to str
        What could not be computed, and why.
    """
    features: dict[str, Features] = {}
    missing: dict[str, str] = {}
    if "untrained" in names:
        name = "same network, untrained"
        if model is None:
            missing[name] = "needs the model (-m)"
        else:
            trained = SparseVAETransformer.load(model)
            features[name] = untrained_twin(trained, X, seed).transform(X)
    if "dense" in names:
        dense = SparseVAETransformer(
            n_components, p=0.0, sparse_output=False, random_state=seed
        ).fit(X)
        features[f"dense VAE mean, {n_components}"] = dense.transform(X)
    return features, missing


def untrained_twin(
    transformer: SparseVAETransformer, X: NDArray[Any], seed: int = 0
) -> SparseVAETransformer:
    """Return a copy of an estimator with the weights it would start training with.

    Its gate closes a fraction p of the scores of the first rows, as that of the trained one does.
    """
    twin = copy.deepcopy(transformer).set_params(sparse_output=True)
    model = twin.model_
    with torch.no_grad():
        rows = as_rows(twin._validate(X, reset=False), model.scale.device)
        index = torch.arange(min(rows.n_rows, _CALIBRATION_ROWS), device=model.scale.device)
        mean, variance = moments(rows, index)
        cpu = model.cpu()
        cpu.initialise_(mean.cpu(), variance.cpu(), torch.Generator().manual_seed(seed))
        cpu.gate.usage.fill_(1 - model.spec.spike_weight)
        loc, _ = cpu.heads(rows.batch(index).cpu())
        scores = cpu.gate.scores(loc).numpy().astype(np.float64)
        cpu.gate.threshold.fill_(exact_threshold(scores, model.spec.spike_weight))
        model.to(rows.batch(index[:1]).device)
    return twin
