"""Write the first 120 MNIST test images of each label to examples/digits/<label>/, as PNG.

python examples/make_digits.py --data-dir DATA
"""

import argparse
from collections import Counter
from pathlib import Path

from PIL import Image
from torchvision.datasets import MNIST

PER_LABEL = 120


def main() -> None:
    """Parse the arguments and write the images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="holds or receives MNIST")
    data = MNIST(parser.parse_args().data_dir, train=False, download=True)
    written: Counter[int] = Counter()
    for i, (pixels, label) in enumerate(zip(data.data.numpy(), data.targets.tolist(), strict=True)):
        if written[label] < PER_LABEL:
            written[label] += 1
            folder = Path(__file__).parent / "digits" / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{i:05d}.png", optimize=True)


if __name__ == "__main__":
    main()
