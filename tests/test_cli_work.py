"""The options of `fit` and `encode`, and what a signal leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import sparsecode
from sparsecode.cli import app

FAST = ["-k", "8", "--max-iter", "2", "--batch-size", "16"]


def run(*arguments, stdin=None):
    return CliRunner().invoke(app, [*map(str, arguments)], input=stdin)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work") / "images"
    rng = np.random.default_rng(0)
    for i in range(24):
        path = folder / "ab"[i % 2] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    (folder / "b/23.png").write_bytes(b"broken")
    return folder


@pytest.fixture(scope="module")
def model(images):
    path = images.parent / "model.safetensors"
    assert run("fit", images, path, "--workers", 0, *FAST).exit_code == 0
    return path


def names(path):
    return list(sparsecode.read_codes(path).names)


# --- what is read -----------------------------------------------------------------------------


@pytest.mark.parametrize(("separator", "flags"), [("\n", []), ("\0", ["-0"])])
def test_files_from_a_list(images, model, tmp_path, separator, flags):
    listed = separator.join(str(images / name) for name in ("b/01.png", "a/02.png")) + separator
    result = run("encode", "--files-from", "-", *flags, tmp_path / "out.h5", "-m", model,
                 "--workers", 0, stdin=listed)  # fmt: skip
    assert result.exit_code == 0, result.output
    expected = [str(images / name).lstrip("/") for name in ("a/02.png", "b/01.png")]
    assert names(tmp_path / "out.h5") == expected
    (tmp_path / "list").write_text(listed)
    again = run("encode", "--files-from", tmp_path / "list", *flags, tmp_path / "out.h5", "-m",
                model, "--workers", 0)  # fmt: skip
    assert again.exit_code == 0, again.output
    assert "nothing to do" in again.stderr


def test_include_and_exclude(images, model, tmp_path):
    result = run("encode", images, tmp_path / "out.h5", "-m", model, "--include", "a/*",
                 "--exclude", "*2.png", "--workers", 0)  # fmt: skip
    assert result.exit_code == 0, result.output
    expected = sorted(f"a/{i:02d}.png" for i in range(0, 24, 2) if i % 10 != 2)
    assert names(tmp_path / "out.h5") == expected


# --- what is said -----------------------------------------------------------------------------


def test_a_dry_run_counts_and_writes_nothing(images, model, tmp_path):
    arguments = ("encode", images, tmp_path / "out.h5", "-m", model, "--part-size", 10, "--dry-run")
    found = json.loads(run(*arguments, "--json").stdout)
    assert (found["inputs"], found["parts"], found["state"], found["latents"]) == (24, 3, "new", 8)
    assert found["output_bytes_about"] > 0
    table = run(*arguments)
    assert table.exit_code == 0
    for words in ("inputs", "24", "parts", "free bytes"):
        assert words in table.stdout.replace("_", " ")
    assert list(tmp_path.iterdir()) == []


def test_failures_are_lines_of_json(images, model, tmp_path):
    result = run("encode", images, tmp_path / "out.h5", "-m", model, "--failures",
                 tmp_path / "bad.jsonl", "--json", "--workers", 1)  # fmt: skip
    assert result.exit_code == 3
    summary = json.loads(result.stdout)
    lines = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert lines == summary["failures"]
    assert [line["path"] for line in lines] == ["b/23.png"]
    assert summary["encoded"] + summary["failed"] == summary["listed"] == 24


def test_verbose_says_the_rates(images, model, tmp_path):
    result = run("encode", images, tmp_path / "out.h5", "-m", model, "-v", "--workers", 1)
    for words in ("read", "encode", "write", "/s"):
        assert words in result.stderr
    quiet = run("encode", images, tmp_path / "out2.h5", "-m", model, "-q", "--workers", 1)
    assert quiet.stderr == ""


def test_too_many_errors_end_it(images, model, tmp_path):
    arguments = ("encode", images, tmp_path / "out.h5", "-m", model, "--workers", 0)
    result = run(*arguments, "--max-errors", 0)
    assert result.exit_code == 2
    assert "--max-errors 0" in result.stderr
    assert run(*arguments, "--on-error", "fail").exit_code == 2
    assert not (tmp_path / "out.h5").exists()
    assert run(*arguments).exit_code == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--shard", "3/2"], "3/2"),
        (["--shard", "x"], "I/N"),
        (["--part-size", "0"], "part-size"),
        (["--size", "9x9"], "--size belong to the model"),
        (["--compression", "zip"], "compression"),
    ],
)
def test_options_that_cannot_be_are_named(images, model, tmp_path, options, words):
    result = run("encode", images, tmp_path / "out.h5", "-m", model, *options)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []


# --- training goes on -------------------------------------------------------------------------


def test_fit_resume(images, tmp_path):
    path = tmp_path / "m.safetensors"
    assert run("fit", images, path, "--workers", 0, *FAST).exit_code == 0
    refused = run("fit", images, path, "--resume", "-k", 9)
    assert refused.exit_code == 2
    assert "--n-components belong to the model" in refused.stderr
    result = run("fit", images, path, "--resume", "--max-iter", 3, "--workers", 0)
    assert result.exit_code == 0, result.output
    assert "2 of 3 epochs were done" in result.stderr
    assert sparsecode.SparseVAETransformer.load(path).n_iter_ == 3


# --- shards -----------------------------------------------------------------------------------


def test_shards_merge_to_what_one_job_writes(images, model, tmp_path):
    whole, out = tmp_path / "whole.h5", tmp_path / "out.h5"
    common = ("-m", model, "--workers", 0, "--part-size", 5)
    run("encode", images, whole, *common)
    for i in (2, 1, 3):
        run("encode", images, out, *common, "--shard", f"{i}/3")
        if i == 1:
            early = run("merge", out)
            assert early.exit_code == 2
            assert "[3] are missing" in early.stderr
    result = run("merge", out, "--json")
    assert result.exit_code == 3, result.output  # one image had failed
    assert json.loads(result.stdout)["n_samples"] == 23
    one, other = sparsecode.read_codes(whole), sparsecode.read_codes(out)
    # The last bit of a value may depend on the rows beside it; which values are zero, never.
    np.testing.assert_array_equal(one.matrix.indptr, other.matrix.indptr)
    np.testing.assert_array_equal(one.matrix.indices, other.matrix.indices)
    np.testing.assert_allclose(one.matrix.data, other.matrix.data, rtol=1e-5)
    assert list(one.names) == list(other.names)
    assert one.metadata["config"] == other.metadata["config"]
    assert other.metadata["failed_path"] == ["b/23.png"]
    assert run("verify", out, *tmp_path.glob("out.shard*")).exit_code == 0


# --- signals ----------------------------------------------------------------------------------


def many(tmp_path, model, n=4000):
    """Start a long encoding, and wait until it has parts."""
    source = tmp_path / "in/0.png"
    source.parent.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(pixels).save(source)
    for i in range(1, n):
        os.link(source, tmp_path / f"in/{i}.png")
    command = [sys.executable, "-m", "sparsecode", "encode", "in", "out.h5", "-m", str(model),
               "--part-size", "20", "--workers", "1"]  # fmt: skip
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while len(list((tmp_path).glob("out.h5.parts/part-*.json"))) < 2:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    return process, command


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_finishes_the_part_and_the_same_command_goes_on(
    model, tmp_path, stop, code
):
    process, command = many(tmp_path, model)
    process.send_signal(stop)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "run the same command to go on" in said
    assert "again to stop at once" in said
    assert not (tmp_path / "out.h5").exists()
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert again.returncode == 0, again.stderr
    assert "going on: " in again.stderr
    assert len(names(tmp_path / "out.h5")) == 4000
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out.h5"}


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_the_second_signal_stops_at_once_and_what_is_done_stays(model, tmp_path):
    process, _ = many(tmp_path, model)
    process.send_signal(signal.SIGINT)
    while b"again" not in process.stderr.buffer.readline():
        pass
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not (tmp_path / "out.h5").exists()
    assert len(list((tmp_path / "out.h5.parts").glob("part-*.json"))) >= 2
