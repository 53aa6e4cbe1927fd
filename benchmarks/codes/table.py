"""The rows of the runs as tables: text for the terminal, Markdown for the documentation."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.codes.measures import ALWAYS_ON, N_NEIGHBOURS
from benchmarks.codes.methods import METHODS
from benchmarks.codes.protocol import Method, Point
from benchmarks.codes.settings import settings_for
from benchmarks.codes.training import STEPS
from benchmarks.common import (
    PROBE_NOTE,
    Row,
    mean_sd,
    measured_on,
    print_console,
    print_notes,
    print_table,
)

Cells = dict[str, str]
_L0_TOLERANCE = 1.1

# Title: field, digits. Two tables: what codes are worth, and what they are like.
WORTH = {
    "MSE": ("mse", 4),
    "expl. var.": ("explained", 3),
    "probe": ("probe", 4),
    f"{N_NEIGHBOURS}-NN": ("knn", 4),
    "200 labels": ("labels_200", 3),
    "1,000": ("labels_1000", 3),
    "5,000": ("labels_5000", 3),
}
NATURE = {
    "L0": ("l0_mean", 2),
    "L0, SD": ("l0_sd", 1),
    "zeros": ("zeros", 4),
    "alive": ("alive", 0),
    "always on": ("always_on", 0),
    "bits": ("bits", 0),
    "rate, nats": ("rate", 1),
    "fit, s": ("fit_seconds", 0),
    "rows/s": ("rows_per_second", 0),
}

NOTES = (
    "On the 10,000 test rows, mean ± SD over n seeds. MSE per pixel in [0, 1]; explained variance "
    "against the mean training image. 200, 1,000, 5,000 labels: the probe on so many stratified "
    f"training rows. {N_NEIGHBOURS}-NN: nearest neighbours by cosine among the training rows.",
    PROBE_NOTE + " With few labels a quarter of them chooses C.",
    "L0 is calibrated on 10 % of the training rows and measured on the test rows; L0, SD: spread "
    f"over rows. Alive: latents that fire on a test row; always on: on more than {ALWAYS_ON:.0%} "
    "of them. Bits: CSR (uint16 counts and columns, float16 values), deflated, per row. Rate: "
    "what the model itself charges, where it is one with a rate.",
    f"Everything that learns by gradients: {STEPS:,} steps of 256 rows (512 at (1000, 25); "
    "sparsecode's epochs make 2,940 and 3,045), warm-up and cosine decay, inputs centred and "
    "divided by one SD; rivals' settings tuned on validation rows, sparsecode with its defaults. "
    "“For probes”: tuned for the probe on those rows instead of the error. Dense methods stand as "
    "they are and truncated to L0 per row, by what each entry adds to the reconstruction.",
)


def select(rows: Sequence[Row], data: str, point: Point) -> dict[Method, list[Row]]:
    """Rows of one table by method, in the registry's order.

    Those measured with the settings in force, or, where there are none yet, with earlier ones.
    """
    found = {
        method: [row for row in rows if _belongs(row, method, data, point)]
        for method in METHODS.values()
    }
    return {
        method: [row for row in of_method if is_current(row, method, point)] or of_method
        for method, of_method in found.items()
        if of_method
    }


def is_current(row: Row, method: Method, point: Point) -> bool:
    """Tell whether a row was measured with the settings in force."""
    return bool(row["settings"] == settings_for(method, point, row["data"].split(",")[0]))


def _belongs(row: Row, method: Method, data: str, point: Point) -> bool:
    key = (point.k, point.l0) if method.per_point else (0, 0)
    return row["method"] == method.name and row["data"] == data and (row["k"], row["l0"]) == key


def keeps_l0(rows: Sequence[Row], point: Point) -> bool:
    """Tell whether codes have about as few non-zeros as were asked for; dense ones do not."""
    return bool(np.mean([row["l0_mean"] for row in rows]) <= _L0_TOLERANCE * point.l0)


def cells(by_method: dict[Method, list[Row]], columns: dict[str, tuple[str, int]]) -> list[Cells]:
    """One table's cells."""
    return [
        {
            "coder": method.label,
            "n": str(len(rows)),
            **{
                title: mean_sd([row.get(field) for row in rows], digits)
                for title, (field, digits) in columns.items()
            },
        }
        for method, rows in by_method.items()
    ]


