"""`transform` beside the bare product of the encoder, and beside dictionary learning with OMP.

python -m benchmarks.speed.transform --data-dir ../shared/data --threads 1

``product``: 60,000 rows at 512 latents, beside the bare products of the encoder in torch on all
rows at once, the same in chunks that fit the cache (which writes less to memory), and OMP with as
many non-zeros (some rows, scaled up: each costs the same). ``rows``, ``latents``, ``density``: what
a row costs against each. ``refined``: `refine` beside OMP. ``inverse``: `inverse_transform` of CSR
beside that of the same codes dense. The limit is the multiply-adds of the products at the best rate
of a product of one chunk.
"""

import argparse
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import sparse_encode
from torch import Tensor

from benchmarks.common import Row, RowFile, load_mnist, unit_float
from benchmarks.speed.timing import (
    in_turn,
    once,
    open_rows,
    options,
    product_rate,
    show,
    spread,
    wanted,
)
from sparsecode import SparseVAETransformer, defaults
from sparsecode.coding import rows_at_once
from sparsecode.networks import CustomEncoder
from sparsecode.vae import SparseVAE

K, L0 = 512, 26
_ROWS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
# A round takes minutes from here on: there is one, and no warm-up.
_MANY_ROWS = 10_000_000
_LATENTS = (64, 256, 1_024, 4_096, 16_384, 65_536)
_DENSITIES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
_REFINED = ((64, 13), (512, 26), (1_000, 25))
_INVERSE = ((512, 0.1), (512, 0.05), (512, 0.02), (4_096, 0.05), (4_096, 0.01))
# Few enough that the largest number of latents takes seconds, not minutes.
_LATENT_ROWS = 2_048
# From so many rows on the default has hidden units beside its dictionary.
_HIDDEN_FROM = 12_000
_OMP_ROWS = 1_000
_CHUNK = 4_096
Rows = NDArray[Any]
Affine: TypeAlias = tuple[Tensor, Tensor]


def quick_fit(rows: Rows, k: int, p: float) -> SparseVAETransformer:
    """Estimator with the default network, after one epoch: speed depends on no weights."""
    return SparseVAETransformer(k, p, max_iter=1, random_state=0).fit(rows)


class BareProduct:
    """``relu(x @ W + b + relu(x @ A + a) @ C)`` as one would write it.

    Standardisation is folded into the weights, which the package cannot do: large offsets would
    cancel.

    Parameters
    ----------
    estimator : SparseVAETransformer
        Its encoder is one linear map, with or without hidden units beside it.
    chunk : int
        Rows at once.
    """

    def __init__(self, estimator: SparseVAETransformer, chunk: int) -> None:
        model, encoder = estimator.model_, estimator.model_.encoder
        self.chunk = chunk
        self.first: Affine | None = None
        self.last = torch.zeros(0)
        hidden = None if isinstance(encoder, CustomEncoder) else encoder.hidden
        if hidden is not None:
            self.first = _affine(model, hidden.mlp[0])
            self.last = hidden.output.weight.detach().T
        self.linear = _affine(
            model, lambda x: encoder.mean(x) - (hidden(x) if hidden is not None else 0.0)
        )

    @torch.no_grad()
    def means(self, x: Tensor) -> Tensor:
        """Return the encoder's means (n, k) for rows x (n, d) in [0, 1]."""
        loc = torch.nn.functional.linear(x, *self.linear)
        if self.first is None:
            return loc
        return loc.addmm_(torch.nn.functional.linear(x, *self.first).relu_(), self.last)

    def __call__(self, rows: Rows) -> None:
        """Rectify the means of float32 rows in [0, 1] or of uint8 rows; keep none of them."""
        for x in torch.from_numpy(rows).split(self.chunk):
            if x.dtype == torch.uint8:
                x = x.float().div_(255)
            self.means(x).relu_()


@torch.no_grad()
def _affine(model: SparseVAE, function: Callable[[Tensor], Tensor]) -> Affine:
    """Weights (m, d) and offsets (m,) of an affine function of standardised rows."""
    offset = function(model.standardise(torch.zeros(1, model.spec.n_features)))[0]
    unit = torch.eye(model.spec.n_features)
    return (function(model.standardise(unit)) - offset).T.contiguous(), offset


