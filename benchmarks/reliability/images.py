"""Damaged images: how many are refused, decoded, decoded wrongly, and how many crash or hang.

    python -m benchmarks.reliability.images                     # 2,000 damaged files
    python -m benchmarks.reliability.images --count 50000       # every night
    python -m benchmarks.reliability.images --pillow-source /tmp/pillow

From the root of the repository. Files of every kind that Pillow writes (``tests/image_corpus.py``)
are decoded whole, then cut off or with bytes replaced; so are files made to be hostile and, unless
pip cannot have its source distribution, Pillow's own test images, each in a process that may fail.
Pixels that come back must be those that a plain path finds in the same bytes; of a file that was
cut off, and of every PNG, they must be those of the undamaged file. Exits with 1 if one is not,
and after a crash or a hang.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import PIL

from benchmarks.common import machine, print_console, print_table
from benchmarks.reliability import pillow_source
from benchmarks.reliability.corrupt import MAX_PIXELS, damaged, undamaged
from benchmarks.reliability.decoding import FAILURES, Case, Tally, check

_PILLOW_MAX_PIXELS = 100_000_000
_SHOWN = 20


def table_row(name: str, tally: Tally) -> dict[str, str]:
    """One line of the table."""
    counts = [f"{tally.outcomes[outcome]:,}" for outcome in ("decoded", "refused", *FAILURES)]
    titles = ("decoded", "refused", "wrong", "crashes", "hangs")
    seconds, slowest = tally.slowest
    total = f"{sum(tally.outcomes.values()):,}"
    return {
        "files": name,
        "number": total,
        **dict(zip(titles, counts, strict=True)),
        "slowest": f"{seconds:.1f} s, {slowest}",
    }


def run(args: argparse.Namespace) -> Mapping[str, Tally]:
    """Check all groups of files."""
    groups: dict[str, tuple[Iterable[Case], int]] = {
        "whole and hostile": (undamaged(), MAX_PIXELS),
        "damaged": (damaged(args.count, args.seed), MAX_PIXELS),
    }
    try:
        args.pillow_source.mkdir(parents=True, exist_ok=True)
        archive = pillow_source.fetch(args.pillow_source)
        groups["Pillow's own"] = (pillow_source.cases(archive), _PILLOW_MAX_PIXELS)
    except pillow_source.UnavailableError as error:
        print_console(f"Without Pillow's own images: {error}")
    return {
        name: check(cases, max_pixels=max_pixels, seconds=args.seconds)
        for name, (cases, max_pixels) in groups.items()
    }


def main() -> None:
    """Check, print the table, and fail if anything did."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--count", type=int, default=2000, help="damaged files")
    options.add_argument("--seed", type=int, default=0, help="chooses them")
    options.add_argument("--seconds", type=float, default=30, help="longer is a hang")
    options.add_argument(
        "--pillow-source",
        type=Path,
        default=Path(tempfile.gettempdir(), f"sparsecode-pillow-source-{os.getuid()}"),
        help="where its archive is, or is kept",
    )
    tallies = run(options.parse_args())
    print_table("Damaged images", [table_row(name, tally) for name, tally in tallies.items()])
    failures = [line for tally in tallies.values() for line in tally.failures]
    for line in failures[:_SHOWN]:
        print_console(line)
    print_console(f"{len(failures)} failure(s). Pillow {PIL.__version__}; {machine()}.")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
