"""Decode files in a process that may crash or hang, and judge what comes back.

Every file is decoded by `sparsecode.images.read_image` and, from the same bytes, by a plain path
written for this purpose with nothing but Pillow and NumPy. Run as a module, this file is the
worker: a case per line on stdin, a verdict per line on stdout, both JSON.
"""

import contextlib
import ctypes
import io
import json
import select
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sparsecode.errors import ImageError
from sparsecode.images import ImageOptions, read_image

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM")
_LONGEST_SIDE = 2**15
_BITS_TAG, _PHOTOMETRIC_TAG = 258, 262
_ROOT = Path(__file__).parents[2]
# For glibc's mallopt: fill new and freed memory with a byte.
_M_PERTURB = -6
_MEMORY_LIMIT = 4 * 2**30
FAILURES = ("wrong", "crash", "hang")


class Case(NamedTuple):
    """A file, and what may become of it.

    Parameters
    ----------
    name : str
    content : bytes
    expected : {"decoded", "refused", "either"}
    original : bytes, optional
        If there are pixels at all, then they are those of this file.
    """

    name: str
    content: bytes
    expected: str
    original: bytes | None = None


class Verdict(NamedTuple):
    """What became of a file: "decoded", "refused", "wrong", "crash" or "hang", and the reason."""

    outcome: str
    reason: str = ""


@dataclass
class Tally:
    """What became of many files.

    Parameters
    ----------
    outcomes : Counter
        By outcome.
    failures : list of str
        One line for each wrong row, crash and hang.
    slowest : tuple (seconds, name)
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")

    def add(self, case: Case, verdict: Verdict, seconds: float) -> None:
        """Count one file."""
        self.outcomes[verdict.outcome] += 1
        self.slowest = max(self.slowest, (seconds, case.name))
        if verdict.outcome in FAILURES:
            self.failures.append(f"{case.name}: {verdict.outcome}, {verdict.reason}")


def check(cases: Iterable[Case], *, max_pixels: int, seconds: float = 30) -> Tally:
    """Decode and judge every case, with a limit of seconds for each."""
    tally = Tally()
    with Worker(max_pixels, seconds) as worker:
        for case in cases:
            start = time.monotonic()
            tally.add(case, worker.judge(case), time.monotonic() - start)
    return tally


# -- the parent's side ---------------------------------------------------------------------------


class Worker:
    """A process that decodes; a new one takes the place of one that crashed or hung.

    Parameters
    ----------
    max_pixels : int
        As in `ImageOptions`.
    seconds : float
        Longer is a hang.
    """

    def __init__(self, max_pixels: int, seconds: float) -> None:
        self._max_pixels = max_pixels
        self._seconds = seconds

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        self._log = Path(self._folder.name, "stderr")
        self._process = self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()
        self._folder.cleanup()

    def judge(self, case: Case) -> Verdict:
        """Write the file where the last one was, and have it decoded."""
        paths = [Path(self._folder.name, name) for name in ("image", "original")]
        paths[0].write_bytes(case.content)
        paths[1].write_bytes(case.original or b"")
        request = {
            "path": str(paths[0]),
            "original": str(paths[1]) if case.original else None,
            "expected": case.expected,
            "max_pixels": self._max_pixels,
        }
        with contextlib.suppress(BrokenPipeError):  # it died since: there will be no answer
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Verdict:
        """Wait for the verdict, which is written at once, or for the end of the process."""
        output = self._process.stdout
        if not select.select([output], [], [], self._seconds)[0]:
            verdict = Verdict("hang", f"no answer in {self._seconds:g} s")
        elif line := output.readline():
            return Verdict(*json.loads(line))
        else:
            verdict = Verdict("crash", f"exit code {self._process.wait()}; {self._last_words()}")
        self._stop()
        self._process = self._start()
        return verdict

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return lines[-1] if lines else "nothing on stderr"

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-X", "faulthandler", "-m", "benchmarks.reliability.decoding"]
        pipe = subprocess.PIPE
        with self._log.open("wb") as log:  # libtiff writes there, whatever Python does
            return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, cwd=_ROOT)

    def _stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


# -- the worker's side ---------------------------------------------------------------------------


def main() -> None:
    """Judge the cases on stdin until it ends."""
    _limit_memory()
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        try:
            verdict = judge(**json.loads(line))
        except Exception as error:  # whatever is not an ImageError ends a run
            verdict = Verdict("crash", repr(error))
        print(json.dumps(verdict), flush=True)


def _limit_memory() -> None:
    """Make a decoder that asks for too much fail, instead of the machine."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT, _MEMORY_LIMIT))


