"""The small search behind `settings`: one knob after the other, judged on validation rows."""

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.codes.measures import encoded_rows
from benchmarks.codes.methods import METHODS
from benchmarks.codes.protocol import Method, Point, Task, split_rows
from benchmarks.common import DataSet, Row, RowFile, linear_probe, mse, unit_float

SEED = 0
# Errors so close are a tie, which the probe breaks.
_TIE = 0.01
_PROBE_ROWS = 10_000


def tune(data: DataSet, points: Iterable[Point], names: Iterable[str], file: RowFile) -> list[Row]:
    """Try the grids of the named methods; return the best trial of each method and point."""
    chosen: dict[tuple[str, Point], Row] = {}
    for point in points:
        for method in (METHODS[name] for name in names):
            key = (method.settings_name, point)
            if method.grid and key not in chosen:
                chosen[key] = search(data, method, point, file)
    return list(chosen.values())


def search(data: DataSet, method: Method, point: Point, file: RowFile) -> Row:
    """Go through the knobs in order, keeping the best value of each before the next.

    Where the best is the last of its grid, the search goes on past it until it is not.
    """

    def trial(settings: dict[str, Any]) -> Row:
        key = {
            "data": data.name,
            "k": point.k,
            "l0": point.l0,
            "method": method.settings_name,
            "settings": settings,
        }
        return file.get(key, lambda: judge(data, method, point, settings))

    choose = best_probe if method.tuned_for == "probe" else winner
    best = trial({name: values[0] for name, values in method.grid.items()})
    for name, values in method.grid.items():
        trials = [trial({**best["settings"], name: value}) for value in values]
        best = choose(trials)
        while (value := beyond([row["settings"][name] for row in trials], best, name)) is not None:
            trials.append(trial({**best["settings"], name: value}))
            best = choose(trials)
    return best


def beyond(values: Sequence[Any], best: Row, name: str) -> float | None:
    """Return the next value past an end of the grid, if the best one is that end.

    As far from it as the value before it is. Floats only: counts and sizes are not searched so.
    """
    chosen, ordered = best["settings"][name], sorted(values)
    if not isinstance(chosen, float) or len(ordered) < 2:
        return None
    neighbour = {ordered[0]: ordered[1], ordered[-1]: ordered[-2]}.get(chosen)
    return float(f"{chosen**2 / neighbour:.3g}") if chosen and neighbour else None


def winner(trials: list[Row]) -> Row:
    """Smallest error; among ties, the best probe. A trial that diverged never wins."""
    finite = [row for row in trials if row["validation_mse"] < float("inf")] or trials[:1]
    smallest = min(row["validation_mse"] for row in finite)
    close = [row for row in finite if row["validation_mse"] <= smallest * (1 + _TIE)]
    return max(close, key=lambda row: row["validation_probe"])


def best_probe(trials: list[Row]) -> Row:
    """Best probe; among equals, the smallest error."""
    return max(trials, key=lambda row: (row["validation_probe"], -row["validation_mse"]))


def judge(data: DataSet, method: Method, point: Point, settings: dict[str, Any]) -> Row:
    """Error and probe on the validation rows, the probe fitted on others.

    On 10,000 of them, or on all if it is the probe that counts: what is best with few labels need
    not be with many.
    """
    fitted = method.fit(Task(data.train, SEED, point.k, point.l0), **settings)
    rows, validation = split_rows(data.train, SEED)
    labels, validation_labels = split_rows(data.train_labels, SEED)
    codes = fitted.encode(validation)
    chosen = encoded_rows(len(rows), None if method.tuned_for == "probe" else _PROBE_ROWS)
    probe = linear_probe(fitted.encode(rows[chosen]), labels[chosen], codes, validation_labels)
    return {
        "validation_mse": mse(unit_float(validation), fitted.decode(codes)),
        "validation_probe": probe.accuracy,
        "fit_seconds": fitted.seconds,
    }


def as_python(data: str, best: Iterable[Row]) -> str:
    """Return the part of the table in `settings` that is about these data, to paste."""
    by_method: dict[str, list[str]] = {}
    for row in best:
        entry = f"            Point({row['k']}, {row['l0']}): {row['settings']!r},"
        by_method.setdefault(row["method"], []).append(entry)
    blocks = [
        f'        "{name}": {{\n' + "\n".join(entries) + "\n        },"
        for name, entries in by_method.items()
    ]
    return "\n".join([f'    "{data}": {{', *blocks, "    },"])
