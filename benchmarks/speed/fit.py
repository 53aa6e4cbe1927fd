"""`fit` beside the loop that tutorials print, and beside dictionary learning.

python -m benchmarks.speed.fit --data-dir ../shared/data --threads 1

``objective``: seconds of the shortest `fit`, with the loop's beta of 1, that reaches, on test rows,
the objective of the tutorial loop after its ten epochs, one epoch longer each time. ``throughput``:
rows per second of both at the batch of 128, in turn; the limit is the multiply-adds of a step at
the best rate of a product of this size. ``dictionary``: seconds to a smaller error and a better
probe than MiniBatchDictionaryLearning with OMP at the same L0. ``rows``: seconds of one epoch
against rows.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.codes.protocol import Task
from benchmarks.codes.sklearn_peers import DictionaryCoder, fit_dictionary
from benchmarks.common import DataSet, Row, RowFile, linear_probe, load_mnist, mse, unit_float
from benchmarks.speed import tutorial
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
from sparsecode import SparseVAETransformer
from sparsecode.defaults import resolve_hidden_sizes
from sparsecode.loader import as_rows
from sparsecode.trainer import Trainer
from sparsecode.vae import SparseVAE

K, L0 = 512, 26
P = 1 - L0 / K
HIDDEN = resolve_hidden_sizes("auto", "spike_slab", None, 60_000, K)
_LONGEST = 16
_BATCHES = 200
_EPOCH_ROWS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
# An epoch takes minutes from here on: there is one, and no warm-up.
_MANY_ROWS = 10_000_000
_EPOCH_LATENTS, _EPOCH_BATCH = 64, 256
_DICTIONARY_EPOCHS = 4
_SWAPS = 8
# Most rounds over the atoms for a batch: scikit-learn's default, and what does as well.
_SWEEPS = (1_000, 30)
_PROBE_ROWS = 10_000
Images = NDArray[np.uint8]


def objective(args: argparse.Namespace, file: RowFile) -> None:
    """Time to the tutorial loop's objective."""
    data = load_mnist(args.data_dir)
    for seed in range(args.seeds):
        key = {"benchmark": "fit", "comparison": "objective", "seed": seed}
        file.get(key, partial(_objective, data.train, data.test, seed))
    rows = _rows(file, "objective")
    show(
        f"Time to the tutorial loop's held-out objective, MNIST, {K} latents, L0 {L0}",
        rows,
        lambda row: {
            "seed": str(row["seed"]),
            "tutorial, s": f"{row['tutorial_s']:.1f}",
            "objective": f"{row['tutorial_objective']:.1f}",
            "fit, s": f"{row['fit_s']:.1f}",
            "epochs": str(row["epochs"]),
            "objective ": f"{row['fit_objective']:.1f}",
            "times less": f"{row['tutorial_s'] / row['fit_s']:.1f}",
        },
    )


def _objective(train: Images, test: Images, seed: int) -> Row:
    torch.manual_seed(seed)
    begin = time.perf_counter()
    loop = tutorial.Loop(tutorial.network(train, K, P, *HIDDEN))
    batches = tutorial.loader(train, "pictures")
    for _ in range(tutorial.EPOCHS):
        loop.epoch(batches)
    seconds = time.perf_counter() - begin
    goal = tutorial.held_out_objective(loop.finish(train), test)
    fits: dict[int, tuple[float, float]] = {}

    def fit(epochs: int) -> float:
        begin = time.perf_counter()
        estimator = SparseVAETransformer(K, P, beta=1.0, max_iter=epochs, random_state=seed)
        estimator.fit(train)
        elapsed = time.perf_counter() - begin
        fits[epochs] = elapsed, tutorial.held_out_objective(estimator.model_, test)
        return fits[epochs][1]

    epochs = tutorial.shortest(fit, goal, _LONGEST)
    if epochs is None:
        raise SystemExit(f"no fit of up to {_LONGEST} epochs reaches {goal:.1f}: {fits}")
    return {
        "tutorial_s": seconds,
        "tutorial_objective": goal,
        "epochs": epochs,
        "fit_s": fits[epochs][0],
        "fit_objective": fits[epochs][1],
    }


