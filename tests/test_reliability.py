"""The programs under ``benchmarks/reliability/`` with small numbers: nothing silent, no crash."""

import os
import signal
import time

import pytest
from hostile_codes import small_file
from hostile_models import small_model

pytest.importorskip("benchmarks.reliability", reason="the benchmarks are not beside the tests here")

from benchmarks.reliability import faults, flips, kills, traps
from benchmarks.reliability.child import outcomes
from benchmarks.reliability.jobs import Work


@pytest.mark.parametrize(
    ("make", "judge"), [(small_file, flips.judge_codes), (small_model, flips.judge_model)]
)
def test_no_flipped_bit_is_silent(make, judge):
    counts, failures = flips.tally(make, judge, 100, seed=1)
    assert failures == []
    assert counts["detected"] > 60
    assert counts["harmless"] > 0 or judge is flips.judge_model
    assert counts.total() == 100


def test_a_silent_change_would_be_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(flips, "verify_codes", lambda _: [])
    good = small_file(tmp_path / "file")
    at = good.index(b"truncated")
    assert flips.judge_codes(good, tmp_path / "file", (at, 0)) == "silent"


def test_crashes_and_hangs_are_told_apart_and_cost_one_item_each():
    def work(item):
        if item == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if item == "exit":
            os._exit(7)
        if item == "hang":
            time.sleep(60)
        return item.upper()[: 1 // len(item) + 9]

    items = ["a", "crash", "b", "exit", "hang", "", "c"]
    answers = list(outcomes(work, items, seconds=2))
    assert answers[:5] == ["A", "crashed (SIGKILL)", "B", "crashed (exit 7)", "hung"]
    assert answers[5].startswith("raised ZeroDivisionError")
    assert answers[6] == "C"


@pytest.mark.parametrize("options", [(), ("--workers", "0", "--follow-symlinks")])
def test_every_trap_in_a_folder_is_accounted_for(tmp_path, options):
    result = traps.spring(traps.TRAPS, tmp_path, *options)
    assert result.problems == []
    assert len(result.outcomes) == len(traps.TRAPS)
    assert "MISSING" not in " ".join(result.outcomes.values())


def test_what_changes_between_listing_and_reading_is_accounted_for(tmp_path):
    result = traps.spring(traps.CHANGES, tmp_path)
    assert result.problems == []
    assert len(result.outcomes) == len(traps.CHANGES)
    assert not (tmp_path / "images" / "gone.png").exists()  # it did happen


def test_an_unaccounted_trap_would_be_told(tmp_path):
    lost = traps.TRAPS["FIFO"]._replace(failure="other.jpg")
    result = traps.spring({"FIFO": lost, "good": traps.TRAPS["good image"]}, tmp_path)
    assert result.outcomes["FIFO"] == "failed: MISSING"
    assert result.problems == [
        "failure 'fifo.jpg' is there, or not",
        "failure 'other.jpg' is there, or not",
    ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["ENOSPC", "short write", "exit"])
def test_whichever_file_operation_fails_nothing_is_lost(tmp_path, kind):
    work = Work(tmp_path / "work", n_images=10, part_size=6)
    with faults.Faults().injected() as injected:
        seen = faults.fail_everywhere(work, work.make(), injected, kind)
    assert seen["wrong"] == 0
    assert seen["points"] > 60
    expected = {"ENOSPC": "clean errors", "short write": "went on", "exit": "ended"}
    assert seen[expected[kind]] == seen["points"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_jobs_end_with_the_same_bytes(tmp_path):
    work = Work(tmp_path / "work", n_images=40, part_size=4)
    seen = kills.kill_often(work, work.make(), 12, kills.in_a_fork, seed=0)
    assert seen["wrong"] == 0
    assert seen["kills"] == 12


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_another_output_would_be_counted_as_wrong(tmp_path):
    work = Work(tmp_path / "work", n_images=6, part_size=4)
    work.make()
    assert kills.kill_often(work, "another hash", 1, kills.in_a_fork, seed=0)["wrong"] > 0


@pytest.mark.skipif(os.name != "posix", reason="needs limits on the size of a file")
def test_a_disk_that_is_too_small_is_a_clean_error_and_the_next_run_goes_on(tmp_path, monkeypatch):
    from benchmarks.reliability import full_disk  # it imports `resource`

    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as here: other sums would round otherwise
    work = Work(tmp_path / "work", n_images=30, part_size=10)
    expected = work.make()
    seen = full_disk.fill(work, expected, 3, full_disk.largest_file(work))
    assert (seen["exit 5"], seen["then whole"], seen["signals"], seen["wrong"]) == (3, 3, 0, 0)
