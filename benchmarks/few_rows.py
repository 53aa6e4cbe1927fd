"""Why few rows get small batches, a larger beta and weight decay: 1,200 MNIST images, 5 seeds.

    python benchmarks/few_rows.py --data-dir ../shared/data

Trains 256 latents at p = .8 on 1,200 images and tests on the 10,000 test images. One line changes
one default at a time. The weight decay is no parameter of the estimator, so its line replaces
the constant.
"""

import argparse
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
from common import (
    DataSet,
    Row,
    RowFile,
    export,
    linear_probe,
    load_mnist,
    mean_sd,
    mse,
    parser,
    print_notes,
    print_table,
    unit_float,
    zero_fraction,
)

from sparsecode import SparseVAETransformer, defaults

N_ROWS, N_LATENTS, P, N_SEEDS = 1200, 256, 0.8, 5
VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "batch_size 150": {"batch_size": 150},
    "beta 1": {"beta": 1.0},
    "weight decay 0": {"weight_decay": 0.0},
}


def measure(data: DataSet, changes: dict[str, Any], seed: int) -> Row:
    parameters = dict(changes)
    decay = parameters.pop("weight_decay", defaults.WEIGHT_DECAY)
    # The seed draws the rows, too: the spread is that of another 1,200 images.
    rows = np.random.default_rng(seed).permutation(len(data.train))[:N_ROWS]
    with patch.object(defaults, "WEIGHT_DECAY", decay):
        estimator = SparseVAETransformer(N_LATENTS, P, random_state=seed, **parameters)
        codes = estimator.fit_transform(data.train[rows])
    test_codes = estimator.transform(data.test)
    score = linear_probe(codes, data.train_labels[rows], test_codes, data.test_labels)
    test = unit_float(data.test)
    error = mse(test, estimator.inverse_transform(test_codes))
    return {
        "probe": score.accuracy,
        "explained_variance": 1 - error / float(test.var(0).mean()),
        "zeros": zero_fraction(test_codes),
        "zeros_train": zero_fraction(codes),
        "bound": estimator.score(data.test[:1000]),
        "note": data.note,
    }


def table_row(name: str, rows: list[Row]) -> dict[str, str]:
    columns = {"probe": 4, "explained_variance": 3, "bound": 0, "zeros": 4, "zeros_train": 4}
    return {"": name} | {
        column.replace("_", " "): mean_sd([row[column] for row in rows], digits)
        for column, digits in columns.items()
    }


def main() -> None:
    args: argparse.Namespace = parser(__doc__, "few_rows").parse_args()
    data, file = load_mnist(args.data_dir), RowFile(args.rows, args.fresh)
    rows = {
        name: [
            file.get({"variant": name, "seed": seed}, partial(measure, data, changes, seed))
            for seed in range(N_SEEDS)
        ]
        for name, changes in VARIANTS.items()
    }
    table = [table_row(name, of_variant) for name, of_variant in rows.items()]
    print_table(f"{N_ROWS:,} MNIST images, {N_LATENTS} latents, p = {P}", table)
    note = "Bound: importance-weighted, nats per image, 1,000 test images. Mean ± SD over 5 seeds."
    print_notes([note], [row for of_variant in rows.values() for row in of_variant])
    export(args.out, table)


if __name__ == "__main__":
    main()
