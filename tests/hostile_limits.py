"""How long and with how much memory a hostile file may keep its reader busy."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SECONDS, MEBIBYTES = 10, 500


@dataclass
class Cost:
    """What a block of code took; memory is 0 where the system does not tell."""

    seconds: float = 0.0
    mebibytes: float = 0.0


def _kilobytes(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"^{name}:\s*(\d+)", status, re.MULTILINE)
    return int(found[1]) if found else 0


def _reset_peak() -> int:
    """Let the system count the peak from now on; return the memory in use."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _kilobytes("VmRSS")
    except OSError:
        return 0


@contextmanager
def measured() -> Iterator[Cost]:
    """Measure the time and the growth in resident memory of a block."""
    cost, before, start = Cost(), _reset_peak(), time.monotonic()
    yield cost
    cost.seconds = time.monotonic() - start
    if before:
        cost.mebibytes = (_kilobytes("VmHWM") - before) / 1024
