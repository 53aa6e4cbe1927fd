"""Memory, open files and speed of an encoding, at 10,000 images and at many more.

    python -m benchmarks.reliability.memory                   # beside 100,000
    python -m benchmarks.reliability.memory --count 1000000

From the root of the repository, on Linux. Images are hard links to a hundred small PNG files, a
thousand in a folder; `sparsecode encode` with a given model is watched from outside, through /proc,
until it ends. The peak is that of the process that encodes; its decoders hold an image each. Of the
rates, one counts the whole command, the other the seconds that its summary says, which leave out
the start of Python and torch. Exits with 1 if the peak differs by more than 10 %, the latter by
more than 20 %, or open files grow.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.common import Row, machine, print_console, print_table
from benchmarks.reliability.jobs import SIDE
from sparsecode import SparseVAETransformer
from sparsecode.images import ImageOptions
from sparsecode.storage import describe_codes

_FEW, _SOURCES, _IN_A_FOLDER, _LATENTS = 10_000, 100, 1000, 64
_MOST_MEMORY, _LEAST_RATE = 1.1, 0.8
_SECONDS = 0.05


def write_images(folder: Path, count: int) -> None:
    """Make so many names for a hundred files."""
    rng = np.random.default_rng(0)
    sources = [folder / f"source-{i}.png" for i in range(_SOURCES)]
    for path in sources:
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)).save(path)
    for start in range(0, count, _IN_A_FOLDER):
        part = folder / f"in/{start:08d}"
        part.mkdir(parents=True)
        for i in range(start, min(start + _IN_A_FOLDER, count)):
            os.link(sources[i % _SOURCES], part / f"{i:08d}.png")


def write_model(path: Path) -> None:
    """Save a model of such images."""
    X = np.random.default_rng(0).integers(0, 256, (500, SIDE * SIDE), dtype=np.uint8)
    estimator = SparseVAETransformer(_LATENTS, max_iter=2, random_state=0, device="cpu").fit(X)
    estimator.image_options_ = ImageOptions(SIDE, SIDE, 1).to_dict()
    estimator.save(path)


def encode(count: int) -> Row:
    """Encode so many images, watched."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, count)
        write_model(folder / "model.safetensors")
        output, log, summary = folder / "out.h5", folder / "log", folder / "summary"
        command = [
            sys.executable, "-m", "sparsecode", "encode", str(folder / "in"), str(output),
            "-m", str(folder / "model.safetensors"), "--workers", "1", "-q", "--json",
        ]  # fmt: skip
        start = time.monotonic()
        with log.open("wb") as stderr, summary.open("wb") as stdout:
            process = subprocess.Popen(command, stderr=stderr, stdout=stdout)
            peak, n_files = _watched(process)
        seconds = time.monotonic() - start
        if process.returncode:
            raise SystemExit(log.read_text())
        assert describe_codes(output)["n_samples"] == count
        size, own = output.stat().st_size, json.loads(summary.read_text())["seconds"]
    return {
        "images": count, "peak_mib": peak / 1024, "open_files": n_files,
        "rate": count / own, "rate_all": count / seconds, "output_mb": size / 1e6,
    }  # fmt: skip


def _watched(process: "subprocess.Popen[bytes]") -> tuple[int, int]:
    """Return the peak of resident memory in KiB, and the most files open, until it ends."""
    peak = n_files = 0
    here = Path(f"/proc/{process.pid}")
    while process.poll() is None:
        try:
            lines = (here / "status").read_text().splitlines()
            peak = max(
                [peak, *(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))]
            )
            n_files = max(n_files, len(list((here / "fd").iterdir())))
        except OSError:  # it has just ended
            break
        time.sleep(_SECONDS)
    process.wait()
    return peak, n_files


def main() -> None:
    """Encode twice, print the table, and fail if many images cost more each than few."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--count", type=int, default=100_000, help="images of the larger run")
    args = options.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    few, many = encode(_FEW), encode(args.count)
    print_table("Few images and many", [_cells(row) for row in (few, many)])
    flat = many["peak_mib"] <= _MOST_MEMORY * few["peak_mib"]
    steady = many["rate"] >= _LEAST_RATE * few["rate"]
    constant = many["open_files"] <= few["open_files"]
    print_console(
        f"Memory x {many['peak_mib'] / few['peak_mib']:.3f}, rate x "
        f"{many['rate'] / few['rate']:.2f}. {machine()}."
    )
    sys.exit(not (flat and steady and constant))


def _cells(row: Row) -> dict[str, str]:
    return {
        "images": f"{row['images']:,}",
        "peak, MiB": f"{row['peak_mib']:.0f}",
        "open files": str(row["open_files"]),
        "images/s": f"{row['rate']:,.0f}",
        "with the start": f"{row['rate_all']:,.0f}",
        "output, MB": f"{row['output_mb']:.1f}",
    }


if __name__ == "__main__":
    main()