def judge(path: str, original: str | None, expected: str, max_pixels: int) -> Verdict:
    """Decode a file in two ways and compare."""
    content = Path(path).read_bytes()
    # Pixels that nobody wrote differ between the two, instead of showing the last image in both.
    _fill_memory(0xAA)
    truth, reason = _plain_or_reason(content, max_pixels)
    _fill_memory(0x55)
    try:
        pixels = _pixels(path, truth, max_pixels)
    except ImageError as error:
        if expected == "decoded":
            return Verdict("wrong", f"refused: {error}")
        return Verdict("refused", str(error))
    if truth is None:
        return Verdict("wrong", f"decoded, but Pillow says: {reason}")
    if expected == "refused":
        return Verdict("wrong", "decoded, but must be refused")
    if not _same(pixels, truth):
        return Verdict("wrong", "not the pixels that Pillow finds in these bytes")
    if original and not _same(pixels, plain(Path(original).read_bytes(), max_pixels)):
        return Verdict("wrong", "not the pixels of the file before it was damaged")
    return Verdict("decoded")


def _fill_memory(byte: int) -> None:
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(_M_PERTURB, byte)


def _pixels(path: str, truth: NDArray[np.uint8] | None, max_pixels: int) -> NDArray[np.uint8]:
    """Decode as the package does: grey and small, then in colour and whole."""
    small = ImageOptions(8, 8, 1, max_pixels=max_pixels)
    height, width = (8, 8) if truth is None else truth.shape[:2]
    whole = ImageOptions(
        min(height, _LONGEST_SIDE), min(width, _LONGEST_SIDE), 3, max_pixels=max_pixels
    )
    try:
        first: ImageError | None = None
        read_image(path, small)
    except ImageError as error:
        first = error
    try:
        pixels = read_image(path, whole).pixels
    except ImageError as error:
        if first is None:
            raise AssertionError(f"decoded small, but whole: {error}") from error
        raise
    if first is not None:
        raise AssertionError(f"decoded whole, but small: {first}")
    return pixels


def _same(pixels: NDArray[np.uint8], truth: NDArray[np.uint8]) -> bool:
    """Compare; behind transparency two ways of rounding differ by 1."""
    if pixels.shape != truth.shape:
        if max(truth.shape) <= _LONGEST_SIDE:
            return False
        image = Image.fromarray(truth)
        truth = np.asarray(image.resize(pixels.shape[1::-1], Image.Resampling.BICUBIC))
    return bool(np.abs(pixels.astype(int) - truth).max() <= 1)


# -- the plain path ------------------------------------------------------------------------------


def _plain_or_reason(content: bytes, max_pixels: int) -> tuple[NDArray[np.uint8] | None, str]:
    try:
        return plain(content, max_pixels), ""
    except Exception as error:
        return None, repr(error)


def plain(content: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """Decode with Pillow as its manual says: upright, white behind transparency, 8 bits, RGB."""
    image: Any = Image.open(io.BytesIO(content), formats=_FORMATS)
    if image.width * image.height > max_pixels:
        raise ValueError("too many pixels")
    kind = image.format
    image.load()
    if kind == "PNG" and "transparency" in image.info:
        _scale_transparent_value(image, depth=content[24])
    with contextlib.suppress(Exception):  # an image with unreadable EXIF is still an image
        upright = ImageOps.exif_transpose(image)
        upright.tag_v2 = getattr(image, "tag_v2", {})
        image = upright
    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PPM"):
        return _deep_grey(image)
    if image.mode in ("I", "F"):
        raise ValueError("no fixed white")
    return _over_white(image)


def _scale_transparent_value(image: Any, depth: int) -> None:
    """Pillow scales the pixels, but not the value that means transparent."""
    value = image.info["transparency"]
    if depth in (2, 4) and image.mode == "L":
        image.info["transparency"] = value * 255 // (2**depth - 1)
    elif depth == 16 and isinstance(value, tuple):
        image.info["transparency"] = tuple(part >> 8 for part in value)


def _deep_grey(image: Any) -> NDArray[np.uint8]:
    tags = getattr(image, "tag_v2", {})
    white = 2.0 ** tags.get(_BITS_TAG, (16,))[0] - 1
    values = np.asarray(image).astype(float)
    grey = np.floor(values * 255 / white + 0.5)
    if tags.get(_PHOTOMETRIC_TAG) == 0:
        grey = 255 - grey
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 255
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


def _over_white(image: Any) -> NDArray[np.uint8]:
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    if image.mode == "La":
        image = image.convert("LA")
    values = np.asarray(image.convert("RGBA")).astype(float)
    opacity = values[..., 3:] / 255
    return np.rint(values[..., :3] * opacity + 255 * (1 - opacity)).astype(np.uint8)


if __name__ == "__main__":
    main()
