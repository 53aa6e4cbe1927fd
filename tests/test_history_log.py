"""`fit --log-dir`: what is logged is the model's own history."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

import sparsecode
from sparsecode.errors import OutputError, RefusedError
from sparsecode.history_log import HistoryLog
from sparsecode.trainer import EpochRecord

RECORD = EpochRecord(1, 3.0, 1.0, 0.5, 2.0, 0.2, 4, None, 100, 0.1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    np.save(folder / "X.npy", np.random.default_rng(0).normal(size=(80, 6)).astype(np.float32))

    def fit(*more):
        command = [sys.executable, "-m", "sparsecode", "fit", "X.npy", "m.safetensors", "-k", "4"]
        command += ["--max-iter", "3", "--batch-size", "16", "--log-dir", "log", *more]
        return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=os.environ)

    return folder, fit, fit()


def test_json_lines_and_events_are_the_models_history(run):
    folder, _, result = run
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in (folder / "log" / "history.jsonl").open()]
    history = sparsecode.SparseVAETransformer.load(folder / "m.safetensors").history_
    assert [line["epoch"] for line in lines] == [1, 2, 3], "calibration is not logged"
    assert [line["distortion"] for line in lines] == [record.distortion for record in history]
    assert [line["rate"] for line in lines] == [record.rate for record in history]
    events = EventAccumulator(str(folder / "log")).Reload()
    tag = "training/distortion"
    assert events.SummaryMetadata(tag).plugin_data.plugin_name == "scalars"
    logged = events.Tensors(tag)
    assert [event.step for event in logged] == [1, 2, 3]
    values = [float(make_ndarray(event.tensor_proto)) for event in logged]
    assert values == pytest.approx([record.distortion for record in history], rel=1e-5)


def test_a_history_is_not_replaced_unasked(run):
    folder, fit, _ = run
    before = (folder / "log" / "history.jsonl").read_bytes()
    (folder / "m.safetensors").rename(folder / "old.safetensors")
    refused = fit()
    assert refused.returncode == 2
    assert "history.jsonl exists" in refused.stderr
    assert not (folder / "m.safetensors").exists()
    assert (folder / "log" / "history.jsonl").read_bytes() == before
    assert fit("--overwrite", "-q").returncode == 0


def test_a_line_is_there_as_soon_as_its_epoch_ends(tmp_path):
    with HistoryLog(tmp_path / "new" / "log") as log:
        log(RECORD)
        (line,) = (tmp_path / "new" / "log" / "history.jsonl").read_text().splitlines()
        assert json.loads(line)["rate"] == 1.5


def test_without_tensorboard_there_is_still_a_history(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    with HistoryLog(tmp_path) as log:
        assert not log.has_events
        log(RECORD)
    assert {path.name for path in tmp_path.iterdir()} == {"history.jsonl"}


def test_folders_that_cannot_be_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        HistoryLog(tmp_path / "file" / "log")
    HistoryLog(tmp_path).__exit__(None, None, None)
    with pytest.raises(RefusedError, match="--overwrite"):
        HistoryLog(tmp_path)


def test_a_fitted_estimator_keeps_no_listener(tmp_path):
    import pickle

    np.save(tmp_path / "X.npy", np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32))
    model = sparsecode.fit_files(
        [tmp_path / "X.npy"],
        tmp_path / "m.safetensors",
        parameters={"n_components": 4, "max_iter": 2, "random_state": 0},
        log_dir=tmp_path / "log",
    )
    pickle.loads(pickle.dumps(model))
    model.fit(np.load(tmp_path / "X.npy"))
    assert len((tmp_path / "log" / "history.jsonl").read_text().splitlines()) == 2
