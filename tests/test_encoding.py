"""The batch job through its Python functions; the process around it is in test_cli.py."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import sparse

import sparsecode
from sparsecode import file_fitting
from sparsecode.errors import FitInterruptedWarning, NoInputError, RefusedError
from sparsecode.file_fitting import InputOptions

FAST = {"n_components": 8, "max_iter": 2, "batch_size": 16, "random_state": 0, "device": "cpu"}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(30):
        pixels = rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return folder


def test_the_summary_says_what_is_in_the_file(images: Path, tmp_path: Path) -> None:
    seen = []
    summary = sparsecode.encode_files(
        [images],
        tmp_path / "out.h5",
        parameters=FAST,
        progress=lambda state: seen.append((state.done, state.listed, state.failed)),
    )
    codes = sparsecode.read_codes(tmp_path / "out.h5")
    l0 = np.diff(codes.matrix.indptr)
    assert (summary.listed, summary.encoded, summary.failed) == (30, 30, 0)
    assert summary.l0_mean == pytest.approx(l0.mean())
    assert summary.l0_sd == pytest.approx(l0.std())
    assert summary.zeros_got == pytest.approx(1 - l0.mean() / 8)
    assert summary.zeros_asked == 0.8
    assert summary.zeros_held_out == pytest.approx(0.8, abs=1e-6)
    assert summary.dead_latents == np.count_nonzero(codes.var["dead"])
    assert seen[-1] == (30, 30, 0)
    model = sparsecode.SparseVAETransformer.load(tmp_path / "out.safetensors")
    X = np.stack([np.asarray(Image.open(path)).ravel() for path in sorted(images.iterdir())])
    np.testing.assert_array_equal(model.transform(X).toarray(), codes.matrix.toarray())
    x = X / 255
    error = ((x - model.inverse_transform(codes.matrix)) ** 2).sum()
    assert summary.explained_variance == pytest.approx(
        1 - error / ((x - x.mean(0)) ** 2).sum(), rel=1e-4
    )


def test_more_rows_than_memory_train_on_a_sample_and_are_all_encoded(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_fitting, "TRAINING_BYTES", 20 * 8 * 12 * 3)
    said: list[str] = []
    summary = sparsecode.encode_files(
        [images], tmp_path / "out.h5", parameters=FAST, report=said.append
    )
    assert summary.encoded == 30
    assert any("random sample of 20 of 30 rows" in sentence for sentence in said)


def test_convolutional_networks_take_the_shape_of_the_images(images: Path, tmp_path: Path) -> None:
    model = sparsecode.fit_files(
        [images],
        tmp_path / "m.safetensors",
        options=InputOptions(convolutional=True, size=(8, 8), channels=1),
        parameters=FAST,
    )
    assert model.image_shape == (8, 8, 1)
    np.save(tmp_path / "X.npy", np.zeros((30, 4), np.float32))
    with pytest.raises(RefusedError, match="need images"):
        sparsecode.fit_files(
            [tmp_path / "X.npy"],
            tmp_path / "no.safetensors",
            options=InputOptions(convolutional=True),
            parameters=FAST,
        )


def test_sparse_arrays_are_encoded_as_they_are(tmp_path: Path) -> None:
    X = sparse.random(50, 20, 0.3, format="csr", dtype=np.float32, random_state=0)
    sparse.save_npz(tmp_path / "X.npz", X)
    sparsecode.encode_files([tmp_path / "X.npz"], tmp_path / "out.h5", parameters=FAST)
    model = sparsecode.SparseVAETransformer.load(tmp_path / "out.safetensors")
    codes = sparsecode.read_codes(tmp_path / "out.h5")
    np.testing.assert_array_equal(codes.matrix.toarray(), model.transform(X.toarray()).toarray())


def test_a_model_that_gives_dense_output_still_writes_sparse_codes(
    images: Path, tmp_path: Path
) -> None:
    sparsecode.fit_files(
        [images], tmp_path / "m.safetensors", parameters={**FAST, "sparse_output": False}
    )
    summary = sparsecode.encode_files(
        [images], tmp_path / "out.h5", model=tmp_path / "m.safetensors"
    )
    assert summary.zeros_held_out is None
    assert summary.encoded == len(sparsecode.read_codes(tmp_path / "out.h5")) == 30


def test_inputs_that_do_not_go_together_are_refused(images: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", np.random.default_rng(0).normal(size=(30, 4)))
    model = tmp_path / "m.safetensors"
    sparsecode.fit_files([tmp_path / "X.npy"], model, parameters=FAST)
    output = tmp_path / "out.h5"
    with pytest.raises(RefusedError, match="one array file at a time"):
        sparsecode.encode_files([images, tmp_path / "X.npy"], output)
    with pytest.raises(RefusedError, match="not on images"):
        sparsecode.encode_files([images], output, model=model)
    with pytest.raises(NoInputError, match="does not exist"):
        sparsecode.encode_files([images], output, model=tmp_path / "none.safetensors")
    with pytest.raises(RefusedError, match="is a folder"):
        sparsecode.encode_files([images], images, overwrite=True)
    assert not output.exists()


def test_an_interrupted_training_leaves_nothing(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted_fit(self, X, y=None):
        warnings.warn("interrupted", FitInterruptedWarning, stacklevel=2)
        return self

    monkeypatch.setattr(sparsecode.SparseVAETransformer, "fit", interrupted_fit)
    with pytest.raises(KeyboardInterrupt):
        sparsecode.encode_files([images], tmp_path / "out.h5", parameters=FAST)
    assert list(tmp_path.iterdir()) == [images]
