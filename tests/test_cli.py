"""The command line as people run it: a process, its exit code, its two streams, its files."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import typer
from PIL import Image

import sparsecode
from sparsecode.cli import app

FAST = ["-k", "8", "--max-iter", "2", "--batch-size", "16"]


def run(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sparsecode", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100"},
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty 8x8 grey images in two folders, one broken file and one that is no image."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for label in "ab":
        (folder / label).mkdir()
        for i in range(20):
            pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{i:02d}.png")
    (folder / "notes.txt").write_text("not an image, and not listed")
    return folder


@pytest.fixture(scope="module")
def encoded(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of the main job, beside which the model lies."""
    output = tmp_path_factory.mktemp("encoded") / "out.h5"
    result = run("encode", images, output, "--p", "0.5", *FAST)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    for words in ("images", "zeros asked", "dead latents", "explained variance", "out.h5"):
        assert words in result.stderr
    return output


def test_encode_trains_and_writes_codes_with_labels(encoded: Path) -> None:
    codes = sparsecode.read_codes(encoded)
    assert codes.shape == (40, 8)
    assert list(codes.names[:2]) == ["a/00.png", "a/01.png"]
    assert codes.labels is not None
    assert list(codes.labels) == ["a"] * 20 + ["b"] * 20
    assert set(codes.obs["width"]) == {8}
    assert sparsecode.verify_codes(encoded) == []
    assert encoded.with_suffix(".safetensors").is_file()


def test_the_files_of_one_command_are_the_same_every_time(
    images: Path, encoded: Path, tmp_path: Path
) -> None:
    run("encode", images, tmp_path / "out.h5", "--p", "0.5", *FAST, "-q")
    for name in ("out.h5", "out.safetensors"):
        assert _without_seconds(tmp_path / name) == _without_seconds(encoded.with_name(name))


def _without_seconds(path: Path) -> object:
    if path.suffix == ".h5":
        codes = sparsecode.read_codes(path)
        return codes.matrix.toarray().tobytes(), list(codes.names)
    model = sparsecode.SparseVAETransformer.load(path)
    return {name: tensor.numpy().tobytes() for name, tensor in model.model_.state_dict().items()}


def test_encode_with_a_model_gives_the_codes_of_training_and_keeps_its_settings(
    images: Path, encoded: Path, tmp_path: Path
) -> None:
    model = encoded.with_suffix(".safetensors")
    output = tmp_path / "again.h5"
    result = run("encode", images / "b", output, "-m", model, "--json")
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert (summary["listed"], summary["encoded"], summary["failed"]) == (20, 20, 0)
    assert summary["files"] == [str(output)]
    before, after = sparsecode.read_codes(encoded), sparsecode.read_codes(output)
    np.testing.assert_array_equal(after.matrix.toarray(), before.matrix.toarray()[20:])
    refused = run("encode", images, tmp_path / "no.h5", "-m", model, "--size", "4", "--p", "0.9")
    assert refused.returncode == 2
    assert "--p, --size belong to the model" in refused.stderr
    assert not (tmp_path / "no.h5").exists()


def test_an_existing_output_is_refused_and_untouched(images: Path, encoded: Path) -> None:
    before = encoded.read_bytes()
    result = run("encode", images, encoded, *FAST)
    assert result.returncode == 2
    assert "exists" in result.stderr
    assert "--overwrite" in result.stderr
    assert encoded.read_bytes() == before


