"""The registry: every line of the table, and what ``tune`` tries for it."""

from functools import partial
from typing import Any

from benchmarks.codes import autoencoders, ours, sklearn_peers, variational
from benchmarks.codes.protocol import Method, remember_last, truncated
from benchmarks.codes.training import fit_network

_SLOW_ROWS = 20_000

_AUTOENCODER: dict[str, Any] = {"lr": (4e-3, 1e-3, 2e-3, 8e-3, 1.6e-2)}
_VARIATIONAL: dict[str, Any] = {
    "lr": (1e-3, 2e-3, 4e-3),
    "beta": (1.0, 0.3),
    "hidden": (512, 0),
}
_DICTIONARY: dict[str, Any] = {"alpha": (1.0, 0.5, 2.0, 4.0), "steps": (1000, 3000)}
_fit_dense_vae = remember_last(partial(fit_network, variational.DenseVAE))


def _network(
    name: str, label: str, family: Any, build: Any, grid: dict[str, Any], **options: Any
) -> Method:
    return Method(name, label, family, partial(fit_network, build), grid, **options)


def _pair(name: str, label: str, family: Any, fit: Any, **options: Any) -> tuple[Method, Method]:
    """Make two lines of a dense method: as it is, and truncated to L0."""
    return (
        Method(name, f"{label}, dense", family, fit, **options),
        Method(
            f"{name}_truncated",
            f"{label}, truncated",
            family,
            truncated(fit),
            tuned_as=name,
            **options,
        ),
    )


_ALL = (
    Method("sparsecode", "sparsecode", "ours", ours.fit_ours),
    Method("sparsecode_refined", "sparsecode, refined", "ours", ours.fit_refined),
    Method(
        "sparsecode_exchanged",
        "sparsecode, refined, 4 exchanged",
        "ours",
        partial(ours.fit_refined, n_swaps=4),
    ),
    Method(
        "sparsecode_linear",
        "sparsecode, linear",
        "ours",
        partial(ours.fit_ours, hidden_sizes=()),
    ),
    _network("topk", "TopK SAE", "autoencoder", autoencoders.TopK, _AUTOENCODER),
    _network("batch_topk", "BatchTopK SAE", "autoencoder", autoencoders.BatchTopK, _AUTOENCODER),
    _network(
        "batch_topk_hidden",
        "BatchTopK, our network",
        "autoencoder",
        autoencoders.BatchTopKHidden,
        {"lr": (4e-3, 2e-3, 8e-3), "weight_decay": (0.0, 0.1, 1.0)},
        is_published=False,
    ),
    _network(
        "jumprelu",
        "JumpReLU SAE",
        "autoencoder",
        autoencoders.JumpReLU,
        {**_AUTOENCODER, "bandwidth": (0.3, 0.1, 1.0, 2.0)},
    ),
    _network("k_sparse", "k-sparse AE", "autoencoder", autoencoders.KSparse, _AUTOENCODER),
    # With the weight decay that our recipe has.
    _network(
        "k_sparse_decay",
        "k-sparse AE, decay, for probes",
        "autoencoder",
        autoencoders.KSparse,
        {"lr": (8e-3, 4e-3, 1.6e-2, 2e-3), "weight_decay": (0.1, 0.0, 0.3, 1.0)},
        tuned_for="probe",
        is_published=False,
    ),
    _network(
        "topk_mlp",
        "TopK AE, MLP",
        "autoencoder",
        autoencoders.TopKMlp,
        _AUTOENCODER,
        is_published=False,
    ),
    _network("vsc", "VSC", "variational", variational.VSC, _VARIATIONAL),
    _network(
        "vsc_threshold", "VSC, thresholded", "variational", variational.ThresholdedVSC, _VARIATIONAL
    ),
    _network("vaease", "VAEase", "variational", variational.VAEase, _VARIATIONAL),
    *_pair("vae", "VAE", "variational", _fit_dense_vae, grid=_VARIATIONAL),
    Method(
        "dictionary_omp",
        "dictionary + OMP",
        "classical",
        sklearn_peers.fit_omp,
        _DICTIONARY,
        tuned_as="dictionary",
    ),
    Method(
        "dictionary_lasso",
        "dictionary + lasso",
        "classical",
        sklearn_peers.fit_lasso,
        _DICTIONARY,
        tuned_as="dictionary",
        encoded_rows=_SLOW_ROWS,
    ),
    *_pair(
        "sparse_pca",
        "SparsePCA",
        "classical",
        sklearn_peers.fit_sparse_pca,
        grid={"alpha": (1.0, 0.3, 3.0), "steps": (5,)},
    ),
    *_pair(
        "nmf",
        "NMF",
        "classical",
        sklearn_peers.fit_nmf,
        grid={"alpha": (0.0, 1e-4, 1e-3), "steps": (50,)},
    ),
    *_pair("pca", "PCA", "classical", sklearn_peers.fit_pca, has_seeds=False),
    Method("untrained", "sparsecode, untrained", "baseline", ours.fit_untrained),
    Method(
        "pixels",
        "raw pixels",
        "baseline",
        sklearn_peers.fit_pixels,
        has_seeds=False,
        per_point=False,
        reconstructs=False,
    ),
)

METHODS = {method.name: method for method in _ALL}
