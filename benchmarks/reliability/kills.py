"""Encodings killed at random moments: nothing lost, nothing half written, the same bytes.

    python -m benchmarks.reliability.kills                             # 100 kills
    python -m benchmarks.reliability.kills --count 1000 --commands 50  # every night

From the root of the repository. A job is started, killed (SIGKILL) at a random moment of its
expected duration and started again, until it ends by itself; then the next job. After each kill the
output is absent or whole; at the end it has the bytes of a run that nobody disturbed, and nothing
lies beside it. Jobs are forked from a process that has imported everything; `--commands` are killed
as people would, `sparsecode encode` in a process of its own. Exits with 1 if anything else is seen.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import machine, print_console, print_table
from benchmarks.reliability.jobs import Work, forked

Start = Callable[[Work], int]


def in_a_fork(work: Work) -> int:
    """Start the job in a copy of this process."""
    return forked(work.encode)


def as_a_command(work: Work) -> int:
    """Start the job as people do."""
    return subprocess.Popen(work.command(), stderr=subprocess.DEVNULL).pid


def kill_often(work: Work, expected: str, count: int, start: Start, seed: int) -> Counter[str]:
    """Kill so many runs, and count what was seen.

    Returns
    -------
    Counter
        "kills", "jobs" that were finished after them, "resumed" kills that left parts, and under
        "wrong" whatever must not be.
    """
    rng = np.random.default_rng(seed)
    seen: Counter[str] = Counter()
    duration = _duration(work, start)
    while seen["kills"] < count:
        pid = start(work)
        time.sleep(rng.uniform(0, 1.05 * duration))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        digest = work.digest()
        seen["wrong"] += digest not in ("", expected)
        if os.WIFSIGNALED(status):
            seen["kills"] += 1
            seen["with parts"] += any(work.folder.glob("out.h5.parts/part-*.json"))
            continue
        seen["jobs"] += 1
        seen["wrong"] += os.waitstatus_to_exitcode(status) not in (0, 3)
        seen["wrong"] += digest != expected or bool(work.left_over())
        work.output.unlink(missing_ok=True)
    work.encode()
    seen["jobs"] += 1
    seen["wrong"] += work.digest() != expected or bool(work.left_over())
    work.output.unlink()
    return seen


def _duration(work: Work, start: Start) -> float:
    begun = time.monotonic()
    os.waitpid(start(work), 0)
    work.output.unlink()
    return time.monotonic() - begun


def main() -> None:
    """Kill, print the table, and fail if anything was wrong."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--count", type=int, default=100, help="kills of forked jobs")
    options.add_argument("--commands", type=int, default=5, help="kills of whole commands")
    options.add_argument("--seed", type=int, default=0, help="chooses the moments")
    args = options.parse_args()
    torch.set_num_threads(1)  # threads do not survive a fork
    os.environ["OMP_NUM_THREADS"] = "1"  # sums of other numbers of threads round otherwise
    rows, wrong = [], 0
    for name, count, n_workers, start in (
        ("forked jobs", args.count - args.count // 4, 0, in_a_fork),
        ("forked jobs with a decoding process", args.count // 4, 1, in_a_fork),
        ("commands", args.commands, 1, as_a_command),
    ):
        with tempfile.TemporaryDirectory() as folder:
            work = Work(Path(folder), n_images=80, part_size=8, n_workers=n_workers)
            seen = kill_often(work, work.make(), count, start, args.seed)
        wrong += seen["wrong"]
        columns = ("kills", "with parts", "jobs", "wrong")
        rows.append({"what": name, **{column: f"{seen[column]:,}" for column in columns}})
    print_table("Killed at random moments", rows)
    print_console(f"{wrong} wrong. {machine()}.")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
