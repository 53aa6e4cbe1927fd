"""Training on files: what is read, and how a training goes on."""

import json

import numpy as np
import pytest
from PIL import Image

import sparsecode
from sparsecode import file_fitting
from sparsecode.errors import NoInputError, RefusedError
from sparsecode.file_fitting import InputOptions

FAST = {"n_components": 8, "batch_size": 16, "random_state": 0, "device": "cpu"}
HERE = InputOptions(n_workers=0)


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (5, 6), dtype=np.uint8)).save(tmp_path / f"in/{i}.png")
    return tmp_path / "in"


def fit(inputs, model, resume=False, **parameters):
    given = parameters if resume else FAST | parameters
    return sparsecode.fit_files([inputs], model, options=HERE, parameters=given, resume=resume)


def test_a_training_goes_on_for_the_epochs_that_are_left(images, tmp_path):
    model = tmp_path / "m.safetensors"
    first = fit(images, model, max_iter=2)
    before = first.model_.state_dict()
    said = []
    untouched = model.read_bytes()
    second = sparsecode.fit_files(
        [images], model, options=HERE, parameters={"max_iter": 5, "random_state": 0}, resume=True,
        report=said.append, log_dir=tmp_path / "log",
    )  # fmt: skip
    assert said[-1] == "going on: 2 of 5 epochs were done"
    assert [record.epoch for record in second.history_] == [1, 2, 3, 4, 5]
    lines = (tmp_path / "log/history.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [3, 4, 5]
    assert len(second.history_) == second.n_iter_ == 5
    assert second.history_[:2] == first.history_
    loaded = sparsecode.SparseVAETransformer.load(model)
    assert (loaded.max_iter, loaded.warm_start, loaded.n_components) == (5, False, 8)
    assert len(loaded.history_) == 5
    changed = [not np.allclose(value, before[name]) for name, value in
               loaded.model_.state_dict().items()]  # fmt: skip
    assert any(changed)
    (tmp_path / "again.safetensors").write_bytes(untouched)
    again = fit(images, tmp_path / "again.safetensors", True, max_iter=5, random_state=0)
    for name, value in again.model_.state_dict().items():
        np.testing.assert_array_equal(value, second.model_.state_dict()[name])
    # From where it was, not from the start.
    assert second.history_[2].distortion < first.history_[0].distortion


def test_nothing_left_nothing_there_and_other_inputs_are_refused(images, tmp_path):
    model = tmp_path / "m.safetensors"
    with pytest.raises(NoInputError, match=r"no model .* to go on with"):
        fit(images, model, resume=True)
    fit(images, model, max_iter=2)
    with pytest.raises(RefusedError, match=r"has had 2 epochs of 2; name more with --max-iter"):
        fit(images, model, resume=True)
    np.save(tmp_path / "X.npy", np.zeros((10, 30), np.float32))
    with pytest.raises(RefusedError, match="another kind of input"):
        fit(tmp_path / "X.npy", model, resume=True)


def test_more_rows_than_memory_may_hold_are_sampled(tmp_path, monkeypatch):
    np.save(tmp_path / "X.npy", np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32))
    monkeypatch.setattr(file_fitting, "TRAINING_BYTES", 3 * 4 * 40)
    said = []
    found = sparsecode.fit_files(
        [tmp_path / "X.npy"], tmp_path / "m.safetensors", report=said.append,
        parameters=FAST | {"max_iter": 1},
    )  # fmt: skip
    assert said == ["training on a random sample of 40 of 100 rows"]
    assert found.n_features_in_ == 3
