"""Codes that keep more latents than training did."""

import numpy as np
import pytest

from benchmarks import denser_codes
from benchmarks.codes.protocol import Point
from benchmarks.common import DataSet


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(600, 12))
    rows = np.clip(128 + 30 * weights @ rng.normal(size=(12, 49)), 0, 255).astype(np.uint8)
    labels = weights.argmax(1) % 3
    return DataSet("images", rows, labels, rows[:200], labels[:200])


@pytest.mark.parametrize("name", ["sparsecode", "k_sparse"])
def test_codes_are_as_dense_as_asked_for(data, name):
    row = denser_codes.measure(data, name, Point(40, 4), (4, 12), 0)
    for l0 in ("4", "12"):
        assert row[l0]["l0"] == pytest.approx(int(l0), rel=0.2)  # ours on 200 rows, by a threshold
        assert row[l0]["probe"] > 0.5  # chance is 1/3
    assert row["4"]["mse"] != row["12"]["mse"]


def test_a_table_has_a_line_for_each_density():
    measures = {"l0": 25.0, "mse": 0.01, "probe": 0.97}
    rows = [
        {"method": name, "trained": trained, "seed": 0, **{str(l0): measures for l0 in coded}}
        for name, trained, coded in denser_codes.LINES
    ]
    cells = denser_codes.table(rows)
    assert [line["coded at"] for line in cells] == ["25", "75", "25", "75", "25", "75", "75"]
    assert cells[0]["probe"] == "0.9700"
