"""`sparsecode probe` as people run it."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from sparsecode import SparseCodes, write_codes


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "sparsecode", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "COLUMNS": "80"},
    )


@pytest.fixture(scope="module")
def files(labelled_codes, gated_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    X, codes, y = labelled_codes
    np.save(folder / "X.npy", X)
    names = np.array([f"row_{i:07d}" for i in range(len(y))], object)
    labels = np.array([f"class {label}" for label in y], object)
    config = {"config": {"model": "m.safetensors", "p": 0.8}}
    write_codes(folder / "codes.h5", SparseCodes(codes, names, {"label": labels}, metadata=config))
    write_codes(folder / "bare.h5", SparseCodes(codes, names, metadata=config))
    gated_model.save(folder / "m.safetensors")
    lines = [f"{name},{label}" for name, label in zip(names, y, strict=True)]
    (folder / "labels.csv").write_text("name,digit\n" + "\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def gated_model(gated):
    return gated


@pytest.fixture(scope="module")
def labelled_codes(digits, gated):
    from sklearn.datasets import load_digits

    y = load_digits().target[np.random.default_rng(0).permutation(1797)][:600]
    return digits[:600], gated.transform(digits[:600]), y


def test_the_table_has_codes_and_every_baseline(files):
    result = run("probe", files / "codes.h5", "-i", files / "X.npy")
    assert result.returncode == 0, result.stderr
    for words in (
        "codes",
        "chance",
        "raw inputs",
        "PCA, 16",
        "untrained",
        "dense VAE",
        "--baselines all",
    ):
        assert words in result.stdout
    assert result.stderr == ""


def test_json_and_labels_from_a_file_and_a_picture(files, tmp_path):
    picture = tmp_path / "p.png"
    result = run(
        "probe", files / "bare.h5", "--labels", files / "labels.csv", "--json", "--picture", picture
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["codes"]["linear"]["value"] > 0.5
    assert found["classes"] == list(range(10))
    assert found["missing"]["raw inputs"] == "needs the inputs (--inputs)"
    assert picture.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["probe", "none.h5"], 4, "none.h5"),
        (["probe", "labels.csv"], 2, "cannot be read"),
        (["probe", "bare.h5"], 2, "--labels"),
        (["probe", "codes.h5", "--labels", "none.csv"], 4, "none.csv"),
        (["probe", "codes.h5", "--column", "age"], 2, "'age'"),
        (["probe", "codes.h5", "--baselines", "magic"], 2, "magic"),
        (["probe", "codes.h5", "-i", "none"], 4, "none"),
        (["probe", "codes.h5", "-i", "X.npy", "-m", "no.safetensors"], 4, "the model no.safetens"),
        (["probe", "codes.h5", "--picture", "nowhere/p.png"], 2, "nowhere"),
        (["probe", "codes.h5", "--picture", "p.nonsense"], 2, "p.nonsense"),
        (["probe", "codes.h5", "--task", "regress"], 2, "needs numbers"),
    ],
)
def test_bad_input_gets_its_exit_code(files, arguments, code, words, monkeypatch):
    monkeypatch.chdir(files)
    result = run(*arguments)
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
