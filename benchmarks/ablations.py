"""What each part of `SparseVAETransformer` is worth: one line changes one of them.

    python -m benchmarks.ablations --data-dir ../shared/data --seeds 5
    python -m benchmarks.ablations --data fashion --only beta "encoder: untied"
    python -m benchmarks.ablations --point 64,13 --steps 3000 --validation

512 latents, 26 of them not zero, a third of the default's steps, unless said. A choice is made on
rows held out of training (``--validation``), never on the test rows. Finished fits are kept in
benchmarks/results/ablations.jsonl, and a run that was interrupted goes on from them; the tables
also go to benchmarks/results/ablations.md. After a change of the package, start anew with
``--fresh``: differences pair fits by seed and mean nothing between two versions.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.codes.ours import Ours
from benchmarks.codes.protocol import Point
from benchmarks.codes.table import markdown
from benchmarks.common import (
    PROBE_NOTE,
    RESULTS,
    DataSet,
    Features,
    Row,
    RowFile,
    activation_frequency,
    export,
    linear_probe,
    load_fashion,
    load_mnist,
    mean_sd,
    measured_on,
    mse,
    parser,
    print_notes,
    print_table,
    row_l0,
    unit_float,
)
from benchmarks.variants import VARIANTS, Variant, n_steps
from sparsecode import SparseVAETransformer
from sparsecode.errors import TrainingDivergedError

POINT = Point(512, 26)
STEPS = 1000
VALIDATION_ROWS = 10_000
DATA = {"mnist": load_mnist, "fashion": load_fashion}
# Title: field, digits.
COLUMNS = {
    "L0": ("l0", 2),
    "alive": ("alive", 0),
    "rate_slab": ("rate_slab", 1),
    "rate_spike": ("rate_spike", 1),
    "own p": ("rate_spike_own", 1),
    "fit, s": ("fit_seconds", 0),
}


def fitted(
    variant: Variant, data: DataSet, seed: int, point: Point = POINT, **parameters: Any
) -> SparseVAETransformer:
    """Fit on the training rows; to be called while the variant is in force."""
    chosen = {**parameters, **variant.parameters}
    torch.manual_seed(seed)  # some variants draw from the global generator
    return SparseVAETransformer(point.k, point.p, random_state=seed, **chosen).fit(data.train)


def measure(
    variant: Variant, data: DataSet, seed: int, point: Point = POINT, **parameters: Any
) -> Row:
    """Fit, code the training and the test rows, and measure; nothing if training diverged."""
    with variant.in_force():
        begin = time.perf_counter()
        try:
            estimator = fitted(variant, data, seed, point, **parameters)
        except TrainingDivergedError:
            return {"diverged": True, "note": data.note}
        coder = Ours(estimator, time.perf_counter() - begin)
        train, test, rate = coder.encode(data.train), coder.encode(data.test), coder.rate(data.test)
    assert rate is not None
    probe = linear_probe(train, data.train_labels, test, data.test_labels)
    shared = spike_nats(test, np.full(point.k, 1 - point.p))
    return {
        "mse": mse(unit_float(data.test), coder.decode(test)),
        "probe": probe.accuracy,
        "probe_C": probe.C,
        "l0": float(row_l0(test).mean()),
        "alive": int((activation_frequency(test) > 0).sum()),
        "rate_slab": rate - shared,
        "rate_spike": shared,
        "rate_spike_own": spike_nats(test, smoothed_frequency(train)),
        "fit_seconds": coder.seconds,
        "note": data.note,
    }


def validation(data: DataSet) -> DataSet:
    """Put the last 10,000 training rows in the place of the test rows, and train on the others."""
    cut = len(data.train) - VALIDATION_ROWS
    return replace(
        data,
        name=f"{data.name}, validation rows",
        train=data.train[:cut],
        train_labels=data.train_labels[:cut],
        test=data.train[cut:],
        test_labels=data.train_labels[cut:],
    )


def smoothed_frequency(codes: Features) -> np.ndarray:
    """Frequency (k,) with which each latent fires, strictly within (0, 1)."""
    n_rows = codes.shape[0]
    return (activation_frequency(codes) * n_rows + 0.5) / (n_rows + 1)


def spike_nats(codes: Features, density: np.ndarray) -> float:
    """Mean of -log p(gate) when latent j is open with probability ``density[j]``."""
    fires = activation_frequency(codes)
    return float(-(fires * np.log(density) + (1 - fires) * np.log1p(-density)).sum())


# -- tables --------------------------------------------------------------------------------------

Results = dict[str, list[Row]]


def difference(rows: Sequence[Row], others: Sequence[Row], name: str, digits: int) -> str:
    """Mean difference ± its standard error over the seeds that both have."""
    known = {row["seed"]: row[name] for row in others if name in row}
    pairs = [row[name] - known[row["seed"]] for row in rows if name in row and row["seed"] in known]
    if not pairs:
        return "–"
    mean = f"{np.mean(pairs):+.{digits}f}"
    error = np.std(pairs, ddof=1) / np.sqrt(len(pairs)) if len(pairs) > 1 else None
    return mean if error is None else f"{mean} ± {error:.{digits}f}"


def is_trained(row: Row) -> bool:
    """Whether training came to something: no error of values in [0, 1] exceeds 1."""
    return bool(row.get("mse", np.inf) <= 1)


def cells(name: str, results: Results) -> dict[str, str]:
    """One line of the table."""
    against = VARIANTS[name].against
    rows, others = (list(filter(is_trained, results.get(n, []))) for n in (name, against))
    star = "" if against == "default" else " *"
    n_failed = len(results[name]) - len(rows)
    failed = f" ({n_failed} of {len(results[name])} failed)" if n_failed else ""
    line = {"variant": name + failed, "n": str(len(rows))}
    for title, field, digits in (("MSE", "mse", 5), ("probe", "probe", 4)):
        line[title] = mean_sd([row.get(field) for row in rows], digits)
        delta = "" if name == against else difference(rows, others, field, digits)
        line[f"Δ {title}"] = delta + star
    for title, (field, digits) in COLUMNS.items():
        line[title] = mean_sd([row.get(field) for row in rows], digits)
    return line


def tables(rows: Iterable[Row]) -> dict[str, list[dict[str, str]]]:
    """Table of each data set and point, in the order of `VARIANTS`."""
    by_title: dict[str, Results] = {}
    for row in rows:
        title = f"{row['data']}, {row['k']} latents, {row['l0_asked']} non-zeros"
        by_title.setdefault(title, {}).setdefault(row["variant"], []).append(row)
    return {
        title: [cells(name, results) for name in VARIANTS if name in results]
        for title, results in by_title.items()
    }


def notes(steps: int) -> tuple[str, ...]:
    """Say what a reader must know."""
    return (
        f"{steps:,} steps (the default: 3,000). On the 10,000 test rows, or on the last "
        f"{VALIDATION_ROWS:,} training rows after a fit on the others (“validation rows”), mean ± "
        "SD over n seeds; MSE per pixel in [0, 1].",
        "Differences to the default are paired by seed, mean ± standard error; * to “encoder: "
        "untied”, because a decoder without a dictionary and filters with a start of their own "
        "have no tied encoder. Networks with hidden layers or convolutions before the code train "
        "at the rate that the package chooses for them.",
        "Failed: training diverged, or left an error of more than 1; such fits are in no mean. "
        + PROBE_NOTE,
        "Alive: latents that fire on a test row. Rates in nats per row: rate_spike with the same p "
        "for all latents; own p: with each latent's frequency on the training rows instead, "
        "computed afterwards.",
    )


def write_markdown(path: Path, rows: Sequence[Row], steps: int) -> None:
    """Write all tables and notes."""
    parts = [f"### {title}\n\n{markdown(table)}" for title, table in tables(rows).items()]
    said = [
        *notes(steps),
        *sorted({row["note"] for row in rows if row["note"]}),
        *measured_on(rows),
    ]
    path.write_text("\n\n".join([*parts, *said]) + "\n")


# -- command line --------------------------------------------------------------------------------


def selected(words: Sequence[str] | None) -> Mapping[str, Variant]:
    """Variants whose name starts with one of the words, and those they are compared with."""
    if words is None:
        return VARIANTS
    chosen = {name for name in VARIANTS if name.startswith(tuple(words))}
    chosen |= {VARIANTS[name].against for name in chosen}
    return {name: variant for name, variant in VARIANTS.items() if name in chosen}


def main() -> None:
    options = parser(__doc__, "ablations")
    options.add_argument("--data", choices=DATA, default="mnist")
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--only", nargs="+", metavar="NAME", help="starts of names of variants")
    options.add_argument("--point", type=Point.parse, default=POINT, metavar="K,L0")
    options.add_argument("--validation", action="store_true", help="instead of the test rows")
    options.add_argument("--steps", type=int, default=STEPS, help="of the default, about")
    options.add_argument("--markdown", type=Path, default=RESULTS / "ablations.md")
    args = options.parse_args()
    variants = selected(args.only)
    if not variants:
        options.error(f"no variant starts with {args.only}; there are {', '.join(VARIANTS)}")
    data, file = DATA[args.data](args.data_dir), RowFile(args.rows, args.fresh)
    if args.validation:
        data = validation(data)
    where = {"data": data.name, "k": args.point.k, "l0_asked": args.point.l0}
    with n_steps(args.steps):
        for seed in range(args.seeds):  # seed by seed: an early look has every variant
            for name, variant in variants.items():
                key = {**where, "variant": name, "seed": seed, "steps": args.steps}
                file.get(key, partial(measure, variant, data, seed, args.point))
    rows = [row for row in file.rows if row["steps"] == args.steps]
    for title, table in tables(rows).items():
        print_table(title, table)
    print_notes((*notes(args.steps), data.note), rows)
    write_markdown(args.markdown, rows, args.steps)
    export(args.out, [line for table in tables(rows).values() for line in table])


if __name__ == "__main__":
    main()
