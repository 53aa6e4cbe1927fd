"""Codes that keep more latents than training did, as those of k-sparse autoencoders may.

    python -m benchmarks.denser_codes --data-dir ../shared/data [--seeds 3]

A. Makhzani and B. Frey (2013), "k-Sparse autoencoders", train with the k largest of each row and
may keep alpha * k of them afterwards; their .9865 on MNIST is of 1,000 latents and k = 25.
`benchmarks.codes` compares at one L0, that of training. Here fits of 25 code with 25 and with 75,
a factor of our choice, beside a fit of ours with 75.
"""

from collections.abc import Sequence
from functools import partial

import torch

from benchmarks.codes.methods import METHODS
from benchmarks.codes.ours import Ours
from benchmarks.codes.protocol import Fitted, Point, Task
from benchmarks.codes.settings import settings_for
from benchmarks.codes.training import NetworkCoder
from benchmarks.common import (
    PROBE_NOTE,
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
    row_l0,
    unit_float,
)
from sparsecode.calibration import calibrate
from sparsecode.loader import as_rows

N_LATENTS = 1000
# Method, L0 of training, L0 of the codes.
LINES: tuple[tuple[str, int, tuple[int, ...]], ...] = (
    ("sparsecode", 25, (25, 75)),
    ("k_sparse_decay", 25, (25, 75)),
    ("k_sparse", 25, (25, 75)),
    ("sparsecode", 75, (75,)),
)
_CALIBRATION_ROWS = 5_000


def keep(coder: Fitted, data: DataSet, l0: int) -> None:
    """Make a trained coder keep ``l0`` latents of each row; ours, in the mean of training rows."""
    if isinstance(coder, Ours):
        model = coder.estimator.model_
        rows = as_rows(data.train[:_CALIBRATION_ROWS], model.scale.device)
        index = torch.arange(rows.n_rows, device=model.scale.device)
        calibrate(model, rows, index, 1 - l0 / model.spec.n_latents)
    else:
        assert isinstance(coder, NetworkCoder)
        coder.network.l0 = l0  # type: ignore[assignment]


def measure(data: DataSet, name: str, point: Point, coded: Sequence[int], seed: int) -> Row:
    """Fit one method and measure its codes at each L0, as it came at that of training."""
    coder = METHODS[name].fit(
        Task(data.train, seed, point.k, point.l0), **settings_for(METHODS[name], point)
    )
    measures: Row = {}
    for l0 in coded:
        if l0 != point.l0:
            keep(coder, data, l0)
        train, test = coder.encode(data.train), coder.encode(data.test)
        probe = linear_probe(train, data.train_labels, test, data.test_labels)
        measures[str(l0)] = {
            "l0": float(row_l0(test).mean()),
            "mse": mse(unit_float(data.test), coder.decode(test)),
            "probe": probe.accuracy,
        }
    return measures


def table(rows: Sequence[Row]) -> list[dict[str, str]]:
    """One line for each method, L0 of training and of the codes; mean ± SD over seeds."""
    result = []
    for name, trained, coded in LINES:
        of_line = [row for row in rows if (row["method"], row["trained"]) == (name, trained)]
        for l0 in map(str, coded):
            cells = {
                field: mean_sd([row[l0][field] for row in of_line], digits)
                for field, digits in (("l0", 1), ("mse", 4), ("probe", 4))
            }
            label = METHODS[name].label
            result.append({"coder": label, "trained at": str(trained), "coded at": l0, **cells})
    return result


def main() -> None:
    options = parser(__doc__, "denser_codes")
    options.add_argument("--seeds", type=int, default=3)
    args = options.parse_args()
    data, file = load_mnist(args.data_dir), RowFile(args.rows, args.fresh)
    rows = [
        file.get(
            {"method": name, "trained": trained, "seed": seed},
            partial(measure, data, name, Point(N_LATENTS, trained), coded, seed),
        )
        for seed in range(args.seeds)
        for name, trained, coded in LINES
    ]
    cells = table(rows)
    print_table(f"MNIST, {N_LATENTS:,} latents, codes of the density of training and denser", cells)
    print_notes([f"Mean ± SD over {args.seeds} seeds, 10,000 test rows. {PROBE_NOTE}"], rows)
    export(args.out, cells)


if __name__ == "__main__":
    main()
