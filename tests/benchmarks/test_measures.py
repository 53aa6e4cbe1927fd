"""The measures of the comparison of coders."""

import zlib

import numpy as np
import pytest
from scipy import sparse
from sklearn.neighbors import KNeighborsClassifier

from benchmarks.codes import measures, plot, table, tune
from benchmarks.codes.methods import METHODS
from benchmarks.codes.protocol import Method, Point, Scaling, Task, keep_largest, split_rows
from benchmarks.codes.settings import settings_for
from benchmarks.common import DataSet, RowFile, machine, measured_on


@pytest.fixture
def codes():
    """200 rows of 12 latents, one of them that of the row's class."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 50)
    values = rng.exponential(size=(200, 12)) * (rng.random((200, 12)) < 0.2)
    values[np.arange(200), labels] += 1
    return values.astype(np.float32), labels


def test_rows_are_split_in_ten_and_ninety_per_cent_without_overlap():
    rows = np.arange(100)
    train, validation = split_rows(rows, seed=1)
    assert len(validation) == 10
    assert sorted([*train, *validation]) == list(rows)
    assert not np.array_equal(validation, split_rows(rows, seed=2)[1])


def test_scaling_gives_mean_zero_and_unit_mean_square_and_goes_back():
    rows = np.random.default_rng(0).integers(0, 256, (50, 6), dtype=np.uint8)
    scaling = Scaling.of(rows)
    x = scaling(rows)
    assert np.abs(x.mean(0)).max() < 1e-6
    assert np.square(x).mean() == pytest.approx(1, rel=1e-5)
    assert scaling.inverse(x) * 255 == pytest.approx(rows.astype(float), abs=1e-3)


def test_truncation_keeps_the_largest_products_of_code_and_weight():
    codes = np.array([[3.0, -2.0, 1.0, 0.5], [0.1, 0.2, -0.3, 4.0]], np.float32)
    kept = keep_largest(codes, np.array([1.0, 1.0, 10.0, 1.0]), 2)
    assert kept.toarray().tolist() == [
        [3.0, 0.0, 1.0, 0.0],
        [0.0, 0.0, pytest.approx(-0.3), 4.0],
    ]


@pytest.mark.parametrize("as_sparse", [False, True])
def test_neighbours_agree_with_scikit_learn_where_there_is_no_tie(codes, as_sparse):
    x, labels = codes
    train, test, known, asked = x[::2], x[1::2], labels[::2], labels[1::2]
    model = KNeighborsClassifier(5, metric="cosine", algorithm="brute").fit(train, known)
    votes = np.sort(model.predict_proba(test), axis=1)
    clear = votes[:, -1] > votes[:, -2]
    assert clear.sum() > 50
    kind = sparse.csr_array if as_sparse else np.asarray
    ours = measures.nearest_neighbours(kind(train), known, kind(test[clear]), asked[clear])
    assert ours == pytest.approx(model.score(test[clear], asked[clear]))


def test_a_row_of_zeros_has_neighbours_too(codes):
    x, labels = codes
    score = measures.nearest_neighbours(sparse.csr_array(x), labels, np.zeros((3, 12)), labels[:3])
    assert 0 <= score <= 1


def test_few_labels_depend_on_the_seed_only(codes):
    x, labels = codes
    args = (sparse.csr_array(x), labels, sparse.csr_array(x), labels, 40)
    assert measures.few_labels(*args, seed=0) == measures.few_labels(*args, seed=0)
    assert measures.few_labels(*args, seed=0) > 0.3


def test_bits_are_those_of_the_documented_layout():
    codes = np.array([[0, 2, 0, 1], [0, 0, 0, 0], [3, 0, 0, 0]], np.float32)
    rms = np.sqrt(np.mean(np.square([2, 1, 3])))
    buffer = (
        np.array([2, 0, 1, 1, 3, 0], np.uint16).tobytes()
        + (np.array([2, 1, 3]) / rms).astype(np.float16).tobytes()
    )
    expected = 8 * len(zlib.compress(buffer)) / 3
    assert measures.bits_per_code(codes) == expected
    assert measures.bits_per_code(sparse.csr_array(codes)) == expected
    assert measures.bits_per_code(1000 * codes) == expected


def test_bits_leave_the_codes_as_they_are():
    codes = sparse.csr_array((np.array([1.0, 0.0]), np.array([1, 0]), np.array([0, 2])), (1, 2))
    measures.bits_per_code(codes)
    assert codes.nnz == 2


def test_sparsity_counts_on_the_rows_given():
    codes = sparse.csr_array(np.array([[1, 0, 0, 2], [1, 0, 0, 0]], np.float32))
    row = measures.sparsity(codes, Point(4, 1))
    assert (row["alive"], row["always_on"]) == (2, 1)
    assert (row["l0_mean"], row["l0_sd"], row["zeros"]) == (1.5, 0.5, 0.625)
    assert row["zeros_asked"] == 0.75


def test_a_slow_encoder_sees_the_same_rows_every_time():
    assert len(measures.encoded_rows(100, None)) == 100
    assert len(measures.encoded_rows(100, 30)) == 30
    assert np.array_equal(measures.encoded_rows(100, 30), measures.encoded_rows(100, 30))


@pytest.fixture
def data():
    """300 images of 16 pixels in four classes."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 400)
    means = rng.integers(0, 200, (4, 16))
    rows = np.clip(means[labels] + rng.normal(0, 20, (400, 16)), 0, 255).astype(np.uint8)
    return DataSet("made up", rows[:300], labels[:300], rows[300:], labels[300:])


