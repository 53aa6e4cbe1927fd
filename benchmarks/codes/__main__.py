"""Sparse coders side by side: equal latents, equal held-out L0, MNIST and Fashion-MNIST.

    python -m benchmarks.codes --data-dir ../shared/data               # run what is missing, print
    python -m benchmarks.codes table                                   # print and write again
    python -m benchmarks.codes plot                                    # draw again
    python -m benchmarks.codes tune --data-dir ../shared/data          # search the rivals' settings

From the root of the repository. Rows go to benchmarks/results/codes.jsonl as they are measured, and
an interrupted run goes on from them. The tables are printed and written to codes.md beside them,
the fronts to codes.png. `benchmarks.codes.protocol` has the rule about L0.
"""

import argparse
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import numpy as np

from benchmarks.codes import plot, standing, table, tune
from benchmarks.codes.measures import measure
from benchmarks.codes.methods import METHODS
from benchmarks.codes.protocol import Method, Point
from benchmarks.codes.settings import POINTS, TUNED_AT, settings_for
from benchmarks.common import (
    RESULTS,
    DataSet,
    RowFile,
    export,
    load_fashion,
    load_mnist,
    parser,
    print_console,
)

LOADERS = {"MNIST": load_mnist, "Fashion-MNIST": load_fashion}
_DEFAULT_ROWS = RESULTS / "codes.jsonl"
# Enough to see that everything runs; never in a table beside full runs.
_QUICK_ROWS, _QUICK_TEST, _QUICK_STEPS = 6_000, 1_000, 300


def run(args: argparse.Namespace, file: RowFile) -> None:
    """Measure what is not in the file yet: seed by seed, so that a first table is soon there."""
    data = [load(name, args) for name in args.data]
    for seed in range(args.seeds):
        for part in data:
            for point in args.points:
                for method in (METHODS[name] for name in args.methods):
                    if seed == 0 or method.has_seeds:
                        run_one(file, method, part, point, seed, args.quick)


def run_one(
    file: RowFile, method: Method, data: DataSet, point: Point, seed: int, quick: bool
) -> None:
    """Measure one line, unless it is there."""
    k, l0 = (point.k, point.l0) if method.per_point else (0, 0)
    key = {"data": data.name, "k": k, "l0": l0, "method": method.name, "seed": seed}
    settings = settings_for(method, point, plain_name(data))
    if quick:
        settings = {**settings, **quick_settings(method)}
    # A row of other settings is another row: what a later search has chosen is measured again.
    key = {**key, "settings": settings}
    file.get(key, partial(measure, method, data, point, seed, settings))


def quick_settings(method: Method) -> dict[str, int]:
    """Take a tenth of the steps."""
    if method.family == "ours":
        return {"max_iter": 8}
    if "steps" in method.grid:
        return {"steps": 3}
    return {"steps": _QUICK_STEPS} if "lr" in method.grid else {}


def plain_name(data: DataSet) -> str:
    """Name of a data set without the number of rows that ``--quick`` leaves of it."""
    return data.name.split(",")[0]


def load(name: str, args: argparse.Namespace) -> DataSet:
    """Load a data set, cut for ``--quick``."""
    data = LOADERS[name](args.data_dir)
    if not args.quick:
        return data
    kept = np.random.default_rng(0).permutation(len(data.test))[:_QUICK_TEST]
    part = data.subset(_QUICK_ROWS, seed=0)
    return replace(part, test=data.test[kept], test_labels=data.test_labels[kept])


def show(args: argparse.Namespace, file: RowFile) -> None:
    """Print and write the tables."""
    rows = wanted(file, args)
    notes = data_notes(args)
    tables = [*standing.standings(rows, args.points), *table.titled(rows, args.points)]
    table.print_tables(tables, rows, notes)
    table.write_markdown(args.rows.with_suffix(".md"), tables, rows, args.points, notes)
    flat = [{name: value for name, value in row.items() if name != "settings"} for row in rows]
    fields = list(dict.fromkeys(name for row in flat for name in row))
    export(args.out, [{name: row.get(name) for name in fields} for row in flat])


def draw(args: argparse.Namespace, file: RowFile) -> None:
    """Draw the fronts."""
    plot.fronts(args.rows.with_suffix(".png"), wanted(file, args), args.points)


def wanted(file: RowFile, args: argparse.Namespace) -> list[dict]:
    """Rows of the methods, points and seeds that were asked for."""
    points = {(point.k, point.l0) for point in args.points} | {(0, 0)}
    rows = [
        row
        for row in file.rows
        if row["method"] in args.methods
        and (row["k"], row["l0"]) in points
        and row["seed"] < args.seeds
        and row["data"].split(",")[0] in args.data
    ]
    if not rows:
        raise SystemExit(f"no rows of these methods, points and data in {file.path}")
    return rows


def data_notes(args: argparse.Namespace) -> Iterable[str]:
    """Say what a reader must know about the data, if they are at hand."""
    names = [name for name in args.data if (args.data_dir / name.replace("-", "")).exists()]
    return [LOADERS[name](args.data_dir).note for name in names]


def search(args: argparse.Namespace) -> None:
    """Tune on each data set and print what to keep."""
    file = RowFile(args.rows, args.fresh)
    points = [point for point in args.points if point in TUNED_AT]
    for name in args.data:
        best = tune.tune(load(name, args), points, args.methods, file)
        print(tune.as_python(name, best))


def options() -> argparse.ArgumentParser:
    """Make the command line."""
    result = parser(__doc__, "codes")
    result.add_argument("command", nargs="?", default="run", choices=COMMANDS)
    result.add_argument("--data", nargs="+", default=list(LOADERS), choices=LOADERS)
    result.add_argument(
        "--points", nargs="+", type=Point.parse, default=list(POINTS), metavar="K,L0"
    )
    result.add_argument(
        "--methods", nargs="+", default=list(METHODS), choices=METHODS, metavar="NAME"
    )
    result.add_argument("--seeds", type=int, default=5)
    result.add_argument("--quick", action="store_true", help="few rows and steps, own file")
    return result


COMMANDS = ("run", "table", "plot", "tune")


def main() -> None:
    args = options().parse_args()
    if args.rows == _DEFAULT_ROWS:
        name = "codes_tuning" if args.command == "tune" else "codes"
        args.rows = RESULTS / f"{name}{'_quick' if args.quick else ''}.jsonl"
    if args.command == "tune":
        search(args)
        return
    file = RowFile(args.rows, args.fresh and args.command == "run")
    if args.command == "run":
        run(args, file)
    if args.command != "plot":
        show(args, file)
    if args.command != "table":
        draw(args, file)
        print_console(f"Fronts: {args.rows.with_suffix('.png')}")


if __name__ == "__main__":
    main()
