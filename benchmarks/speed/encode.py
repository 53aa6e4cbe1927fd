"""`sparsecode encode` on a folder of images beside decoding them alone, with the same workers.

python -m benchmarks.speed.encode --data-dir ../shared/data --threads 1

Photographs that scikit-learn (and scikit-image, where it is installed) ships are cut, resized to
640 by 427 pixels, or to the 1,920 by 1,281 of a small camera, saved as JPEG, and encoded at 64 by
64 in colour; MNIST's images are saved as PNG.
The rivals decode and resize to the same pixels, and keep nothing: a ``multiprocessing.Pool``
around a few lines of Pillow, and the package's own pool of decoders, which does not trust its
files. Both start their processes in each round, as the job does. Files are in the page cache.
"""

import argparse
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.common import Row, load_mnist
from benchmarks.other_data import photographs
from benchmarks.speed.timing import in_turn, open_rows, options, show, spread, wanted
from sparsecode.encoding import encode_files
from sparsecode.file_fitting import InputOptions
from sparsecode.image_pool import CHUNK, ImagePool
from sparsecode.images import ImageOptions

K, P = 512, 0.95
_ASPECT = 640 / 427
_QUALITY = 90
_CUTS = 500
_PARAMETERS = {"n_components": K, "p": P, "max_iter": 1, "random_state": 0}


@dataclass(frozen=True)
class Folder:
    """Images to write, and what to make of them."""

    count: int
    images: ImageOptions
    write: Callable[[Path, int], None]


def write_photographs(folder: Path, count: int, width: int = 640) -> None:
    """Cut photographs, save the cuts as JPEG, and give each so many names as there must be."""
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(pixels) for pixels in photographs().values()]
    for i in range(count):
        if i >= _CUTS:
            os.link(folder / f"{i % _CUTS:06d}.jpg", folder / f"{i:06d}.jpg")
            continue
        picture = pictures[i % len(pictures)]
        share = rng.uniform(0.7, 1.0)
        across = int(share * min(picture.width, picture.height * _ASPECT))
        down = int(across / _ASPECT)
        left = int(rng.integers(picture.width - across + 1))
        top = int(rng.integers(picture.height - down + 1))
        size, box = (width, round(width / _ASPECT)), (left, top, left + across, top + down)
        cut = picture.resize(size, Image.Resampling.BICUBIC, box=box)
        cut.save(folder / f"{i:06d}.jpg", quality=_QUALITY)


def write_digits(images: NDArray[np.uint8], folder: Path, count: int) -> None:
    """Save images (n, 28, 28) as PNG."""
    for i, pixels in enumerate(images[:count]):
        Image.fromarray(pixels).save(folder / f"{i:06d}.png")


def pillow(paths: Sequence[Path], images: ImageOptions, n_workers: int) -> int:
    """Decode in a pool of processes by a loop over Pillow; return the number of values."""
    task = partial(decode, images=images)
    with multiprocessing.get_context("fork").Pool(n_workers) as pool:
        return sum(pixels.size for pixels in pool.imap(task, paths, chunksize=CHUNK))


def decode(path: Path, images: ImageOptions) -> NDArray[np.uint8]:
    """Decode and shrink one image."""
    size = images.width, images.height
    with Image.open(path) as image:
        # JPEGs are decoded at 1/2, 1/4 or 1/8, as the package does.
        drafted = image.draft(None, (2 * max(size), 2 * max(size)))
        colours = image.convert("L" if images.channels == 1 else "RGB")
        if colours.size != size:
            box = drafted[1] if drafted else None
            colours = colours.resize(size, Image.Resampling.BICUBIC, box=box)
        return np.asarray(colours)


def reader(paths: Sequence[Path], images: ImageOptions, n_workers: int) -> int:
    """Decode as the package does; return the number of images."""
    with ImagePool(images, n_workers) as pool:
        decoded = pool.decode(_chunks(paths), n_ahead=2 * n_workers)
        return sum(len(chunk) for chunk in decoded)


def _chunks(paths: Sequence[Path]) -> Iterator[list[str]]:
    for start in range(0, len(paths), CHUNK):
        yield [str(path) for path in paths[start : start + CHUNK]]


def measure(folder: Folder, n_workers: int, rounds: int) -> Row:
    """Time the job and its rivals in turn."""
    images = folder.images
    wanted = InputOptions(
        size=(images.height, images.width), channels=images.channels, n_workers=n_workers
    )
    with tempfile.TemporaryDirectory() as name:
        source = Path(name, "images")
        source.mkdir()
        folder.write(source, folder.count)
        paths = sorted(source.iterdir())
        encode = partial(encode_files, [source], Path(name, "codes.h5"), options=wanted)
        encode(parameters=_PARAMETERS)
        model = Path(name, "codes.safetensors")
        timings = in_turn(
            {
                "encode": lambda: encode(model=model, overwrite=True),
                "pillow": lambda: pillow(paths, images, n_workers),
                "reader": lambda: reader(paths, images, n_workers),
            },
            rounds,
        )
    return {
        **timings.row(),
        "files": folder.count,
        "of_pillow": timings.ratio("encode", "pillow"),
        "of_reader": timings.ratio("encode", "reader"),
    }


def run(args: argparse.Namespace) -> None:
    """Measure and show."""
    file = open_rows(args, "encode")
    digits = load_mnist(args.data_dir).train.reshape(-1, 28, 28)
    folders = {
        "photographs, 640 x 427": Folder(6_000, ImageOptions(64, 64, 3), write_photographs),
        "photographs, 1920 x 1281": Folder(
            6_000, ImageOptions(64, 64, 3), partial(write_photographs, width=1920)
        ),
        "digits, PNG": Folder(6_000, ImageOptions(28, 28, 1), partial(write_digits, digits)),
    }
    for name in wanted(args, folders):
        for n_workers in args.workers:
            key = {"benchmark": "encode", "comparison": name, "workers": n_workers}
            file.get(key, partial(measure, folders[name], n_workers, args.rounds))
    show(
        f"Files to codes in one .h5, {K} latents, p={P}",
        [row for row in file.rows if row["benchmark"] == "encode"],
        lambda row: {
            "files": f"{row['files']:,} {row['comparison']}",
            "workers": str(row["workers"]),
            "n": str(row["n"]),
            "encode, s": spread(row["encode_s"]),
            "Pillow, s": spread(row["pillow_s"]),
            "our reader, s": spread(row["reader_s"]),
            "of Pillow": spread(row["of_pillow"]),
            "of our reader": spread(row["of_reader"]),
        },
    )


if __name__ == "__main__":
    parser = options(__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="decoders")
    run(parser.parse_args())