@pytest.mark.parametrize("name", ["pca_truncated", "topk", "pixels"])
def test_a_measured_row_fills_the_table(data, name):
    method, point = METHODS[name], Point(8, 3)
    settings = settings_for(method, point)
    if name == "topk":
        settings["steps"] = 20
    key = {"data": data.name, "k": 8, "l0": 3, "method": name, "seed": 0}
    if not method.per_point:
        key |= {"k": 0, "l0": 0}
    row = {**key, **measures.measure(method, data, point, 0, settings)}
    by_method = table.select([row], data.name, point)
    cells = table.cells(by_method, {**table.WORTH, **table.NATURE})
    assert len(cells) == 1
    assert (cells[0]["MSE"] == "–") is (name == "pixels")
    assert row["probe"] > 0.5


def test_markdown_has_one_line_for_each_coder(data, tmp_path):
    method, point = METHODS["pca"], Point(8, 3)
    key = {"data": data.name, "k": 8, "l0": 3, "method": "pca", "seed": 0, "machine": machine()}
    row = {**key, **measures.measure(method, data, point, 0, {})}
    tables = table.titled([row], [point])
    table.write_markdown(tmp_path / "codes.md", tables, [row], [point], [])
    text = (tmp_path / "codes.md").read_text()
    assert text.count("| PCA, dense |") == 2
    assert f"Measured on {machine()}." in text


def test_a_machine_is_named_once_with_all_sources_that_ran_there():
    rows = [{"machine": f"{place} (sources {source})"} for place in "BA" for source in (2, 1, 2)]
    assert measured_on(rows) == [
        "Measured on A (sources 1, 2).",
        "Measured on B (sources 1, 2).",
    ]


def test_two_methods_of_one_fit_share_it(data):
    task = Task(data.train, 0, 8, 3)
    dense, cut = METHODS["pca"].fit(task), METHODS["pca_truncated"].fit(task)
    assert cut.coder is dense
    assert METHODS["pca"].fit(Task(data.train, 1, 8, 3)) is not dense


def test_the_tuning_prefers_the_error_then_the_probe():
    trials = [
        {"validation_mse": 1.0, "validation_probe": 0.90},
        {"validation_mse": 1.005, "validation_probe": 0.95},
        {"validation_mse": 1.1, "validation_probe": 0.99},
        {"validation_mse": float("nan"), "validation_probe": 1.0},
    ]
    assert tune.winner(trials) is trials[1]


