"""Time, memory and size of `sparsecode report` and `sparsecode probe` on MNIST.

    python benchmarks/report.py --data-dir data

Trains on the 60,000 training images (512 latents, p = .95), encodes both parts, and runs the two
commands as people do, in processes of their own. Training is not part of any figure.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import load_mnist, machine
from numpy.typing import NDArray

_SETTINGS = ["-k", "512", "--p", "0.95"]
# In a process of its own, for the largest memory of a child is that of all children so far.
_MEASURED = """
import resource, subprocess, sys, time
start = time.monotonic()
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
seconds = time.monotonic() - start
memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(done.stdout or done.stderr, file=sys.stderr)
print(seconds, memory)
sys.exit(done.returncode)
"""


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--data-dir", type=Path, default=Path("data"))
    arguments.add_argument("--folder", type=Path, help="keep the files here")
    options = arguments.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    prepare(folder, options.data_dir)
    print(machine())
    for part in ("test", "train"):
        common = [f"{part}.h5", "-m", "model.safetensors", "-i", f"{part}.npy"]
        labels = ["--labels", f"{part}.csv"]
        page = ["-o", f"{part}.html", "--overwrite"]
        show(folder, "report", *common, *labels, *page)
        size = (folder / f"{part}.html").stat().st_size / 1e6
        print(f"    the page has {size:.2f} MB")
        show(folder, "probe", f"{part}.h5", *labels)
    baselines = ["-m", "model.safetensors", "-i", "test.npy"]
    show(folder, "probe", "test.h5", *baselines, "--labels", "test.csv")


def prepare(folder: Path, data_dir: Path) -> None:
    """Write arrays, labels, the model and the codes, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    data = load_mnist(data_dir)
    for part, X, y in (
        ("train", data.train, data.train_labels),
        ("test", data.test, data.test_labels),
    ):
        np.save(folder / f"{part}.npy", X.reshape(-1, 28, 28))
        write_labels(folder / f"{part}.csv", y)
    if not (folder / "model.safetensors").exists():
        run(folder, "fit", "train.npy", "model.safetensors", *_SETTINGS, "-q")
    for part in ("train", "test"):
        if not (folder / f"{part}.h5").exists():
            run(folder, "encode", f"{part}.npy", f"{part}.h5", "-m", "model.safetensors", "-q")


def write_labels(path: Path, labels: NDArray) -> None:
    lines = [f"row_{i:07d},{label}" for i, label in enumerate(labels)]
    path.write_text("\n".join(["name,digit", *lines]) + "\n")


def run(folder: Path, *command: str) -> None:
    subprocess.run([sys.executable, "-m", "sparsecode", *command], cwd=folder, check=True)


def show(folder: Path, *command: str) -> None:
    full = [sys.executable, "-m", "sparsecode", *command]
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, *full], cwd=folder, stdout=subprocess.PIPE, text=True,
        check=True,
    )  # fmt: skip
    seconds, memory = map(float, done.stdout.split())
    print(f"sparsecode {' '.join(command)}\n    {seconds:.1f} s, {memory:.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
