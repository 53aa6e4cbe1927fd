"""What the scripts about interrupted encodings share: a folder, a model, and what must come out."""

import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

import sparsecode
from sparsecode.encoding_job import EncodeOptions
from sparsecode.encoding_summary import EncodeSummary
from sparsecode.file_fitting import InputOptions

SIDE = 12
_PARAMETERS = {"n_components": 32, "max_iter": 2, "random_state": 0, "device": "cpu"}


@dataclass(frozen=True)
class Work:
    """An encoding that can be run again and again.

    Attributes
    ----------
    folder : Path
        Everything is in it.
    n_images, part_size, n_workers : int
    """

    folder: Path
    n_images: int
    part_size: int
    n_workers: int = 0

    @property
    def output(self) -> Path:
        """The file that all runs write."""
        return self.folder / "out.h5"

    @property
    def model(self) -> Path:
        """The model that all runs use."""
        return self.folder / "model.safetensors"

    @property
    def options(self) -> InputOptions:
        """How the images are read."""
        return InputOptions(n_workers=self.n_workers)

    def make(self) -> str:
        """Write images (every ninth is broken) and a model; return the hash of a whole run."""
        rng = np.random.default_rng(0)
        (self.folder / "in").mkdir(parents=True)
        for i in range(self.n_images):
            path = self.folder / f"in/{i:05d}.png"
            if i % 9 == 4:
                path.write_bytes(b"broken")
            else:
                Image.fromarray(rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)).save(path)
        sparsecode.fit_files(
            [self.folder / "in"], self.model, options=self.options, parameters=_PARAMETERS
        )
        self.encode()
        expected = self.digest()
        assert expected
        self.output.unlink()
        return expected

    def encode(self) -> EncodeSummary:
        """Run it, or what is left of it."""
        return sparsecode.encode_files(
            [self.folder / "in"],
            self.output,
            model=self.model,
            options=self.options,
            run=EncodeOptions(part_size=self.part_size),
        )

    def command(self) -> list[str]:
        """Return the same as a command."""
        inputs = str(self.folder / "in")
        return [
            sys.executable, "-m", "sparsecode", "encode", inputs, str(self.output),
            "-m", str(self.model), "--part-size", str(self.part_size),
            "--workers", str(self.n_workers), "-q",
        ]  # fmt: skip

    def digest(self) -> str:
        """SHA-256 of the output; "" where there is none."""
        if not self.output.exists():
            return ""
        return hashlib.sha256(self.output.read_bytes()).hexdigest()

    def left_over(self) -> list[str]:
        """Names beside what belongs there once a run has ended well."""
        known = {"in", self.output.name, self.model.name}
        return sorted(path.name for path in self.folder.iterdir() if path.name not in known)


def forked(task: Callable[[], object]) -> int:
    """Start a copy of this process that does the task and ends with 0; return its number.

    Nothing in it is cleaned up and no handler of the parent runs, as in a process of its own, but
    torch need not be imported again.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        task()
    except BaseException:
        os._exit(1)
    os._exit(0)
