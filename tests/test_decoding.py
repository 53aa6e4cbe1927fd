"""Codes back to images and arrays."""

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import sparsecode
from sparsecode.cli import app
from sparsecode.decoding import decode_file
from sparsecode.errors import NoInputError, OutputError, RefusedError
from sparsecode.file_fitting import InputOptions

FAST = {"n_components": 8, "max_iter": 2, "batch_size": 16, "random_state": 0, "device": "cpu"}


@pytest.fixture(scope="module", params=["L", "RGB"])
def encoded(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("decoding")
    rng = np.random.default_rng(0)
    shape = (5, 6) if request.param == "L" else (5, 6, 3)
    for i in range(20):
        path = folder / f"in/{i % 2}/{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)
    sparsecode.encode_files([folder / "in"], folder / "out.h5", parameters=FAST,
                            options=InputOptions(n_workers=0))  # fmt: skip
    return folder / "out.h5"


def test_images_are_what_the_model_makes_of_the_codes(encoded, tmp_path):
    assert decode_file(encoded, tmp_path / "back") == 20
    codes = sparsecode.read_codes(encoded)
    model = sparsecode.SparseVAETransformer.load(encoded.with_suffix(".safetensors"))
    for name, row in zip(codes.names, model.inverse_transform(codes.matrix), strict=True):
        pixels = np.asarray(Image.open(tmp_path / f"back/{name}.png"))
        np.testing.assert_array_equal(
            pixels.ravel(), np.rint(row.clip(0, 1) * 255).astype(np.uint8)
        )
    assert len(list((tmp_path / "back").rglob("*.png"))) == 20


def test_an_array_holds_the_rows_unclipped(encoded, tmp_path):
    decode_file(encoded, tmp_path / "back.npy")
    codes = sparsecode.read_codes(encoded)
    model = sparsecode.SparseVAETransformer.load(encoded.with_suffix(".safetensors"))
    expected = model.inverse_transform(codes.matrix)
    np.testing.assert_array_equal(np.load(tmp_path / "back.npy"), expected)


def test_what_is_in_the_way_is_kept(encoded, tmp_path):
    (tmp_path / "back").mkdir()
    (tmp_path / "back/mine.txt").write_text("precious")
    with pytest.raises(RefusedError, match=r"is not empty.*--overwrite"):
        decode_file(encoded, tmp_path / "back")
    decode_file(encoded, tmp_path / "back", overwrite=True)
    assert (tmp_path / "back/mine.txt").read_text() == "precious"
    with pytest.raises(RefusedError, match=r"mine\.txt is a file"):
        decode_file(encoded, tmp_path / "back/mine.txt")


@pytest.mark.parametrize("name", ["../up.png", "/abs.png", "a/../../b", "c:evil", "a\\b"])
def test_no_row_is_written_outside_of_the_folder(encoded, tmp_path, name):
    codes = sparsecode.read_codes(encoded)
    hostile = sparsecode.SparseCodes(
        codes.matrix[:1], np.array([name], object), metadata=codes.metadata
    )
    sparsecode.write_codes(tmp_path / "h.h5", hostile)
    with pytest.raises(RefusedError, match="outside of"):
        decode_file(tmp_path / "h.h5", tmp_path / "back",
                    model=encoded.with_suffix(".safetensors"))  # fmt: skip
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".png"]


def test_the_model_must_be_there_and_fit(encoded, tmp_path):
    codes = tmp_path / "alone.h5"
    codes.write_bytes(encoded.read_bytes())
    with pytest.raises(NoInputError, match=r"out\.safetensors .* --model"):
        decode_file(codes, tmp_path / "back")
    X = np.random.default_rng(0).random((40, 5), dtype=np.float32)
    other = tmp_path / "other.safetensors"
    sparsecode.SparseVAETransformer(**FAST | {"n_components": 4}).fit(X).save(other)
    with pytest.raises(RefusedError, match=r"has 4 latents, but .* has 8"):
        decode_file(codes, tmp_path / "back", model=other)


def test_a_full_disk_leaves_no_half_array(encoded, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sparsecode.files.rename", full)
    with pytest.raises(OutputError, match="No space left"):
        decode_file(encoded, tmp_path / "back.npy")
    assert list(tmp_path.iterdir()) == []


def test_the_command(encoded, tmp_path):
    result = CliRunner().invoke(app, ["decode", str(encoded), str(tmp_path / "back")])
    assert result.exit_code == 0, result.output
    assert "20" in result.stderr
    again = CliRunner().invoke(app, ["decode", str(encoded), str(tmp_path / "back")])
    assert again.exit_code == 2