def omp(rows: NDArray[np.float32], atoms: NDArray[np.float32], l0: int) -> NDArray:
    """Codes of exactly ``l0`` atoms by scikit-learn's OMP, the Gram matrix known."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sparse_encode(
            rows,
            atoms,
            gram=atoms @ atoms.T,
            algorithm="omp",
            n_nonzero_coefs=l0,
            check_input=False,
        )


def product(args: argparse.Namespace, file: RowFile) -> None:
    """Beside the bare product and OMP."""
    data = load_mnist(args.data_dir)
    for kind, rows in {"float32": unit_float(data.train), "uint8": data.train}.items():
        key = {"benchmark": "transform", "comparison": "product", "input": kind}
        file.get(key, partial(_product, rows, args.rounds))
    show(
        f"60,000 rows to codes, MNIST, {K} latents, L0 {L0}",
        _rows(file, "product"),
        lambda row: {
            "input": row["input"],
            "n": str(row["n"]),
            "transform, s": spread(row["transform_s"]),
            "product, s": spread(row["bare_s"]),
            "in chunks, s": spread(row["chunked_s"]),
            "of the product": spread(row["of_product"]),
            "of the chunked": spread(row["of_chunked"]),
            "OMP, s": f"{row['omp_s'][0]:.0f}",
            "times less": spread(row["times_less"]),
            "limit, s": f"{row['limit_s']:.2f}",
        },
    )


def _product(rows: Rows, rounds: int) -> Row:
    estimator = quick_fit(rows, K, 1 - L0 / K)
    bare = BareProduct(estimator, len(rows))
    chunked = BareProduct(estimator, rows_at_once(estimator.model_))
    some = unit_float(rows[:_OMP_ROWS])
    timings = in_turn(
        {
            "transform": lambda: estimator.transform(rows),
            "bare": lambda: bare(rows),
            "chunked": lambda: chunked(rows),
            "omp": lambda: omp(some - some.mean(0), _atoms(estimator), L0),
        },
        rounds,
    )
    row = timings.row()
    scale = len(rows) / _OMP_ROWS
    return {
        **row,
        "of_product": timings.ratio("transform", "bare"),
        "of_chunked": timings.ratio("transform", "chunked"),
        "omp_s": [seconds * scale for seconds in row["omp_s"]],
        "times_less": [ratio * scale for ratio in timings.ratio("omp", "transform")],
        "limit_s": _limit(len(rows), estimator),
    }


def _limit(n: int, estimator: SparseVAETransformer) -> float:
    d, k = estimator.n_features_in_, estimator.n_components
    rate = product_rate(min(n, _CHUNK), d, k)
    return n * estimator.model_.multiply_adds_per_row / rate


def _atoms(estimator: SparseVAETransformer) -> NDArray[np.float32]:
    dictionary = estimator.model_.dictionary
    if dictionary is None:
        raise TypeError("the estimator has no dictionary")
    return dictionary.weight.detach().numpy().T.copy()


def refined(args: argparse.Namespace, file: RowFile) -> None:
    """Refined codes beside OMP's."""
    train = load_mnist(args.data_dir).train
    for k, l0 in _REFINED:
        estimator = quick_fit(train, k, 1 - l0 / k)
        for n_swaps in (0, 1, 4):
            key = {"benchmark": "transform", "comparison": "refined", "k": k, "n_swaps": n_swaps}
            file.get(key, partial(_refined, estimator, train, l0, n_swaps, args.rounds))
    show(
        f"refine of {_OMP_ROWS:,} rows beside OMP, MNIST",
        _rows(file, "refined"),
        lambda row: {
            "latents": f"{row['k']:,}",
            "n_swaps": str(row["n_swaps"]),
            "n": str(row["n"]),
            "µs per row": f"{row['refine_s'][0] / row['n_rows'] * 1e6:.0f}",
            "OMP, µs per row": f"{row['omp_s'][0] / row['n_rows'] * 1e6:.0f}",
            "times less": spread(row["times_less"]),
        },
    )


def _refined(
    estimator: SparseVAETransformer, train: Rows, l0: int, n_swaps: int, rounds: int
) -> Row:
    rows = unit_float(train[:_OMP_ROWS])
    timings = in_turn(
        {
            "refine": lambda: estimator.refine(rows, n_swaps=n_swaps),
            "omp": lambda: omp(rows - rows.mean(0), _atoms(estimator), l0),
        },
        rounds,
    )
    return {**timings.row(), "n_rows": len(rows), "times_less": timings.ratio("omp", "refine")}


def by_rows(args: argparse.Namespace, file: RowFile) -> None:
    """Against rows."""
    train = load_mnist(args.data_dir).train
    estimator = quick_fit(train, K, 1 - L0 / K)
    _along(args, file, "rows", _ROWS, lambda n: (estimator, np.resize(train, (n, 784))))


