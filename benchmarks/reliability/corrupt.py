"""Which damaged files are decoded, and what may become of each."""

import random
from collections.abc import Iterator

from benchmarks.reliability.decoding import Case
from tests.image_corpus import N_CUTS, Sample, cut, flipped, floats, hostile, whole

MAX_PIXELS = 2_000_000
# What may be missing at the end of a file that shows all its pixels: the mark of the end.
_END_MARKS = {"png": 4, "jpeg": 2}
_N_SEEDS = 40


def undamaged() -> Iterator[Case]:
    """Yield every kind of image, whole, and the hostile ones."""
    for sample in (*whole(), *floats(), *hostile()):
        yield Case(*sample)


def damaged(count: int, seed: int = 0) -> Iterator[Case]:
    """Yield ``count`` damaged files, in an order in which neighbours differ.

    They are drawn, without repeating one, from all files cut off at every per cent of their length
    and with bytes replaced, by 40 seeds or as many as ``count`` takes.
    """
    samples = list(whole())
    n_variants = max(N_CUTS + _N_SEEDS, -(-count // len(samples)))
    for pick in random.Random(seed).sample(range(len(samples) * n_variants), count):
        sample, variant = samples[pick // n_variants], pick % n_variants
        yield _cut(sample, variant) if variant < N_CUTS else _flipped(sample, variant - N_CUTS)


def _cut(sample: Sample, percent: int) -> Case:
    """Cut a file; what still decodes must show the pixels of the whole file.

    Numbers in letters are the exception: 25 may be what is left of 255.
    """
    result = cut(sample, percent)
    lost = len(sample.content) - len(result.content)
    mark = None if sample.name.endswith(".mpo") else _END_MARKS.get(sample.kind)
    expected = "either" if mark is None or lost <= mark else "refused"
    original = None if "in letters" in sample.name else sample.content
    return Case(result.name, result.content, expected, original)


def _flipped(sample: Sample, seed: int) -> Case:
    """Replace bytes; only a PNG has checksums that make it known."""
    result = flipped(sample, seed)
    original = sample.content if sample.kind == "png" else None
    return Case(*result, original)