def throughput(args: argparse.Namespace, file: RowFile) -> None:
    """Rows per second at the tutorial's batch, in turn."""
    data = load_mnist(args.data_dir)
    key = {"benchmark": "fit", "comparison": "throughput", "batch": tutorial.BATCH}
    file.get(key, lambda: _throughput(data.train, args.rounds))
    show(
        f"Training, batches of {tutorial.BATCH}, MNIST, {K} latents, L0 {L0}; rows per second",
        _rows(file, "throughput"),
        lambda row: {
            "n": str(row["n"]),
            "fit": f"{row['rows'] / row['fit_s'][0]:,.0f}",
            "tutorial, pictures": f"{row['rows'] / row['pictures_s'][0]:,.0f}",
            "tutorial, tensors": f"{row['rows'] / row['tensors_s'][0]:,.0f}",
            "times pictures": spread(row["times_pictures"]),
            "times tensors": spread(row["times_tensors"]),
            "limit, float32": f"{row['limit_float32']:,.0f}",
            "limit, bfloat16": f"{row['limit_bfloat16']:,.0f}",
        },
    )


def _throughput(train: Images, rounds: int) -> Row:
    n = _BATCHES * tutorial.BATCH
    rivals: dict[str, Callable[[], object]] = {"fit": _package(train, n)}
    for source in ("pictures", "tensors"):
        loop = tutorial.Loop(tutorial.network(train, K, P, *HIDDEN))
        rivals[source] = partial(_some_batches, loop, tutorial.loader(train, source))
    timings = in_turn(rivals, rounds)
    multiply_adds = training_multiply_adds(train.shape[1], K, *(sizes[0] for sizes in HIDDEN))
    rate = partial(product_rate, tutorial.BATCH, train.shape[1], K)
    return {
        **timings.row(),
        "rows": n,
        "times_pictures": timings.ratio("pictures", "fit"),
        "times_tensors": timings.ratio("tensors", "fit"),
        "limit_float32": rate() / multiply_adds,
        "limit_bfloat16": rate(dtype=torch.bfloat16) / multiply_adds,
    }


def _package(train: Images, n: int) -> Callable[[], object]:
    model = tutorial.network(train, K, P, *HIDDEN)
    trainer = Trainer(model, torch.Generator().manual_seed(0))
    rows, every = as_rows(train, tutorial.CPU), torch.arange(len(train))
    run = tutorial.training_options(tutorial.BATCH)
    return lambda: trainer.fit(rows, every[torch.randperm(len(every))[:n]], None, run)


def _some_batches(loop: tutorial.Loop, batches: torch.utils.data.DataLoader) -> float:
    return loop.epoch(batch for batch, _ in zip(batches, range(_BATCHES), strict=False))


def training_multiply_adds(d: int, k: int, encoder_hidden: int, decoder_hidden: int) -> int:
    """Of one row in a step of the default network: each product forward and twice backward.

    Products of the pixels have no gradient by their input.
    """
    of_pixels = d * k + d * encoder_hidden
    others = encoder_hidden * k + k * d + k * decoder_hidden + decoder_hidden * d
    return 2 * of_pixels + 3 * others


def dictionary(args: argparse.Namespace, file: RowFile) -> None:
    """Time to better codes than dictionary learning's."""
    data = load_mnist(args.data_dir)
    for sweeps in _SWEEPS:
        key = {"benchmark": "fit", "comparison": "dictionary", "k": K, "l0": L0, "sweeps": sweeps}
        file.get(key, partial(_dictionary, data, sweeps))
    show(
        f"Fit to a smaller error and a better probe, MNIST, {K} latents, L0 {L0}:\n"
        "MiniBatchDictionaryLearning, OMP / sparsecode, refined",
        _rows(file, "dictionary"),
        lambda row: {
            "rounds of coordinate descent": f"{row['sweeps']:,}",
            "fit, s": f"{row['rival_s']:.0f} / {row['fit_s']:.0f}",
            "MSE": f"{row['rival_mse']:.5f} / {row['fit_mse']:.5f}",
            "probe": f"{row['rival_probe']:.3f} / {row['fit_probe']:.3f}",
            "times less": f"{row['rival_s'] / row['fit_s']:.1f}",
        },
    )


