"""`sparsecode encode` on a folder of images beside decoding them alone.

python -m benchmarks.speed.encode --data-dir ../shared/data --threads 1

Two folders: MNIST's images as PNG, 28 by 28, and larger JPEG pictures made from them. The rivals
are a loop over Pillow that decodes, turns to grey and shrinks, and stores nothing, and the same
through the package's reader; what has not been decoded cannot be encoded. Files are in the page
cache.
"""

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.common import Row, load_mnist
from benchmarks.speed.timing import in_turn, open_rows, options, show, spread
from sparsecode.encoding import encode_files
from sparsecode.file_fitting import InputOptions
from sparsecode.images import ImageOptions, read_image

K, P = 512, 0.95
_SIDE = 28
_LARGE = 256
_FILES = {"PNG, 28 x 28": 4_000, "JPEG, 256 x 256": 1_000}


def write_images(folder: Path, images: NDArray[np.uint8], kind: str) -> list[Path]:
    """Write (n, 28, 28) images as small PNG or large JPEG files."""
    paths = []
    for i, pixels in enumerate(images):
        image = Image.fromarray(pixels)
        if kind.startswith("JPEG"):
            image = image.resize((_LARGE, _LARGE), Image.Resampling.BICUBIC)
        paths.append(folder / f"{i:06d}.{kind[:4].strip(',').lower()}")
        image.save(paths[-1])
    return paths


def decode_alone(paths: Sequence[Path]) -> NDArray[np.uint8]:
    """Pixels (n, 28, 28) by a plain loop over Pillow."""
    pixels = np.empty((len(paths), _SIDE, _SIDE), np.uint8)
    for i, path in enumerate(paths):
        with Image.open(path) as image:
            grey = image.convert("L")
            if grey.size != (_SIDE, _SIDE):
                grey = grey.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
            pixels[i] = np.asarray(grey)
    return pixels


def read_alone(paths: Sequence[Path]) -> int:
    """Read every file as the package does, one after the other."""
    wanted = ImageOptions(_SIDE, _SIDE, 1)
    return sum(read_image(path, wanted).pixels.size for path in paths)


def measure(images: NDArray[np.uint8], kind: str, rounds: int) -> Row:
    """Time the job and its rivals in turn, all in one process."""
    options = InputOptions(size=(_SIDE, _SIDE), channels=1, n_workers=0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "images")
        folder.mkdir()
        paths = write_images(folder, images, kind)
        encode = partial(encode_files, [folder], Path(name, "codes.h5"), options=options)
        encode(parameters={"n_components": K, "p": P, "max_iter": 1, "random_state": 0})
        model = Path(name, "codes.safetensors")
        timings = in_turn(
            {
                "encode": lambda: encode(model=model, overwrite=True),
                "pillow": lambda: decode_alone(paths),
                "reader": lambda: read_alone(paths),
            },
            rounds,
        )
    return {
        **timings.row(),
        "files": len(images),
        "of_pillow": timings.ratio("encode", "pillow"),
        "of_reader": timings.ratio("encode", "reader"),
    }


def run(args: argparse.Namespace) -> None:
    """Measure and show."""
    file = open_rows(args, "encode")
    images = load_mnist(args.data_dir).train.reshape(-1, _SIDE, _SIDE)
    for kind, n in _FILES.items():
        key = {"benchmark": "encode", "comparison": kind}
        file.get(key, partial(measure, images[:n], kind, args.rounds))
    show(
        f"Files to codes in one .h5, {K} latents, p={P}",
        [row for row in file.rows if row["benchmark"] == "encode"],
        lambda row: {
            "files": f"{row['files']:,} {row['comparison']}",
            "n": str(row["n"]),
            "encode, s": spread(row["encode_s"]),
            "Pillow alone, s": spread(row["pillow_s"]),
            "our reader alone, s": spread(row["reader_s"]),
            "of Pillow": spread(row["of_pillow"]),
            "of our reader": spread(row["of_reader"]),
        },
    )


if __name__ == "__main__":
    run(options(__doc__).parse_args())
