"""The judge of decoded files: it notices wrong rows, crashes and hangs."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks.reliability import decoding, pillow_source
from benchmarks.reliability.corrupt import MAX_PIXELS, damaged
from benchmarks.reliability.decoding import Case, Worker, judge
from sparsecode.errors import ImageError
from sparsecode.images import DecodedImage
from tests.image_corpus import RGB, encoded

PNG = encoded(Image.fromarray(RGB), "PNG")


@pytest.fixture
def judged(tmp_path, monkeypatch):
    """Judge a PNG of which the package says what ``answer`` says."""

    def judged(answer=None, expected="either", original=None):
        (tmp_path / "image").write_bytes(PNG)
        if original:
            (tmp_path / "original").write_bytes(original)
        if answer is not None:
            monkeypatch.setattr(decoding, "read_image", lambda path, options: answer(options))
        other = str(tmp_path / "original") if original else None
        return judge(str(tmp_path / "image"), other, expected, MAX_PIXELS)

    return judged


def refuse(options):
    raise ImageError("damaged")


def refuse_large(options):
    return DecodedImage(RGB, 16, 12) if options.height == 8 else refuse(options)


def test_the_truth_is_decoded(judged):
    assert judged().outcome == "decoded"
    assert judged(original=PNG).outcome == "decoded"
    assert judged(refuse).outcome == "refused"


def test_wrong_rows_are_noticed(judged):
    assert judged(expected="refused").outcome == "wrong"
    assert judged(original=encoded(Image.fromarray(255 - RGB), "PNG")).outcome == "wrong"
    assert judged(lambda options: DecodedImage(255 - RGB, 16, 12)).outcome == "wrong"
    assert judged(lambda options: DecodedImage(RGB[:6], 16, 6)).outcome == "wrong"
    assert judged(refuse, expected="decoded").outcome == "wrong"


def test_options_that_change_the_verdict_are_noticed(judged):
    with pytest.raises(AssertionError, match="decoded small, but whole: damaged"):
        judged(refuse_large)


@pytest.mark.parametrize(
    ("program", "outcome"),
    [("import time; time.sleep(60)", "hang"), ("import os; os.abort()", "crash")],
)
def test_a_process_that_hangs_or_crashes_is_replaced(monkeypatch, program, outcome):
    started = subprocess.Popen
    programs = [[sys.executable, "-c", program]]

    def start(command, **options):
        return started(programs.pop() if programs else command, **options)

    monkeypatch.setattr(decoding.subprocess, "Popen", start)
    with Worker(MAX_PIXELS, seconds=30 if outcome == "crash" else 0.2) as worker:
        assert worker.judge(Case("x", PNG, "either")).outcome == outcome
        worker._seconds = 30
        assert worker.judge(Case("x", PNG, "decoded")).outcome == "decoded"


def test_damaged_files_are_as_many_as_asked_and_the_same_every_time():
    names = [case.name for case in damaged(50)]
    assert len(set(names)) == 50
    assert names == [case.name for case in damaged(50)]
    assert names != [case.name for case in damaged(50, seed=1)]


def test_a_source_that_cannot_be_had_is_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(pillow_source.sys, "executable", str(tmp_path / "missing"))
    with pytest.raises(pillow_source.UnavailableError, match="No such file"):
        pillow_source.fetch(tmp_path)


def test_transparency_may_differ_by_rounding_only():
    white = np.full((2, 2, 3), 255, np.uint8)
    assert decoding._same(white, white - 1)
    assert not decoding._same(white, white - 2)
