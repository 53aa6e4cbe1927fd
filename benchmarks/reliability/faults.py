"""Every file operation of an encoding made to fail, one after the other, in every way.

    python -m benchmarks.reliability.faults

From the root of the repository. The n-th of the package's own opens, writes, truncations, fsyncs
and renames fails with EIO, fails with ENOSPC, writes half of what it was given, or ends the process
on the spot, for every n. An error must be an `OutputError`; the output must be absent or whole; the
next run must end with the bytes of a run that nothing disturbed, and leave nothing beside them.
Exits with 1 if anything else is seen.
"""

import errno
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import machine, print_console, print_table
from benchmarks.reliability.jobs import Work, forked
from sparsecode import files
from sparsecode.errors import OutputError

OPERATIONS = ("open_new", "write", "truncate", "sync", "rename")
KINDS = ("EIO", "ENOSPC", "short write", "exit")
_EXIT = 77

Real = Callable[..., Any]


class Faults:
    """Counts the operations, and lets one of them fail.

    Attributes
    ----------
    n_calls : int
    fail_at : int
        From 1; 0 is never.
    kind : str
        One of `KINDS`.
    """

    def __init__(self) -> None:
        self.n_calls, self.fail_at, self.kind = 0, 0, "EIO"

    def set(self, fail_at: int = 0, kind: str = "EIO") -> None:
        """Count from 0 again."""
        self.n_calls, self.fail_at, self.kind = 0, fail_at, kind

    @contextmanager
    def injected(self) -> Iterator["Faults"]:
        """Stand between the package and its operations."""
        real = {name: getattr(files, name) for name in OPERATIONS}
        for name, operation in real.items():
            setattr(files, name, self._wrapped(name, operation))
        try:
            yield self
        finally:
            for name, operation in real.items():
                setattr(files, name, operation)

    def _wrapped(self, name: str, real: Real) -> Real:
        def call(*arguments: Any) -> Any:
            self.n_calls += 1
            if self.n_calls != self.fail_at:
                return real(*arguments)
            if self.kind == "exit":
                os._exit(_EXIT)
            if self.kind == "short write" and name == "write":
                descriptor, data = arguments
                return real(descriptor, data[: len(data) // 2])
            if self.kind == "short write":
                return real(*arguments)
            code = getattr(errno, self.kind)
            raise OSError(code, os.strerror(code))

        return call


def fail_everywhere(work: Work, expected: str, faults: Faults, kind: str) -> Counter[str]:
    """Let each operation fail in one way, and count what was seen."""
    seen: Counter[str] = Counter()
    faults.set()
    work.encode()
    n_operations = faults.n_calls
    for fail_at in range(1, n_operations + 1):
        work.output.unlink(missing_ok=True)
        faults.set(fail_at, kind)
        ended = _run(work, kind)
        seen["points"] += 1
        seen[ended] += 1
        seen["wrong"] += work.digest() not in ("", expected)
        faults.set()
        work.encode()
        seen["wrong"] += work.digest() != expected or bool(work.left_over())
    work.output.unlink()
    seen["wrong"] += seen["other errors"]
    return seen


def _run(work: Work, kind: str) -> str:
    if kind == "exit":
        pid = forked(work.encode)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return "ended" if code == _EXIT else "other errors"
    try:
        work.encode()
    except OutputError:
        return "clean errors"
    except Exception:
        return "other errors"
    return "went on"


def main() -> None:
    """Let everything fail, print the table, and fail if anything was wrong."""
    torch.set_num_threads(1)  # threads do not survive a fork
    rows, wrong = [], 0
    with tempfile.TemporaryDirectory() as folder, Faults().injected() as faults:
        work = Work(Path(folder), n_images=24, part_size=8)
        expected = work.make()
        for kind in KINDS:
            seen = fail_everywhere(work, expected, faults, kind)
            wrong += seen["wrong"]
            columns = ("points", "clean errors", "went on", "ended", "wrong")
            rows.append({"what": kind, **{column: f"{seen[column]:,}" for column in columns}})
    print_table("Every operation fails once", rows)
    print_console(f"{wrong} wrong. {machine()}.")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
