"""What the benchmarks share: data sets, the linear probe, resumable rows, tables.

Not a benchmark itself. The scripts beside it are run from the root of the repository and print
their table on stdout; they download their data unless ``--data-dir`` has them already.
"""

import argparse
import copy
import csv
import hashlib
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import sklearn
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import sparse
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import sparsecode

Features: TypeAlias = NDArray | sparse.csr_array
Row: TypeAlias = dict[str, Any]

RESULTS = Path(__file__).parent / "results"
# Of text and, at most, of a table: none is ever cut.
_WIDTH, _TABLE_WIDTH = 118, 200
_DIGITS_TEST = 400
_FASHION_PUBLISHED = (9, 2, 1, 1, 6, 1, 4, 6, 5, 7)

PROBE_CS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
_PROBE_PATIENCE = 2
_PROBE_HELD_OUT = 10_000
_PROBE_ITERATIONS = 200
PROBE_NOTE = (
    "Probe: multinomial logistic regression (L-BFGS, at most 200 iterations), features divided by "
    f"their standard deviation without centring; C from {PROBE_CS[0]:g} to {PROBE_CS[-1]:g} chosen "
    f"on {_PROBE_HELD_OUT:,} training rows held out (a quarter of fewer rows), then fitted to all."
)


# -- data ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataSet:
    """Rows and labels, split once and for all.

    Attributes
    ----------
    name : str
    train, test : ndarray of shape (n, d)
        uint8 images, or float32 (digits).
    train_labels, test_labels : ndarray of shape (n,)
    note : str
        What a reader must know about this copy of the data; "" if nothing.
    """

    name: str
    train: NDArray
    train_labels: NDArray
    test: NDArray
    test_labels: NDArray
    note: str = ""

    def subset(self, n_rows: int, seed: int) -> "DataSet":
        """Keep ``n_rows`` training rows, drawn at random."""
        chosen = np.random.default_rng(seed).permutation(len(self.train))[:n_rows]
        name = f"{self.name}, {n_rows:,} rows"
        rows, labels = self.train[chosen], self.train_labels[chosen]
        return DataSet(name, rows, labels, self.test, self.test_labels, self.note)


def load_mnist(data_dir: Path) -> DataSet:
    return _torchvision("MNIST", data_dir)


def load_fashion(data_dir: Path) -> DataSet:
    data = _torchvision("Fashion-MNIST", data_dir)
    if tuple(data.test_labels[: len(_FASHION_PUBLISHED)]) == _FASHION_PUBLISHED:
        return data
    note = (
        "Fashion-MNIST here is a stratified re-split of all 70,000 images into 60,000 / 10,000, "
        "not the published split: compare its figures with each other only."
    )
    return DataSet(data.name, data.train, data.train_labels, data.test, data.test_labels, note)


def load_small_digits(seed: int = 0) -> DataSet:
    """scikit-learn's 8x8 digits, 1,397 / 400 rows, stratified."""
    x, y = load_digits(return_X_y=True)
    train, test, train_labels, test_labels = train_test_split(
        x.astype(np.float32), y, test_size=_DIGITS_TEST, stratify=y, random_state=seed
    )
    return DataSet("digits", train, train_labels, test, test_labels)


def _torchvision(name: str, data_dir: Path) -> DataSet:
    from torchvision import datasets  # needed for these data alone

    kind = getattr(datasets, name.replace("-", ""))
    parts = [kind(str(data_dir), train=train, download=True) for train in (True, False)]
    (train, train_labels), (test, test_labels) = (
        (part.data.numpy().reshape(len(part), -1), part.targets.numpy()) for part in parts
    )
    return DataSet(name, train, train_labels, test, test_labels)


def unit_float(rows: NDArray) -> NDArray[np.float32]:
    """Float rows as the estimator sees them: uint8 is scaled to [0, 1]."""
    return rows.astype(np.float32) / np.float32(255 if rows.dtype == np.uint8 else 1)


# -- the machine ---------------------------------------------------------------------------------

_SOURCES_MARK = " (sources "


def machine() -> str:
    """CPU, threads, GPU and versions in one line."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{_cpu_model()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch thread(s), "
        f"{gpu}; Python {platform.python_version()}, torch {torch.__version__}, scikit-learn "
        f"{sklearn.__version__}, sparsecode {sparsecode.__version__}{_SOURCES_MARK}{_SOURCES})"
    )


def measured_on(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say which machines made these rows: a sentence each, with all sources that ran there."""
    sources: dict[str, set[str]] = {}
    for row in rows:
        place, _, source = row["machine"].removesuffix(")").partition(_SOURCES_MARK)
        sources.setdefault(place, set()).add(source)
    return [
        f"Measured on {place}{_SOURCES_MARK}{', '.join(sorted(sources[place]))})."
        for place in sorted(sources)
    ]