def _dictionary(data: DataSet, sweeps: int) -> Row:
    train, test = data.train, data.test
    task = Task(train, 0, K, L0)
    rival = DictionaryCoder(fit_dictionary(task, alpha=1.0, steps=200, sweeps=sweeps), L0)
    begin = time.perf_counter()
    ours = SparseVAETransformer(K, P, max_iter=_DICTIONARY_EPOCHS, random_state=0).fit(train)
    seconds = time.perf_counter() - begin
    chosen = np.random.default_rng(0).permutation(len(train))[:_PROBE_ROWS]
    result: Row = {"rival_s": rival.seconds, "fit_s": seconds, "epochs": _DICTIONARY_EPOCHS}
    coders: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
        "rival": (rival.encode, rival.decode),
        "fit": (partial(ours.refine, n_swaps=_SWAPS), ours.inverse_transform),
    }
    for name, (encode, decode) in coders.items():
        codes = encode(test)
        result[f"{name}_mse"] = mse(unit_float(test), decode(codes))
        score = linear_probe(
            encode(train[chosen]), data.train_labels[chosen], codes, data.test_labels
        )
        result[f"{name}_probe"] = score.accuracy
    return result


def rows(args: argparse.Namespace, file: RowFile) -> None:
    """Seconds of an epoch against rows."""
    data = load_mnist(args.data_dir)
    for n in _EPOCH_ROWS:
        key = {"benchmark": "fit", "comparison": "rows", "rows": n}
        file.get(key, partial(_epoch, data.train, n, args.rounds))
    shown = _rows(file, "rows")
    middle = next((row for row in shown if row["rows"] == 100_000), shown[-1])
    show(
        f"One epoch, batches of {_EPOCH_BATCH}, {_EPOCH_LATENTS} latents, linear decoder",
        shown,
        lambda row: {
            "rows": f"{row['rows']:,}",
            "n": str(row["n"]),
            "seconds": spread(row["epoch_s"]),
            "µs per row": f"{row['epoch_s'][0] / row['rows'] * 1e6:.1f}",
            "against 100,000": _against(row, middle),
        },
    )


def _against(row: Row, middle: Row) -> str:
    return f"{row['epoch_s'][0] / row['rows'] / (middle['epoch_s'][0] / middle['rows']):.2f}"


def _epoch(train: Images, n: int, rounds: int) -> Row:
    some = as_rows(np.resize(train, (n, train.shape[1])), tutorial.CPU)
    model: SparseVAE = tutorial.network(train[:1000], _EPOCH_LATENTS, 0.8, (), ())
    trainer = Trainer(model, torch.Generator().manual_seed(0))
    every, run = torch.arange(n), tutorial.training_options(_EPOCH_BATCH)
    epoch: dict[str, Callable[[], object]] = {"epoch": lambda: trainer.fit(some, every, None, run)}
    return (once(epoch) if n >= _MANY_ROWS else in_turn(epoch, max(3, rounds))).row()


def _rows(file: RowFile, comparison: str) -> list[Row]:
    return [
        row for row in file.rows if (row["benchmark"], row["comparison"]) == ("fit", comparison)
    ]


COMPARISONS = {
    "throughput": throughput,
    "objective": objective,
    "dictionary": dictionary,
    "rows": rows,
}


def main() -> None:
    result = options(__doc__)
    result.add_argument("--seeds", type=int, default=3, help="of the comparison of objectives")
    args = result.parse_args()
    file = open_rows(args, "fit")
    for name in wanted(args, COMPARISONS):
        COMPARISONS[name](args, file)


if __name__ == "__main__":
    main()
