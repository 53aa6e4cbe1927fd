"""A file of codes with model, inputs and labels, and the reports on it."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import sparsecode
from sparsecode.codes_writer import CodesWriter

N_ROWS, N_LATENTS = 300, 150
EVIL = "<script>document.title='ran'<%2Fscript>"


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Folder with images/, out.h5 and out.safetensors: 300 digits, 150 latents, 10 labels."""
    folder = tmp_path_factory.mktemp("report")
    X, y = load_digits(return_X_y=True)
    pixels = (X[:N_ROWS].reshape(-1, 8, 8) * 15.9).astype(np.uint8)
    for i, (image, label) in enumerate(zip(pixels, y, strict=False)):
        (folder / "images" / f"{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / "images" / f"{label}" / f"{i:03d}.png")
    sparsecode.encode_files(
        [folder / "images"],
        folder / "out.h5",
        parameters={"n_components": N_LATENTS, "max_iter": 4, "random_state": 0, "batch_size": 32},
    )
    return folder


@pytest.fixture(scope="session")
def open_view(files):
    """Open the model of these codes."""

    def opener(codes):
        view = sparsecode.model_view.open_view(files / "out.safetensors", codes)
        return view, view.picture_shape

    return opener


@pytest.fixture(scope="session")
def full(files, open_view):
    """Report with everything."""
    return sparsecode.report_file(
        files / "out.h5",
        inputs=[files / "images"],
        open_view=open_view,
        reference=files / "out.h5",
    )


@pytest.fixture(scope="session")
def bare(files):
    """Report on codes alone."""
    return sparsecode.report_file(files / "out.h5")


@pytest.fixture(scope="session")
def hostile(tmp_path_factory):
    """Report on codes whose names and labels try to run as HTML, with 4,096 latents."""
    path = tmp_path_factory.mktemp("hostile") / "<img src=x onerror=alert(1)>.h5"
    rng = np.random.default_rng(0)
    codes = rng.random((200, 4096)) * (rng.random((200, 4096)) < 0.02)
    codes[:, 7] = 0
    names = [f"{EVIL}{i}.png" for i in range(200)]
    labels = [
        "<b>bold</b>" if i % 2 else "</script><script>document.title='ran'</script>"
        for i in range(200)
    ]
    with CodesWriter(path, n_latents=4096, overwrite=False) as writer:
        writer.append(
            sparsecode.diagnostics.matrix.csr_array(codes.astype(np.float32)),
            names,
            {"label": labels},
        )
        writer.finish(metadata={"config": {"p": 0.98}})
    return sparsecode.report_file(path)