def _fingerprint() -> str:
    """Hash of the package's sources: rows made by different code must not pass for the same."""
    folder = Path(sparsecode.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


_SOURCES = _fingerprint()


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


# -- the probe -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProbeScore:
    """Accuracy of the linear probe on the test rows, and the C that was chosen for it."""

    accuracy: float
    C: float


def linear_probe(
    train: Features, labels: NDArray, test: Features, test_labels: NDArray
) -> ProbeScore:
    """Fit multinomial logistic regressions of growing C; score the best on held-out rows.

    Each fit starts from the last one, and the search ends when two values of C in a row did not
    raise the accuracy on the held-out training rows. The winner goes on to fit all training rows.
    """
    scaler = StandardScaler(with_mean=False).fit(train)
    x, x_test = scaler.transform(train), scaler.transform(test)
    n_held_out = min(_PROBE_HELD_OUT, len(labels) // 4)
    x_fit, x_held_out, y_fit, y_held_out = train_test_split(
        x, labels, test_size=n_held_out, stratify=labels, random_state=0
    )
    model = LogisticRegression(warm_start=True, max_iter=_PROBE_ITERATIONS)
    best, best_score, n_worse = model, -1.0, 0
    for C in PROBE_CS:
        score = model.set_params(C=C).fit(x_fit, y_fit).score(x_held_out, y_held_out)
        n_worse += 1
        if score > best_score:
            best, best_score, n_worse = copy.deepcopy(model), score, 0
        if n_worse == _PROBE_PATIENCE:
            break
    best.fit(x, labels)
    return ProbeScore(float(best.score(x_test, test_labels)), float(best.C))


# -- measures on codes ---------------------------------------------------------------------------


def zero_fraction(codes: Features) -> float:
    return 1 - _nonzeros(codes).sum() / np.prod(codes.shape)


def row_l0(codes: Features) -> NDArray[np.int64]:
    """Non-zeros of each row."""
    return _nonzeros(codes).sum(1)


def activation_frequency(codes: Features) -> NDArray[np.float64]:
    """Fraction of rows in which each latent is not zero."""
    return _nonzeros(codes).mean(0)


def _nonzeros(codes: Features) -> NDArray[np.bool_]:
    return (codes if isinstance(codes, np.ndarray) else codes.toarray()) != 0


def mse(x: NDArray, reconstruction: NDArray) -> float:
    """Mean squared error per pixel, in the units of x."""
    return float(np.mean((x - reconstruction) ** 2, dtype=np.float64))


# -- rows that outlive an interruption -----------------------------------------------------------


class RowFile:
    """JSON lines, one per finished measurement; measurements found there are not repeated.

    Parameters
    ----------
    path : Path
        Appended to.
    fresh : bool
        Start anew.
    """

    def __init__(self, path: Path, fresh: bool) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            path.unlink(missing_ok=True)
        self.rows = list(_parse(path.read_text().splitlines())) if path.exists() else []

    def get(self, key: Mapping[str, Any], measure: Callable[[], Row]) -> Row:
        """Return the row of this key, from the file or measured now and written to it."""
        for row in self.rows:
            if all(row.get(name) == value for name, value in key.items()):
                return row
        row = {**key, **measure(), "machine": machine()}
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(_progress(row), file=sys.stderr, flush=True)
        return row


def _parse(lines: Iterable[str]) -> Iterable[Row]:
    for line in lines:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:  # the line that a kill cut short
            continue


def _progress(row: Row) -> str:
    shown = {name: value for name, value in row.items() if name != "machine"}
    return "  ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in shown.items()
    )


# -- tables --------------------------------------------------------------------------------------


def mean_sd(values: Sequence[float | None], digits: int) -> str:
    """``mean ± SD`` (n - 1), the mean alone of one value, a dash where nothing is defined."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean = f"{np.mean(known):.{digits}f}"
    return mean if len(known) == 1 else f"{mean} ± {np.std(known, ddof=1):.{digits}f}"


def print_table(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Print rows of cells, their keys as header; the first column is text, the others numbers."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, name in enumerate(rows[0]):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row.values())
    print_console(table, width=_TABLE_WIDTH)


def print_console(content: object, width: int = _WIDTH) -> None:
    Console(width=width, highlight=False, markup=False, color_system=None).print(content)


def print_notes(notes: Iterable[str], rows: Sequence[Row]) -> None:
    """Print notes and the machines that made these rows."""
    for note in (*notes, *measured_on(rows)):
        if note:
            print_console(note)


def export(path: Path | None, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table as .csv or .json, if asked for."""
    if path is None:
        return
    if path.suffix == ".json":
        path.write_text(json.dumps(list(rows), indent=1) + "\n")
        return
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


# -- command line --------------------------------------------------------------------------------


def parser(doc: str | None, name: str) -> argparse.ArgumentParser:
    """Options that every benchmark has; ``name`` is that of its files in results/."""
    result = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--data-dir", type=Path, default=Path("data"), help="torchvision's layout")
    result.add_argument(
        "--rows",
        type=Path,
        default=RESULTS / f"{name}.jsonl",
        help="finished measurements; an interrupted run goes on from them",
    )
    result.add_argument("--fresh", action="store_true", help="measure everything again")
    result.add_argument("--out", type=Path, help="also write the table as .csv or .json")
    return result
