"""Training on a GPU, beside the tutorial loop and beside a trainer of sparse autoencoders.

python -m benchmarks.speed.gpu --data-dir ../shared/data

``epochs``: 50 epochs over MNIST, 784-512-256 and back, beside the loop of `tutorial` on the same
device (two epochs of it, scaled up: each costs the same) and beside the multiply-adds at the best
rate of a product. ``sae``: 16,384 latents, 64 open, on 4,096-dimensional embeddings: rows per
second beside the TopK trainer of sae-lens (``pip install sae-lens``) with autocast, fed with
batches that lie on the device. Both rates are of the epochs that a longer run has more than a
shorter one, so that what is done once does not count. A GPU's context is created before. Without a
GPU it needs ``--small``, which shows that everything works, and nothing else.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.common import Row, RowFile, load_mnist
from benchmarks.speed import tutorial
from benchmarks.speed.fit import training_multiply_adds
from benchmarks.speed.timing import open_rows, options, show, wanted
from sparsecode import SparseVAETransformer
from sparsecode.device import matmul_precision

_TUTORIAL_EPOCHS = 2
_ROUNDS_OF_PRODUCT = 50
_RANK = 256
# Its default, constant.
_SAE_LENS_RATE = 3e-4


@dataclass(frozen=True)
class Sizes:
    """How much work."""

    images: int = 60_000
    epochs: int = 50
    hidden: int = 512
    latents: int = 256
    embeddings: int = 65_536
    width: int = 4_096
    sae_latents: int = 16_384
    sae_open: int = 64
    sae_batch: int = 4_096
    sae_epochs: int = 4


SMALL = Sizes(2_000, 2, 32, 16, 2_048, 64, 256, 8, 256, 2)


@dataclass(frozen=True)
class Run:
    """Seconds, and the most memory that was held on the device, in MiB (0 without a GPU)."""

    seconds: float
    peak: float


def timed(work: Callable[[], object], device: torch.device) -> Run:
    """Time work to its end on the device."""
    is_gpu = device.type == "cuda"
    if is_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    begin = time.perf_counter()
    work()
    if is_gpu:
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - begin
    return Run(seconds, torch.cuda.max_memory_allocated(device) / 2**20 if is_gpu else 0.0)


def best_rate(n: int, d: int, k: int, device: torch.device) -> float:
    """Multiply-adds per second of (n, d) @ (d, k), as precise as in training."""
    a, b = torch.randn(n, d, device=device), torch.randn(d, k, device=device)
    with matmul_precision(reduced=True):
        best = min(timed(lambda: a @ b, device).seconds for _ in range(_ROUNDS_OF_PRODUCT))
    return n * d * k / best


# -- 50 epochs of MNIST --------------------------------------------------------------------------


def epochs(args: argparse.Namespace, file: RowFile, sizes: Sizes, device: torch.device) -> None:
    """50 epochs beside the tutorial loop."""
    train = load_mnist(args.data_dir).train[: sizes.images]
    key = {"benchmark": "gpu", "comparison": "epochs", "device": device.type, **vars(sizes)}
    file.get(key, lambda: _epochs(train, sizes, device))
    show(
        "Epochs over MNIST, 784-hidden-latents and back",
        [row for row in file.rows if (row["benchmark"], row["comparison"]) == ("gpu", "epochs")],
        lambda row: {
            "device": row["device"],
            "network": f"784-{row['hidden']}-{row['latents']}",
            "epochs": str(row["epochs"]),
            "images": f"{row['images']:,}",
            "fit, s": f"{row['fit_s']:.2f}",
            "tutorial, s": f"{row['tutorial_s']:.1f}",
            "times less": f"{row['tutorial_s'] / row['fit_s']:.1f}",
            "arithmetic, s": f"{row['floor_s']:.3f}",
            "peak, MiB": f"{row['fit_mib']:.0f} / {row['tutorial_mib']:.0f}",
        },
    )


def _epochs(train: NDArray[np.uint8], sizes: Sizes, device: torch.device) -> Row:
    def fit(n_epochs: int, rows: NDArray[np.uint8]) -> SparseVAETransformer:
        return SparseVAETransformer(
            sizes.latents,
            0.8,
            hidden_sizes=(sizes.hidden,),
            max_iter=n_epochs,
            random_state=0,
            device=str(device),
        ).fit(rows)

    fit(1, train[:1_000])  # creates the context
    ours = timed(lambda: fit(sizes.epochs, train), device)
    model = tutorial.network(train, sizes.latents, 0.8, (sizes.hidden,), (sizes.hidden,))
    loop = tutorial.Loop(model.to(device))
    batches = tutorial.loader(train, "pictures")
    moved = lambda: ((x.to(device), y) for x, y in batches)  # noqa: E731
    loop.epoch(islice(moved(), 10))  # fills caches, as ours has
    rival = timed(lambda: [loop.epoch(moved()) for _ in range(_TUTORIAL_EPOCHS)], device)
    d, h, k = train.shape[1], sizes.hidden, sizes.latents
    # Forward and twice backward, but for the gradient by the pixels; both sides keep a linear part
    # beside the hidden layer.
    multiply_adds = training_multiply_adds(d, k, h, h)
    return {
        "fit_s": ours.seconds,
        "fit_mib": ours.peak,
        "tutorial_s": rival.seconds * sizes.epochs / _TUTORIAL_EPOCHS,
        "tutorial_mib": rival.peak,
        "floor_s": sizes.epochs * len(train) * multiply_adds / best_rate(8_192, d, h, device),
    }


# -- sparse autoencoders -------------------------------------------------------------------------


def sae(_: argparse.Namespace, file: RowFile, sizes: Sizes, device: torch.device) -> None:
    """Rows per second beside sae-lens."""
    key = {"benchmark": "gpu", "comparison": "sae", "device": device.type, **vars(sizes)}
    file.get(key, lambda: _sae(sizes, device))
    show(
        "Sparse autoencoders on embeddings",
        [row for row in file.rows if (row["benchmark"], row["comparison"]) == ("gpu", "sae")],
        lambda row: {
            "device": row["device"],
            "features": f"{row['width']:,}",
            "latents": f"{row['sae_latents']:,}",
            "open": str(row["sae_open"]),
            "fit, rows/s": f"{row['fit_rate']:,.0f}",
            "sae-lens, rows/s": f"{row['rival_rate']:,.0f}",
            "times": f"{row['fit_rate'] / row['rival_rate']:.2f}",
            "peak, MiB": f"{row['fit_mib']:,.0f} / {row['rival_mib']:,.0f}",
        },
    )


def _sae(sizes: Sizes, device: torch.device) -> Row:
    rows = embeddings(sizes)
    ours = partial(_fit, rows, sizes, device)
    rival = partial(_sae_lens, rows, sizes, device)
    return {**_rate("fit", ours, sizes, device), **_rate("rival", rival, sizes, device)}


def _rate(name: str, work: Callable[[int], object], sizes: Sizes, device: torch.device) -> Row:
    """Rows per second of the epochs that a longer run has more than a shorter one."""
    work(1)  # creates the context, and fills caches
    short, long = (timed(partial(work, n), device) for n in (1, 1 + sizes.sae_epochs))
    rate = sizes.sae_epochs * sizes.embeddings / (long.seconds - short.seconds)
    return {f"{name}_rate": rate, f"{name}_mib": long.peak}


def embeddings(sizes: Sizes) -> NDArray[np.float32]:
    """Rows (n, width) of low rank, and noise."""
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((_RANK, sizes.width), dtype=np.float32)
    rows = rng.standard_normal((sizes.embeddings, _RANK), dtype=np.float32) @ basis
    rows /= _RANK**0.5
    rows += 0.1 * rng.standard_normal(rows.shape, dtype=np.float32)
    return rows


def _fit(
    rows: NDArray[np.float32], sizes: Sizes, device: torch.device, n_epochs: int
) -> SparseVAETransformer:
    return SparseVAETransformer(
        sizes.sae_latents,
        1 - sizes.sae_open / sizes.sae_latents,
        hidden_sizes=(),
        batch_size=sizes.sae_batch,
        max_iter=n_epochs,
        random_state=0,
        device=str(device),
    ).fit(rows)


def _sae_lens(
    rows: NDArray[np.float32], sizes: Sizes, device: torch.device, n_epochs: int
) -> object:
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    network = TopKTrainingSAEConfig(
        d_in=sizes.width, d_sae=sizes.sae_latents, k=sizes.sae_open, device=str(device)
    )
    training = SAETrainerConfig(
        total_training_samples=n_epochs * len(rows),
        train_batch_size_samples=sizes.sae_batch,
        lr_end=_SAE_LENS_RATE,
        device=str(device),
        autocast=True,
    )
    batches = _batches(torch.from_numpy(rows).to(device), sizes.sae_batch)
    return SAETrainer(training, TopKTrainingSAE(network), batches).fit()


def _batches(rows: Tensor, size: int) -> Iterator[Tensor]:
    while True:
        for index in torch.randperm(len(rows), device=rows.device).split(size):
            yield rows[index]


COMPARISONS = {"epochs": epochs, "sae": sae}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--small", action="store_true", help="little work, to see that it works")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not args.small:
        raise SystemExit("there is no GPU here; --small shows on a CPU that everything works")
    file = open_rows(args, "gpu")
    for name in wanted(args, COMPARISONS):
        COMPARISONS[name](args, file, SMALL if args.small else Sizes(), device)


if __name__ == "__main__":
    main()