def caveats(rows: Sequence[Row]) -> list[str]:
    """Say what only the rows know about how they were made."""
    partly = sorted(
        {
            f"{METHODS[row['method']].label} ({row['encoded_rows']:,})"
            for row in rows
            if METHODS[row["method"]].encoded_rows
        }
    )
    said = []
    if partly:
        said.append(
            "Probes of a slow encoder see only some training rows, the same ones for every seed: "
            + ", ".join(partly)
            + "."
        )
    if old := _outdated(rows):
        said.append(f"Measured with settings that a later search has replaced: {', '.join(old)}.")
    return said


def _outdated(rows: Sequence[Row]) -> list[str]:
    places = dict.fromkeys((row["data"], Point(row["k"], row["l0"])) for row in rows)
    return [
        f"{method.label} ({data}, {point.k})"
        for data, point in places
        for method, shown in select(rows, data, point).items()
        if not is_current(shown[0], method, point)
    ]


def titled(rows: Sequence[Row], points: Sequence[Point]) -> Iterable[tuple[str, list[Cells]]]:
    """Both tables of each data set and point that has rows."""
    for data in dict.fromkeys(row["data"] for row in rows):
        for point in points:
            by_method = select(rows, data, point)
            if any(method.per_point for method in by_method):
                title = f"{data}, {point.k} latents, {point.l0} non-zeros"
                yield f"{title}: what the codes are worth", cells(by_method, WORTH)
                yield f"{title}: what they are like", cells(by_method, NATURE)


def print_tables(
    tables: Iterable[tuple[str, list[Cells]]], rows: Sequence[Row], notes: Iterable[str]
) -> None:
    """Print on stdout."""
    for title, table in tables:
        print_table(title, table)
        print_console("")
    print_notes((*NOTES, *caveats(rows), *notes), rows)


def write_markdown(
    path: Path,
    tables: Iterable[tuple[str, list[Cells]]],
    rows: Sequence[Row],
    points: Sequence[Point],
    notes: Iterable[str],
) -> None:
    """Write the tables, and the settings of the rivals, as one Markdown file."""
    parts = [f"### {title}\n\n{markdown(table)}" for title, table in tables]
    for data in dict.fromkeys(row["data"] for row in rows):
        if table := settings_table(rows, points, data):
            parts.append(f"### Settings of the rivals, {data}\n\n{markdown(table)}")
    text = [note for note in (*NOTES, *caveats(rows), *notes, *measured_on(rows)) if note]
    path.write_text("\n\n".join([*parts, *text]) + "\n")


def markdown(table: list[Cells]) -> str:
    """Lines of a table, the first column flush left."""
    header = list(table[0])
    rule = [":--" if i == 0 else "--:" for i in range(len(header))]
    lines = [header, rule, *(list(row.values()) for row in table)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def settings_table(rows: Sequence[Row], points: Sequence[Point], data: str) -> list[Cells]:
    """List the settings that the rows shown were measured with."""
    by_point = {point: select(rows, data, point) for point in points}
    tuned = [m for m in METHODS.values() if any(m in shown for shown in by_point.values())]
    return [
        {
            "coder": method.label,
            **{
                f"{point.k}, {point.l0}": _settings(shown.get(method, []))
                for point, shown in by_point.items()
            },
        }
        for method in tuned
        if method.grid
    ]


def _settings(rows: Sequence[Row]) -> str:
    found = {", ".join(f"{key} {value:g}" for key, value in r["settings"].items()) for r in rows}
    return " or ".join(sorted(found)) or "–"
