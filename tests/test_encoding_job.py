"""What was done before decides what is done: nothing, the rest, or a refusal that says why."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sparsecode
from sparsecode import encoding
from sparsecode.encoding_job import EncodeOptions, forecast, prepare
from sparsecode.errors import ImageError, NoInputError, OutputError, RefusedError
from sparsecode.file_fitting import InputOptions
from sparsecode.parts import folder_of, locked

FAST = {"n_components": 8, "max_iter": 2, "batch_size": 16, "random_state": 0, "device": "cpu"}
HERE = InputOptions(n_workers=0)
PARTS = EncodeOptions(part_size=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    X = np.random.default_rng(0).random((60, 30), dtype=np.float32)
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    estimator = sparsecode.SparseVAETransformer(**FAST).fit(X)
    images = sparsecode.images.ImageOptions(5, 6, 1)
    estimator.image_options_ = images.to_dict()
    estimator.save(path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    for i in range(10):
        path = tmp_path / "in" / f"{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (5, 6), dtype=np.uint8)).save(path)
    (tmp_path / "in/0/6.png").write_bytes(b"broken")
    return tmp_path / "in"


def encode(images, output, model=None, run=PARTS, options=HERE, **others):
    parameters = {} if model else FAST
    return sparsecode.encode_files(
        [images], output, model=model, run=run, options=options, parameters=parameters, **others
    )


@pytest.fixture
def reference(images, model, tmp_path) -> bytes:
    encode(images, tmp_path / "reference.h5", model)
    return (tmp_path / "reference.h5").read_bytes()


# --- nothing to do ----------------------------------------------------------------------------


@pytest.mark.parametrize("trains", [False, True])
def test_a_second_run_does_nothing_and_says_so(images, model, tmp_path, trains):
    output = tmp_path / "out.h5"
    given = None if trains else model
    first = encode(images, output, given)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    second = encode(images, output, given)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert second.was_done
    assert not first.was_done
    assert second.explained_variance is None
    same = ("listed", "encoded", "failed", "l0_mean", "zeros_got", "dead_latents", "failures")
    for name in (*same, "files"):
        assert getattr(second, name) == getattr(first, name)
    assert (first.listed, first.encoded, first.failed) == (10, 9, 1)


@pytest.mark.parametrize("change", ["inputs", "model", "parameters", "foreign"])
def test_an_output_of_another_job_is_kept_and_what_differs_is_said(images, model, tmp_path, change):
    output = tmp_path / "out.h5"
    encode(images, output, None if change == "parameters" else model)
    given, match = model, "the inputs differ"
    if change == "inputs":
        Image.new("L", (6, 5)).save(images / "new.png")
    elif change == "model":
        given = tmp_path / "other.safetensors"
        estimator = sparsecode.SparseVAETransformer.load(model)
        estimator.p = 0.7
        estimator.save(given)
        match = "the model differ"
    elif change == "parameters":
        with pytest.raises(RefusedError, match=r"how it was trained differ.*--overwrite"):
            sparsecode.encode_files([images], output, options=HERE, parameters=FAST | {"p": 0.7})
        return
    else:
        output.write_bytes(b"precious")
        match = "no whole file of codes"
    before = output.read_bytes()
    with pytest.raises(RefusedError, match=f"{match}.*--overwrite"):
        encode(images, output, given)
    assert output.read_bytes() == before
    assert not folder_of(output).exists()
    assert not encode(images, output, given, overwrite=True).was_done
    assert sparsecode.verify_codes(output) == []


def test_an_array_that_changed_is_another_input(tmp_path):
    X = np.random.default_rng(0).random((50, 6), dtype=np.float32)
    np.save(tmp_path / "X.npy", X)
    model = tmp_path / "m.safetensors"
    sparsecode.SparseVAETransformer(**FAST).fit(X).save(model)
    encode(tmp_path / "X.npy", tmp_path / "out.h5", model)
    np.save(tmp_path / "copy.npy", X)
    assert encode(tmp_path / "copy.npy", tmp_path / "out.h5", model).was_done
    np.save(tmp_path / "X.npy", X + 1)  # as many bytes as before
    with pytest.raises(RefusedError, match="the inputs differ"):
        encode(tmp_path / "X.npy", tmp_path / "out.h5", model)


# --- going on ---------------------------------------------------------------------------------


def interrupted(images, output, model, monkeypatch, after=1, **others):
    """Run until `after` parts are written."""
    real, count = encoding._Encoder._write_part, iter(range(100))

    def write(self, number, hand):
        if next(count) >= after:
            raise OutputError("the disk is full")
        real(self, number, hand)

    with monkeypatch.context() as patch:
        patch.setattr(encoding._Encoder, "_write_part", write)
        with pytest.raises(OutputError, match="the disk is full"):
            encode(images, output, model, **others)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_interrupted_job_goes_on_to_the_same_bytes(
    images, model, tmp_path, monkeypatch, reference, after
):
    output = tmp_path / "out.h5"
    interrupted(images, output, model, monkeypatch, after)
    assert not output.exists()
    assert forecast(prepare([images], output, model, HERE, {}, PARTS), {})["parts_done"] == after
    summary = encode(images, output, model)
    assert summary.resumed == min(4 * after, 10)
    assert output.read_bytes() == reference
    assert not folder_of(output).exists()
    assert not output.with_name("out.h5.lock").exists()


def test_a_model_that_was_trained_is_not_trained_again(images, tmp_path, monkeypatch):
    output = tmp_path / "out.h5"
    encode(images, tmp_path / "other.h5")
    interrupted(images, output, None, monkeypatch)
    assert not (tmp_path / "out.safetensors").exists()
    monkeypatch.setattr(sparsecode.SparseVAETransformer, "fit", None)
    summary = encode(images, output)
    assert summary.zeros_held_out is not None
    one, other = (sparsecode.read_codes(tmp_path / name) for name in ("out.h5", "other.h5"))
    assert (one.matrix != other.matrix).nnz == 0


def test_another_plan_is_refused_and_no_resume_begins_anew(
    images, model, tmp_path, monkeypatch, reference
):
    output = tmp_path / "out.h5"
    interrupted(images, output, model, monkeypatch)
    with pytest.raises(RefusedError, match=r"--part-size differ.*--no-resume"):
        encode(images, output, model, run=replace(PARTS, part_size=3))
    Image.new("L", (6, 5)).save(images / "new.png")
    with pytest.raises(RefusedError, match=r"the inputs.* differ \(1 are new, such as 'new.png'\)"):
        encode(images, output, model)
    (images / "new.png").unlink()
    summary = encode(images, output, model, run=replace(PARTS, resume=False))
    assert summary.resumed == 0
    assert output.read_bytes() == reference


def test_images_that_vanish_meanwhile_are_listed_as_failed(images, model, tmp_path, monkeypatch):
    output = tmp_path / "out.h5"
    interrupted(images, output, model, monkeypatch)
    (images / "1/9.png").unlink()
    (images / "0/0.png").unlink()  # its part is done
    said = []
    summary = encode(images, output, model, report=said.append)
    assert (summary.listed, summary.encoded, summary.failed) == (10, 8, 2)
    assert [failure.path for failure in summary.failures] == ["0/6.png", "1/9.png"]
    assert "No such file" in summary.failures[1].reason
    assert any("2 images of the interrupted run are gone" in line for line in said)


def test_a_damaged_part_is_encoded_again(images, model, tmp_path, monkeypatch, reference):
    output = tmp_path / "out.h5"
    interrupted(images, output, model, monkeypatch, after=2)
    part = folder_of(output) / "part-000001.h5"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    said = []
    encode(images, output, model, report=said.append)
    assert output.read_bytes() == reference
    assert any("1 parts are damaged" in line for line in said)


def test_a_damaged_plan_is_said(images, model, tmp_path, monkeypatch):
    output = tmp_path / "out.h5"
    interrupted(images, output, model, monkeypatch)
    (folder_of(output) / "plan.json").write_text("{")
    with pytest.raises(RefusedError, match=r"plan\.json is damaged.*--no-resume"):
        encode(images, output, model)


# --- whatever fails ---------------------------------------------------------------------------


def test_a_full_disk_is_seen_before_the_merge(images, model, tmp_path, monkeypatch):
    output = tmp_path / "out.h5"
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
        with pytest.raises(OutputError, match=r"has 1,000 bytes free, but .* run the same command"):
            encode(images, output, model)
    assert encode(images, output, model).resumed == 10


def test_another_process_is_kept_out(images, model, tmp_path):
    with locked(tmp_path / "out.h5"), pytest.raises(RefusedError, match="another process is"):
        encode(images, tmp_path / "out.h5", model)
    assert encode(images, tmp_path / "out.h5", model).encoded == 9


def test_nothing_is_left_where_nothing_could_be_read(model, tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(9):
        (tmp_path / f"in/{i}.png").write_bytes(b"broken")
    with pytest.raises(NoInputError, match="none of the 9 inputs"):
        encode(tmp_path / "in", tmp_path / "out.h5", model)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_part_without_rows_is_a_part(model, images, tmp_path):
    for path in (images / "0").iterdir():
        path.write_bytes(b"broken")
    summary = encode(images, tmp_path / "out.h5", model, run=EncodeOptions(part_size=2))
    codes = sparsecode.read_codes(tmp_path / "out.h5")
    assert (summary.encoded, summary.failed) == (5, 5)
    assert set(codes.labels) == {"1"}
    assert sparsecode.verify_codes(tmp_path / "out.h5") == []


def test_too_many_errors_end_it_and_keep_what_is_done(images, model, tmp_path):
    (images / "1/9.png").write_bytes(b"broken")
    run = replace(PARTS, max_errors=1)
    with pytest.raises(ImageError, match=r"2 inputs failed, more than --max-errors 1 .*1/9\.png"):
        encode(images, tmp_path / "out.h5", model, run=run)
    assert encode(images, tmp_path / "out.h5", model, run=replace(PARTS, max_errors=2)).resumed == 8
    with pytest.raises(ImageError, match=r"0/6\.png"):
        encode(images, tmp_path / "o2.h5", model, options=replace(HERE, on_error="fail"))


# --- the same rows, however they are made -----------------------------------------------------


@pytest.mark.parametrize(
    ("part_size", "n_workers", "n_shards"),
    [(1, 0, 1), (3, 2, 1), (100, 1, 1), (2, 0, 3), (4, 0, 12)],  # of 12, some are empty
)
def test_rows_do_not_depend_on_parts_workers_or_shards(
    images, model, tmp_path, part_size, n_workers, n_shards
):
    output = tmp_path / "out.h5"
    options = replace(HERE, n_workers=n_workers)
    for i in range(n_shards):
        run = EncodeOptions(part_size=part_size, shard=(i + 1, n_shards))
        encode(images, output, model, run=run, options=options)
    if n_shards > 1:
        assert not output.exists()
        assert sparsecode.merge_files(output)["n_samples"] == 9
    codes = sparsecode.read_codes(output)
    assert codes.metadata["failed_path"] == ["0/6.png"]
    estimator = sparsecode.SparseVAETransformer.load(model)
    for row, name in enumerate(codes.names):
        alone = estimator.transform(np.asarray(Image.open(images / name)).reshape(1, -1))
        np.testing.assert_array_equal(alone.indices, codes.matrix[[row]].indices)
        np.testing.assert_allclose(alone.data, codes.matrix[[row]].data, rtol=1e-5)


def test_options_out_of_range_are_refused(images, model, tmp_path):
    with pytest.raises(RefusedError, match="--shard 3/2"):
        EncodeOptions(shard=(3, 2))
    with pytest.raises(RefusedError, match="--part-size 0"):
        EncodeOptions(part_size=0)
    with pytest.raises(RefusedError, match="--shard needs a model"):
        encode(images, tmp_path / "out.h5", None, run=EncodeOptions(shard=(1, 2)))
    with pytest.raises(ValueError, match="compression='zip'"):
        encode(images, tmp_path / "out.h5", model, run=EncodeOptions(compression="zip"))


def test_the_forecast_writes_nothing(images, model, tmp_path):
    output = tmp_path / "out.h5"
    found = forecast(prepare([images], output, model, HERE, {}, PARTS), {})
    assert json.loads(json.dumps(found)) == found
    assert (found["inputs"], found["parts"], found["parts_done"]) == (10, 3, 0)
    assert (found["latents"], found["p"], found["state"]) == (8, 0.8, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    encode(images, output, model)
    assert forecast(prepare([images], output, model, HERE, {}, PARTS), {})["state"] == "complete"
