"""`sparsecode report` as people run it."""

import json
import os
import subprocess
import sys

import pytest


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "sparsecode", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "COLUMNS": "80"},
    )


def test_a_table_a_page_and_json(files, tmp_path):
    page = tmp_path / "r.html"
    result = run("report", files / "out.h5", "-i", files / "images", "-o", page)
    assert result.returncode == 0, result.stderr
    assert "dead latents" in result.stdout
    assert f"wrote {page}" in result.stderr
    assert "Without" not in result.stdout, "the model beside the codes is found"
    assert page.read_text().startswith("<!DOCTYPE html>")
    refused = run("report", files / "out.h5", "-o", page)
    assert refused.returncode == 2
    assert "--overwrite" in refused.stderr
    again = run("report", files / "out.h5", "-o", page, "--overwrite", "--no-model", "--json", "-q")
    assert again.returncode == 0
    assert json.loads(again.stdout)["title"] == "out.h5"
    assert again.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["none.h5"], 4, "none.h5 does not exist"),
        (["out.safetensors", "-o", "x.html"], 2, "cannot be read"),
        (["out.h5", "-m", "none.safetensors"], 4, "none.safetensors"),
        (["out.h5", "-m", "out.h5"], 2, "out.h5"),
        (["out.h5", "-i", "none"], 4, "none"),
        (["out.h5", "-i", "images/3"], 2, "lack"),
        (["out.h5", "-o", "nowhere/r.html"], 2, "nowhere"),
        (["out.h5", "--labels", "none.csv"], 4, "none.csv"),
        (["out.h5", "--column", "age"], 2, "'age'"),
        (["out.h5", "--reference", "none.h5"], 4, "none.h5"),
    ],
)
def test_bad_input_gets_its_exit_code_and_writes_nothing(
    files, arguments, code, words, monkeypatch
):
    monkeypatch.chdir(files)
    before = sorted(files.rglob("*"))
    result = run("report", *arguments)
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert sorted(files.rglob("*")) == before
