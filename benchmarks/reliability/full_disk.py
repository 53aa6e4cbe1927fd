"""Disks of every size that are too small: a clean exit, and the next run goes on.

    python -m benchmarks.reliability.full_disk              # 20 sizes
    python -m benchmarks.reliability.full_disk --count 100  # every night

From the root of the repository. `sparsecode encode` runs under a limit on the size of a file
(RLIMIT_FSIZE), from nothing to what it needs: HDF5's own driver, left to itself, ends with a
segmentation fault there. Where a file system of a given size can be mounted (Linux, as root), the
same is done on one that is full. Each run must end with exit code 5 and no signal, and leave no
output; without the limit the same command must then end with the bytes of an undisturbed run.
Exits with 1 if anything else is seen.
"""

import argparse
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.common import machine, print_console, print_table
from benchmarks.reliability.jobs import Work

_DISK_FULL = 5


def fill(work: Work, expected: str, n_sizes: int, largest: int) -> Counter[str]:
    """Run under limits spread evenly up to `largest` bytes, and count what was seen."""
    seen: Counter[str] = Counter()
    for i in range(n_sizes):
        limit = largest * i // n_sizes
        result = subprocess.run(
            work.command(), preexec_fn=_limited_to(limit), capture_output=True, check=False
        )
        _judge(result.returncode, work, expected, seen)
    return seen


def _judge(code: int, work: Work, expected: str, seen: Counter[str]) -> None:
    """Look at what a failed run left, then run it again with room enough."""
    seen["sizes"] += 1
    seen["exit 5"] += code == _DISK_FULL
    seen["signals"] += code < 0
    seen["wrong"] += code != _DISK_FULL or work.digest() != ""
    work.encode()
    seen["wrong"] += work.digest() != expected or bool(work.left_over())
    seen["then whole"] += work.digest() == expected
    work.output.unlink()


def _limited_to(n_bytes: int) -> Callable[[], None]:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does: an error, not the end
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))

    return limit


def fill_mounted(work: Work, expected: str, n_sizes: int, largest: int) -> Counter[str]:
    """Do the same in file systems that are full but for so many bytes."""
    seen: Counter[str] = Counter()
    mount = work.folder / "disk"
    mount.mkdir()
    for i in range(1, n_sizes + 1):
        size = 4096 * max(2, largest * i // n_sizes // 4096)
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(mount)],
            capture_output=True, check=False,
        )  # fmt: skip
        if mounted.returncode:
            break
        try:
            there = _OnDisk(**work.__dict__)
            code = subprocess.run(there.command(), capture_output=True, check=False).returncode
            there_is_room = ["mount", "-o", "remount,size=64m", str(mount)]
            subprocess.run(there_is_room, check=True)
            _judge(code, there, expected, seen)
        finally:
            subprocess.run(["umount", str(mount)], check=True)
    mount.rmdir()
    return seen


class _OnDisk(Work):
    """The same work, its output on the small file system."""

    @property
    def output(self) -> Path:
        return self.folder / "disk/out.h5"

    def left_over(self) -> list[str]:
        return sorted(path.name for path in self.output.parent.iterdir() if path != self.output)


def largest_file(work: Work) -> int:
    """Bytes of the largest file that a run writes: its output."""
    work.encode()
    size = work.output.stat().st_size
    work.output.unlink()
    return size


def main() -> None:
    """Fill, print the table, and fail if anything was wrong."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--count", type=int, default=20, help="sizes")
    args = options.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        work = Work(Path(folder), n_images=200, part_size=40)
        expected = work.make()
        size = largest_file(work)
        counts = {"limit on a file's size": fill(work, expected, args.count, size)}
        # All that is on the disk at once: the parts, and the file made of them.
        mounted = fill_mounted(work, expected, args.count, 2 * size)
        if mounted["sizes"]:
            counts["full file system (tmpfs)"] = mounted
        else:
            print_console("No file system can be mounted here.")
    columns = ("sizes", "exit 5", "signals", "then whole", "wrong")
    print_table(
        "Disks that are too small",
        [
            {"what": name, **{column: f"{seen[column]:,}" for column in columns}}
            for name, seen in counts.items()
        ],
    )
    wrong = sum(seen["wrong"] for seen in counts.values())
    print_console(f"{wrong} wrong. {machine()}.")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