def test_a_method_can_be_tuned_for_the_probe(data, tmp_path):
    def fit(task, k):
        coder = METHODS["pca_truncated"].fit(Task(task.rows, 0, k, task.l0))
        coder.l0 = k
        return coder

    file = RowFile(tmp_path / "tuning.jsonl", fresh=True)
    for tuned_for in ("error", "probe"):
        method = Method(tuned_for, "made up", "classical", fit, {"k": (1, 9, 4)}, tuned_for)
        best = tune.search(data, method, Point(8, 3), file)
        trials = [row for row in file.rows if row["method"] == tuned_for]
        sign = 1 if tuned_for == "error" else -1
        field = "validation_mse" if tuned_for == "error" else "validation_probe"
        assert len(trials) == 3
        assert sign * best[field] == min(sign * row[field] for row in trials)
    equal = [
        {"validation_mse": 1.0, "validation_probe": 0.9},
        {"validation_mse": 0.5, "validation_probe": 0.9},
        {"validation_mse": 0.1, "validation_probe": 0.8},
    ]
    assert tune.best_probe(equal) is equal[1]


def test_the_tuning_goes_through_the_knobs_and_never_measures_twice(data, tmp_path):
    tried = []

    def fit(task, a, b):
        tried.append((a, b))
        coder = METHODS["pca_truncated"].fit(Task(task.rows, 0, 4 + a + b, task.l0))
        coder.l0 = 2 + a + b
        return coder

    method = Method("made_up", "made up", "classical", fit, {"a": (0, 2), "b": (1, 0, 2)})
    file = RowFile(tmp_path / "tuning.jsonl", fresh=True)
    best = tune.search(data, method, Point(8, 3), file)
    assert tried == [(0, 1), (2, 1), (2, 0), (2, 2)]
    assert best["settings"] == {"a": 2, "b": 2}
    assert tune.search(data, method, Point(8, 3), file) == best
    assert len(tried) == 4
    to_paste = tune.as_python("made up", [best])
    pasted = eval("{" + to_paste + "}", {"Point": Point})  # it is code, for `settings`
    assert pasted == {"made up": {best["method"]: {Point(8, 3): {"a": 2, "b": 2}}}}


@pytest.mark.parametrize(
    ("best", "tried"),
    [
        (2.0, [1.0, 2.0, 4.0]),
        (30.0, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]),
        (0.2, [1.0, 2.0, 4.0, 0.5, 0.25, 0.125]),
    ],
)
def test_the_tuning_goes_on_where_the_last_value_of_a_grid_is_the_best(
    data, tmp_path, monkeypatch, best, tried
):
    def judge(data, method, point, settings):
        return {"validation_mse": max(abs(settings["a"] - best), 5e-3), "validation_probe": 0}

    monkeypatch.setattr(tune, "judge", judge)
    method = Method("made_up", "made up", "classical", None, {"a": (1.0, 2.0, 4.0)})
    file = RowFile(tmp_path / "tuning.jsonl", fresh=True)
    tune.search(data, method, Point(8, 3), file)
    assert [row["settings"]["a"] for row in file.rows] == tried


def test_rows_of_the_settings_in_force_replace_earlier_ones():
    key = {"data": "MNIST", "k": 64, "l0": 13, "method": "topk"}
    point, topk = Point(64, 13), METHODS["topk"]
    old = [{**key, "seed": seed, "settings": {"lr": 1.0}} for seed in range(2)]
    assert table.select(old, "MNIST", point) == {topk: old}
    assert table.caveats(old) == [
        "Measured with settings that a later search has replaced: TopK SAE (MNIST, 64)."
    ]
    assert table.settings_table(old, [point], "MNIST") == [{"coder": topk.label, "64, 13": "lr 1"}]
    new = [{**key, "seed": 0, "settings": settings_for(topk, point)}]
    assert table.select([*old, *new], "MNIST", point) == {topk: new}
    assert table.caveats([*old, *new]) == []


def test_the_fronts_are_drawn(tmp_path):
    key = {"data": "made up", "k": 8, "l0": 3, "l0_mean": 3.0, "settings": {}}
    rows = [
        {**key, "method": name, "seed": seed, "mse": 0.01 * (i + 1), "probe": 0.9 + 0.01 * seed}
        for i, name in enumerate(["sparsecode", "topk", "vsc", "pca_truncated", "untrained"])
        for seed in range(2)
    ]
    pixels = {**key, "k": 0, "l0": 0, "method": "pixels", "seed": 0, "probe": 0.9}
    plot.fronts(tmp_path / "codes.png", [*rows, pixels], [Point(8, 3), Point(16, 3)])
    assert (tmp_path / "codes.png").stat().st_size > 10_000
