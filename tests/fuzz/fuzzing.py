"""What the fuzz targets share: seeds from the hostile files, and the start of libFuzzer."""

import gc
import random
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FunctionType

ROOT = Path(__file__).parents[2]
for _folder in (ROOT, ROOT / "tests"):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))


def listed(
    names: Iterable[str],
    make: Callable[[str, Path, bytes], Path],
    good: bytes,
    skipped: tuple[str, ...],
) -> list[bytes]:
    """Make every kind of hostile file but those skipped; return their bytes."""
    found = []
    for name in names:
        if not name.startswith(skipped):
            with tempfile.TemporaryDirectory() as folder:
                found.append(make(name, Path(folder), good).read_bytes())
    return found


def changed(data: bytes, seed: int, first: int) -> bytes:
    """Change up to eight bytes among the first, or cut, repeat or leave out a piece."""
    rng = random.Random(seed)
    result = bytearray(data)
    limit = max(min(first, len(result)), 1)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(limit)
        if at < len(result):
            result[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    at, length = rng.randrange(limit), rng.randint(1, 64)
    match rng.randrange(10):
        case 0:
            del result[at:]
        case 1:
            del result[at : at + length]
        case 2:
            result[at:at] = result[at : at + length]
    return bytes(result)


def _functions() -> list[FunctionType]:
    """Return the package's own functions; to watch those of torch, too, would take minutes."""
    found = [item for item in gc.get_objects() if isinstance(item, FunctionType)]
    return [item for item in found if str(item.__module__).startswith("sparsecode.")]


def fuzz(target: Callable[[bytes], None], seeds: Iterable[bytes], arguments: list[str]) -> None:
    """Run libFuzzer on a target; the seeds are put in a folder of their own."""
    import atheris

    with tempfile.TemporaryDirectory(prefix="sparsecode-seeds-") as folder:
        for i, seed in enumerate(seeds):
            Path(folder, f"{i:03d}").write_bytes(seed)
        files = [argument for argument in arguments[1:] if Path(argument).is_file()]
        corpus = [] if files else [folder]
        for function in _functions():
            atheris.instrument_func(function)
        program, *options = arguments  # of two values of an option, libFuzzer takes the last
        limits = "-rss_limit_mb=4096", "-timeout=30"
        atheris.Setup([program, *limits, *options, *corpus], target)
        atheris.Fuzz()