def by_latents(args: argparse.Namespace, file: RowFile) -> None:
    """Against latents, 5 % open."""
    train = load_mnist(args.data_dir).train[:_LATENT_ROWS]
    with patch.object(defaults, "_MANY_ROWS", 0):  # the network of many rows
        _along(args, file, "latents", _LATENTS, lambda k: (quick_fit(train, k, 0.95), train))


def by_density(args: argparse.Namespace, file: RowFile) -> None:
    """Against density."""
    train = load_mnist(args.data_dir).train[: 4 * _CHUNK]
    _along(args, file, "density", _DENSITIES, lambda q: (quick_fit(train, K, 1 - q), train))


def _along(
    args: argparse.Namespace,
    file: RowFile,
    name: str,
    values: tuple[float, ...],
    prepare: Callable[[Any], tuple[SparseVAETransformer, Rows]],
) -> None:
    for value in values:
        key = {"benchmark": "transform", "comparison": name, name: value}
        file.get(key, partial(_prepared_cost, prepare, value, args.rounds))
    show(
        f"transform against {name}, 784 features",
        _rows(file, name),
        lambda row: {
            name: f"{row[name]:,}",
            "n": str(row["n"]),
            "seconds": spread(row["transform_s"]),
            "µs per row": f"{row['transform_s'][0] / row['n_rows'] * 1e6:.1f}",
            "product, µs": f"{row['chunked_s'][0] / row['n_rows'] * 1e6:.1f}",
            "of the product": f"{row['transform_s'][0] / row['chunked_s'][0]:.2f}",
            "of the limit": f"{row['transform_s'][0] / row['limit_s']:.2f}",
        },
    )


def _prepared_cost(
    prepare: Callable[[Any], tuple[SparseVAETransformer, Rows]], value: float, rounds: int
) -> Row:
    return _cost(*prepare(value), rounds)


def inverse(args: argparse.Namespace, file: RowFile) -> None:
    """Sparse products beside dense ones."""
    train = load_mnist(args.data_dir).train
    for k, density in _INVERSE:
        key = {"benchmark": "transform", "comparison": "inverse", "k": k, "density": density}
        file.get(key, partial(_inverse, train, k, density, args.rounds))
    show(
        "inverse_transform of codes in CSR, 784 features, 512 hidden units",
        _rows(file, "inverse"),
        lambda row: {
            "latents": f"{row['k']:,}",
            "density": str(row["density"]),
            "n": str(row["n"]),
            "µs per row": f"{row['sparse_s'][0] / row['n_rows'] * 1e6:.1f}",
            "dense, µs per row": f"{row['dense_s'][0] / row['n_rows'] * 1e6:.1f}",
            "times less": spread(row["times_less"]),
        },
    )


def _inverse(train: Rows, k: int, density: float, rounds: int) -> Row:
    estimator = quick_fit(train[:_HIDDEN_FROM], k, 1 - density)
    codes = estimator.transform(train[_HIDDEN_FROM : _HIDDEN_FROM + 4 * _CHUNK])
    dense = codes.toarray()
    timings = in_turn(
        {
            "sparse": lambda: estimator.inverse_transform(codes),
            "dense": lambda: estimator.inverse_transform(dense),
        },
        rounds,
    )
    return {
        **timings.row(),
        "n_rows": len(dense),
        "times_less": timings.ratio("dense", "sparse"),
    }


def _cost(estimator: SparseVAETransformer, rows: Rows, rounds: int) -> Row:
    """Time `transform`, and beside it the product in chunks, which reads the same memory."""
    bare = BareProduct(estimator, rows_at_once(estimator.model_))
    works = {"transform": lambda: estimator.transform(rows), "chunked": lambda: bare(rows)}
    timings = once(works) if len(rows) >= _MANY_ROWS else in_turn(works, rounds)
    return {**timings.row(), "n_rows": len(rows), "limit_s": _limit(len(rows), estimator)}


def _rows(file: RowFile, comparison: str) -> list[Row]:
    return [
        row
        for row in file.rows
        if (row["benchmark"], row["comparison"]) == ("transform", comparison)
    ]


COMPARISONS = {
    "product": product,
    "rows": by_rows,
    "latents": by_latents,
    "density": by_density,
    "refined": refined,
    "inverse": inverse,
}


def main() -> None:
    args = options(__doc__).parse_args()
    file = open_rows(args, "transform")
    for name in wanted(args, COMPARISONS):
        COMPARISONS[name](args, file)


if __name__ == "__main__":
    main()
