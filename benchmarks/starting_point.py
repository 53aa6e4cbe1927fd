"""What the default estimator's codes are worth on MNIST, beside pixels, PCA and no training.

Two settings, (64 latents, p = .8) and (512, p = .95), five seeds: accuracy of a linear probe, error
of the reconstruction, latents that never or always fire, zeros kept. A probe of a code says little
without its baselines: raw pixels, as many principal components, as few of them as the code has
non-zeros, and the same network untrained.

    python benchmarks/starting_point.py --data-dir ../shared/data --seeds 5
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from common import (
    PROBE_NOTE,
    DataSet,
    Row,
    RowFile,
    activation_frequency,
    export,
    linear_probe,
    load_mnist,
    mean_sd,
    mse,
    parser,
    print_console,
    print_notes,
    print_table,
    row_l0,
    unit_float,
    zero_fraction,
)
from sklearn.decomposition import PCA

from sparsecode import SparseVAETransformer

ALWAYS_ON = 0.5
# One pass with steps too small to move a weight: what training adds is then all that differs.
UNTRAINED = {"max_iter": 1, "learning_rate": 1e-12}

TRAINED, NOT_TRAINED, PRINCIPAL, PIXELS = "sparsecode", "untrained", "PCA", "raw pixels"


@dataclass(frozen=True)
class Setting:
    """Number of latents and fraction of zeros."""

    n_latents: int
    p: float

    @property
    def l0(self) -> int:
        """Non-zeros per row that were asked for."""
        return round(self.n_latents * (1 - self.p))

    @property
    def title(self) -> str:
        """Both numbers and what they make."""
        return f"MNIST, {self.n_latents} latents, p={self.p:g}: {self.l0} non-zeros asked for"


SETTINGS = (Setting(64, 0.8), Setting(512, 0.95))


def measure_estimator(data: DataSet, setting: Setting, seed: int, **changes: Any) -> Row:
    estimator = SparseVAETransformer(setting.n_latents, setting.p, random_state=seed, **changes)
    start = time.perf_counter()
    estimator.fit(data.train)
    seconds = time.perf_counter() - start
    codes = estimator.transform(data.test)
    probe = linear_probe(
        estimator.transform(data.train), data.train_labels, codes, data.test_labels
    )
    frequency, l0 = activation_frequency(codes), row_l0(codes)
    return {
        "probe": probe.accuracy,
        "probe_C": probe.C,
        **_errors(data, estimator.inverse_transform(codes)),
        "dead": int((frequency == 0).sum()),
        "always_on": int((frequency > ALWAYS_ON).sum()),
        "l0": float(l0.mean()),
        "l0_sd": float(l0.std()),
        "zeros": zero_fraction(codes),
        "seconds": seconds,
    }


def measure_pca(data: DataSet, n_components: int) -> Row:
    train, test = unit_float(data.train), unit_float(data.test)
    start = time.perf_counter()
    pca = PCA(n_components, svd_solver="covariance_eigh").fit(train)
    seconds = time.perf_counter() - start
    codes = pca.transform(test)
    probe = linear_probe(pca.transform(train), data.train_labels, codes, data.test_labels)
    return {
        "probe": probe.accuracy,
        "probe_C": probe.C,
        **_errors(data, pca.inverse_transform(codes)),
        "l0": float(n_components),
        "l0_sd": 0.0,
        "zeros": 0.0,
        "seconds": seconds,
    }


def measure_pixels(data: DataSet) -> Row:
    train, test = unit_float(data.train), unit_float(data.test)
    l0 = row_l0(test)
    probe = linear_probe(train, data.train_labels, test, data.test_labels)
    return {
        "probe": probe.accuracy,
        "probe_C": probe.C,
        "l0": float(l0.mean()),
        "l0_sd": float(l0.std()),
        "zeros": zero_fraction(test),
    }


def _errors(data: DataSet, reconstruction: np.ndarray) -> Row:
    test = unit_float(data.test)
    error = mse(test, reconstruction)
    variance = float(test.var(axis=0, dtype=np.float64).mean())
    return {"mse": error, "explained": 1 - error / variance}


_COLUMNS = {
    "probe": ("probe", 4),
    "MSE": ("mse", 4),
    "expl. var.": ("explained", 3),
    "dead": ("dead", 1),
    "always on": ("always_on", 1),
    "L0": ("l0", 1),
    "L0, SD": ("l0_sd", 1),
    "zeros": ("zeros", 4),
    "fit, s": ("seconds", 0),
}
NOTES = (
    "On the 10,000 test rows, mean ± SD over seeds (rows without ± have no randomness). MSE per "
    "pixel in [0, 1]; explained variance against the mean image. Dead: latents that fire on no "
    f"test row; always on: on more than {ALWAYS_ON:.0%} of them. L0: mean non-zeros per row; L0, "
    "SD: spread over rows. Untrained: the same initial network with a calibrated gate.",
    PROBE_NOTE,
)


def table_row(name: str, rows: list[Row]) -> dict[str, str]:
    cells = {
        title: mean_sd([row.get(field) for row in rows], digits)
        for title, (field, digits) in _COLUMNS.items()
    }
    return {"features": name, **cells}


def seeded(
    file: RowFile, name: str, setting: Setting, seeds: int, measure: Callable[[int], Row]
) -> list[Row]:
    key = {"features": name, "n_latents": setting.n_latents, "p": setting.p}
    return [file.get({**key, "seed": seed}, partial(measure, seed)) for seed in range(seeds)]


def rows_of_setting(
    data: DataSet, setting: Setting, seeds: int, file: RowFile
) -> dict[str, list[Row]]:
    def single(name: str, measure: Callable[[], Row]) -> list[Row]:
        return [file.get({"features": name}, measure)]

    def pca(n_components: int) -> list[Row]:
        return single(f"{PRINCIPAL} {n_components}", lambda: measure_pca(data, n_components))

    def estimator(name: str, **changes: Any) -> list[Row]:
        def measure(seed: int) -> Row:
            return measure_estimator(data, setting, seed, **changes)

        return seeded(file, name, setting, seeds, measure)

    return {
        TRAINED: estimator(TRAINED),
        NOT_TRAINED: estimator(NOT_TRAINED, **UNTRAINED),
        f"{PRINCIPAL} {setting.n_latents}": pca(setting.n_latents),
        f"{PRINCIPAL} {setting.l0}": pca(setting.l0),
        PIXELS: single(PIXELS, lambda: measure_pixels(data)),
    }


def run(args: argparse.Namespace) -> None:
    data, file = load_mnist(args.data_dir), RowFile(args.rows, args.fresh)
    shown: list[Row] = []
    for setting in SETTINGS:
        by_name = rows_of_setting(data, setting, args.seeds, file)
        print_table(setting.title, [table_row(name, rows) for name, rows in by_name.items()])
        print_console("")
        shown += [row for rows in by_name.values() for row in rows if row not in shown]
    print_notes(NOTES, shown)
    fields = list(dict.fromkeys(field for row in shown for field in row))
    export(args.out, [{field: row.get(field) for field in fields} for row in shown])


def main() -> None:
    options = parser(__doc__, "starting_point")
    options.add_argument("--seeds", type=int, default=5)
    run(options.parse_args())


if __name__ == "__main__":
    main()