def test_broken_images_have_no_row_and_are_listed(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for i in range(20):
        colour = np.full((8, 8, 3), i * 10, np.uint8)
        colour[i % 8] = 255
        Image.fromarray(colour if i % 2 else colour[..., 0]).save(folder / f"{i:02d}.png")
    Image.fromarray(np.zeros((16, 12), np.uint8)).save(folder / "20-large.png")
    (folder / "21-broken.png").write_bytes((folder / "00.png").read_bytes()[:40])
    result = run(
        "encode", folder, tmp_path / "out.h5", *FAST, "--failures", tmp_path / "failures.jsonl"
    )
    assert result.returncode == 3, result.stderr
    assert "1 of 22 images are resized to 8x8" in result.stderr
    assert "21-broken.png" in result.stderr
    codes = sparsecode.read_codes(tmp_path / "out.h5")
    assert len(codes) == 21
    assert codes.labels is None
    assert codes.metadata["failed_path"] == ["21-broken.png"]
    assert codes.metadata["config"]["images"]["channels"] == 3
    (line,) = (tmp_path / "failures.jsonl").read_text().splitlines()
    assert json.loads(line)["path"] == "21-broken.png"
    fails = run("encode", folder, tmp_path / "no.h5", *FAST, "--on-error", "fail")
    assert fails.returncode == 2
    assert "21-broken.png" in fails.stderr
    assert not (tmp_path / "no.h5").exists()


def test_fit_and_encode_arrays(tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(60, 12)).astype(np.float32)
    np.save(tmp_path / "X.npy", X)
    model = tmp_path / "model.safetensors"
    result = run("fit", tmp_path / "X.npy", model, *FAST, "--hidden-sizes", "6", "--seed", "3")
    assert result.returncode == 0, result.stderr
    result = run("encode", tmp_path / "X.npy", tmp_path / "out.h5", "-m", model)
    assert result.returncode == 0, result.stderr
    assert "rows" in result.stderr
    expected = sparsecode.SparseVAETransformer.load(model).transform(X)
    codes = sparsecode.read_codes(tmp_path / "out.h5")
    np.testing.assert_array_equal(codes.matrix.toarray(), expected.toarray())
    np.save(tmp_path / "wide.npy", np.zeros((5, 13), np.float32))
    refused = run("encode", tmp_path / "wide.npy", tmp_path / "no.h5", "-m", model)
    assert refused.returncode == 2
    assert "13 features" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["encode", "missing", "out.h5"], 4, "missing"),
        (["encode", "empty", "out.h5"], 4, "no image"),
        (["encode", "one", "out.h5"], 2, "minimum of 2"),
        (["encode", "one", "out.h5", "-m", "none.safetensors"], 4, "none.safetensors"),
        (["encode", "one", "out.h5", "-m", "one/0.png"], 2, "safetensors"),
        (["encode", "two", "out.h5", "--p", "1.5"], 2, "'p' parameter"),
        (["encode", "two", "out.h5", "--size", "big"], 2, "not a size"),
        (["encode", "two", "nowhere/out.h5"], 2, "nowhere"),
        (["fit", "nan.npy", "m.safetensors"], 2, "NaN"),
        (["fit", "zero.npy", "m.safetensors"], 2, "nothing to encode"),
        (["fit", "range.npy", "m.safetensors", "--likelihood", "bernoulli"], 2, "[0, 1]"),
        (["fit", "objects.npy", "m.safetensors"], 2, "objects.npy"),
        (["info", "missing.h5"], 4, "missing.h5"),
        (["info", "one/0.png"], 2, "one/0.png"),
        (["verify", "missing.h5"], 4, "missing.h5"),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_bad_input_gets_its_exit_code_and_writes_nothing(
    arguments: list[str], code: int, words: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for name, count in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        for i in range(count):
            pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) + i
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    X = np.zeros((4, 3), np.float32)
    np.save(tmp_path / "zero.npy", X[:0])
    np.save(tmp_path / "range.npy", X + 2)
    np.save(tmp_path / "nan.npy", X + np.nan)
    np.save(tmp_path / "objects.npy", np.array([[{}]]), allow_pickle=True)
    before = sorted(tmp_path.rglob("*"))
    result = run(*arguments, cwd=tmp_path)
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_info_and_verify_say_what_a_file_is_and_whether_it_is_whole(
    encoded: Path, tmp_path: Path
) -> None:
    model = encoded.with_suffix(".safetensors")
    result = run("info", encoded, model, "--json")
    described = json.loads(result.stdout)
    assert described[str(encoded)]["n_samples"] == 40
    assert described[str(model)]["p"] == 0.5
    assert "n_samples" in run("info", encoded).stdout
    assert run("verify", encoded, model).returncode == 0
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(encoded.read_bytes())
    with h5py.File(damaged, "r+") as file:
        file["X/data"][0] = 123.0
    bad_model = tmp_path / "damaged.safetensors"
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    bad_model.write_bytes(data)
    result = run("verify", encoded, damaged, bad_model)
    assert result.returncode == 3
    lines = result.stdout.splitlines()
    assert [line.endswith(": ok") for line in lines] == [True, False, False]


def test_help_and_version_do_not_load_torch() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom sparsecode.cli import app\n"
        "for flag in ('--help', '--version'):\n"
        "    assert CliRunner().invoke(app, [flag]).exit_code == 0\n"
        "assert not {'torch', 'sklearn', 'h5py', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert run("--version").stdout.strip() == f"sparsecode {sparsecode.__version__}"


def test_the_reference_lists_every_command_and_option() -> None:
    text = (Path(__file__).parents[1] / "docs/command-line-reference.md").read_text()
    sections = dict(re.findall(r"^## `sparsecode (\w+)`\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    commands = typer.main.get_command(app).commands
    assert sections.keys() == commands.keys()
    for name, command in commands.items():
        options = {flag for p in command.params for flag in p.opts if flag.startswith("-")}
        # "-0, --null <kind>": what stands before the kind.
        lines = re.findall(r"^\* `(-[^`]*)`", sections[name], re.M)
        listed = {flag for line in lines for flag in re.findall(r"(?:^|, )(--?[\w-]+)", line)}
        assert listed == options | {"--help"}, name


def _start(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    X = np.random.default_rng(0).normal(size=(3000, 64)).astype(np.float32)
    np.save(tmp_path / "X.npy", X)
    process = subprocess.Popen(
        [sys.executable, "-m", "sparsecode", *arguments, "--max-iter", "100000"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while "training" not in (line := process.stderr.readline()):
        assert line, "the process ended before it trained"
    time.sleep(2)  # from the announcement into the first steps
    return process


@pytest.mark.parametrize(
    ("command", "output", "stop", "code", "kept"),
    [
        ("fit", "m.safetensors", signal.SIGINT, 130, True),
        ("encode", "out.h5", signal.SIGINT, 130, False),
        ("encode", "out.h5", signal.SIGTERM, 143, False),
    ],
)
def test_signals(
    command: str, output: str, stop: signal.Signals, code: int, kept: bool, tmp_path: Path
) -> None:
    process = _start(tmp_path, command, "X.npy", output)
    process.send_signal(stop)
    _, complaints = process.communicate(timeout=120)
    assert process.returncode == code, complaints
    assert (tmp_path / output).exists() is kept
    assert {path.name for path in tmp_path.iterdir()} - {output} == {"X.npy"}
    if kept:
        assert sparsecode.SparseVAETransformer.load(tmp_path / output).n_components == 256
