"""One image file in, uint8 pixels (h, w, c) out, or a reason why not. Only here is Pillow used."""

import errno
import io
import os
import re
import stat
import threading
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any, BinaryIO, Literal, NamedTuple, Self

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from sparsecode.errors import ImageError, NoInputError

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM")
MAX_BYTES = 512 * 2**20
"""Larger files are refused, for each is read into memory as a whole."""

# Neither wait for the other end of a FIFO nor take over a terminal; not all exist everywhere.
_OPEN_FLAGS = os.O_RDONLY
for _flag in ("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY"):
    _OPEN_FLAGS |= getattr(os, _flag, 0)
_NOT_REGULAR = "it is not a regular file"

_ORIENTATION_TAG, _BITS_TAG, _PHOTOMETRIC_TAG = 0x0112, 0x0102, 0x0106
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")
_LARGEST_DEFAULT_SIDE = 64

_MAX_SCANS = 100
_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
# All but those without a length: restarts, TEM, and bytes of the data that are FF.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")


@dataclass(frozen=True)
class ImageOptions:
    """Everything that decides which pixels a file becomes; a model stores it.

    Parameters
    ----------
    height, width : int
        Size of the result in pixels, at least 1; other images are resized to it.
    channels : {1, 3}
        Grey or RGB.
    exif : bool, default=True
        Turn the image as its EXIF orientation says.
    max_pixels : int, default=100_000_000
        Larger images are refused before they are decoded. Pillow refuses more than 178,956,970
        on its own account.
    background : int, default=255
        Grey value, 0 to 255, behind transparent pixels.

    Raises
    ------
    ValueError
        A value is of the wrong type or out of range.
    """

    height: int
    width: int
    channels: Literal[1, 3]
    exif: bool = True
    max_pixels: int = 100_000_000
    background: int = 255

    def __post_init__(self) -> None:
        ranges = {"height": (1, 2**15), "width": (1, 2**15), "max_pixels": (1, 2**31 - 1)}
        ranges |= {"channels": (1, 3), "background": (0, 255)}
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"{name}={value!r} is not an integer from {low} to {high}")
        if self.channels == 2:
            raise ValueError("channels=2 is not possible; use 1 (grey) or 3 (RGB)")
        if type(self.exif) is not bool:
            raise ValueError(f"exif={self.exif!r} is not true or false")

    @property
    def n_features(self) -> int:
        """Number of values per image: height * width * channels."""
        return self.height * self.width * self.channels

    def to_dict(self) -> dict[str, Any]:
        """Return the options as a JSON object."""
        return asdict(self)

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> Self:
        """Read the options back; raises ValueError unless every key and value is right."""
        known = {field.name for field in fields(cls)}
        if not isinstance(options, Mapping) or options.keys() != known:
            raise ValueError(f"image options {options!r} do not have exactly the keys {known}")
        return cls(**options)


class DecodedImage(NamedTuple):
    """Pixels, with the size that the image had (once turned upright).

    Parameters
    ----------
    pixels : ndarray of shape (height, width, channels), uint8
        As `ImageOptions` asks for.
    width, height : int
        Of the file's image, in pixels.
    """

    pixels: np.ndarray
    width: int
    height: int


@dataclass(frozen=True)
class Survey:
    """What the headers of many images say.

    Parameters
    ----------
    options : ImageOptions
        The size and channels that suit most of them.
    sizes : dict of (height, width) to int
        How many readable images have each size, the commonest first.
    n_unreadable : int
        Files whose headers could not be read.
    """

    options: ImageOptions
    sizes: dict[tuple[int, int], int]
    n_unreadable: int

    @property
    def n_resized(self) -> int:
        """Number of readable images of another size than ``options``."""
        kept = (self.options.height, self.options.width)
        return sum(count for size, count in self.sizes.items() if size != kept)


def read_image(path: str | os.PathLike[str], options: ImageOptions) -> DecodedImage:
    """Decode one file.

    The first frame is turned upright, scaled to 8 bits, laid over the background, made grey or
    RGB, and resized, in that order of meaning. Resizing is bicubic over the whole area that a
    pixel covers (no aliasing, and less ringing at hard edges than Lanczos); an image that already
    has the right size keeps its values.

    Parameters
    ----------
    path : path-like
        The file.
    options : ImageOptions
        What to make of it.

    Returns
    -------
    DecodedImage
        Pixels (h, w, c) and the original size.

    Raises
    ------
    ImageError
        For whatever is wrong; the message is the reason, one line without the path.
    """
    with _opened(path, options.max_pixels, whole=True) as image:
        width, height = image.size
        # A JPEG decodes to 1/2, 1/4 or 1/8 of its size at a fraction of the cost; twice what is
        # needed leaves the resize enough to average over.
        side = 2 * max(options.height, options.width)
        drafted = image.draft(None, (side, side))
        _scale_transparent_value(image)
        if image.format == "PNG":
            # Pillow decodes it to look for EXIF behind the pixels; a failure would count as none.
            image.load()
        turn = _turn(image, options.exif)
        image.load()
        size = (options.width, options.height)
        if turn >= 5:
            width, height, size = height, width, size[::-1]
        result = _to_8_bit_mode(image, options)
        if result.size != size:
            box = drafted[1] if drafted else None
            result = result.resize(size, Image.Resampling.BICUBIC, box=box)
        if turn > 1:
            result = result.transpose(_TRANSPOSITIONS[turn])
        shape = (options.height, options.width, options.channels)
        return DecodedImage(np.asarray(result).reshape(shape), width, height)


def encode_picture(pixels: np.ndarray, palette: np.ndarray | None = None) -> bytes:
    """Encode pixels as a small PNG, or, where that is smaller, in colour as WebP.

    Parameters
    ----------
    pixels : ndarray of shape (h, w) or (h, w, 3), uint8
        Grey, or indices into the palette, or RGB.
    palette : ndarray of shape (256, 3), uint8, optional

    Returns
    -------
    bytes
        Begins with the magic bytes of its format.
    """
    image = Image.fromarray(pixels)
    if palette is not None:
        image = image.convert("P")
        image.putpalette(palette.astype(np.uint8).tobytes())
    png = _saved(image, "PNG", optimize=True)
    return png if pixels.ndim == 2 else min(png, _saved(image, "WEBP", quality=85), key=len)


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode pixels (h, w) or (h, w, 3), uint8, without loss."""
    return _saved(Image.fromarray(pixels), "PNG")


def _saved(image: Image.Image, format_name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


def survey(
    paths: Iterable[str | os.PathLike[str]],
    *,
    size: tuple[int, int] | None = None,
    channels: Literal[1, 3] | None = None,
    exif: bool = True,
    max_pixels: int = 100_000_000,
    background: int = 255,
) -> Survey:
    """Read the headers of images and choose options that suit most of them.

    Parameters
    ----------
    paths : iterable of path-like
        The files.
    size : tuple (height, width), optional
        In pixels. Without it: the commonest size (of equally common ones the first seen), shrunk
        in proportion until no side is longer than 64.
    channels : {1, 3}, optional
        Without it: 1 if every readable image is grey, else 3.
    exif, max_pixels, background
        See `ImageOptions`.

    Returns
    -------
    Survey
        The options, and what they mean for these files.

    Raises
    ------
    NoInputError
        Not one header can be read; up to 3 reasons are given.
    """
    sizes: Counter[tuple[int, int]] = Counter()
    grey = True
    reasons: list[str] = []
    n_unreadable = 0
    for path in paths:
        try:
            with _opened(path, max_pixels) as image:
                sizes[_turned_size(image, exif)] += 1
                grey = grey and image.mode in _GREY_MODES
        except ImageError as error:
            n_unreadable += 1
            reasons = [*reasons, f"{os.fspath(path)!r}: {error}"][:3]
    if not sizes:
        raise NoInputError(f"none of {n_unreadable} files can be read; {'; '.join(reasons)}")
    height, width = size or _shrunk(*sizes.most_common(1)[0][0])
    options = ImageOptions(
        height, width, channels or (1 if grey else 3), exif, max_pixels, background
    )
    return Survey(options, dict(sizes.most_common()), n_unreadable)


def _shrunk(height: int, width: int) -> tuple[int, int]:
    scale = min(1.0, _LARGEST_DEFAULT_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _turned_size(image: Image.Image, exif: bool) -> tuple[int, int]:
    """Return (height, width) from the header; a PNG is not decoded to look for later EXIF."""
    width, height = image.size
    known = image.format != "PNG" or "exif" in image.info
    return (width, height) if known and _turn(image, exif) >= 5 else (height, width)


@contextmanager
def _opened(
    path: str | os.PathLike[str], max_pixels: int, whole: bool = False
) -> Iterator[Image.Image]:
    """Open a file as an image; every failure in here or in the caller's block is an `ImageError`.

    A decoder of hostile bytes raises anything, so nothing narrower than Exception will do. With
    ``whole``, for decoding, the file is read once, so that what was verified is what is decoded.
    """
    try:
        with _QUIET, _regular_file(path) as file:
            content = _content(file) if whole else b""
            source: BinaryIO = io.BytesIO(content) if whole else file
            if content.startswith(b"\x89PNG\r\n\x1a\n"):
                # Decoding does not compare checksums.
                Image.open(source, formats=["PNG"]).verify()
            with Image.open(source, formats=FORMATS) as image:
                _check_header(image, max_pixels)
                if whole and image.format in ("JPEG", "MPO"):
                    _check_scans(image, content)
                yield image
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise ImageError(f"it is not an image in a known format ({known}), or damaged") from error
    except Exception as error:
        raise ImageError(_reason(error)) from error


@contextmanager
def _regular_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file of 1 to `MAX_BYTES` bytes; looked up once, so that nothing can take its place."""
    try:
        descriptor = os.open(path, _OPEN_FLAGS)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise ImageError(_NOT_REGULAR) from error
        raise
    try:
        _check_file(os.fstat(descriptor))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def _check_file(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(_NOT_REGULAR)
    if status.st_size == 0:
        raise ImageError("the file is empty")
    if status.st_size > MAX_BYTES:
        raise ImageError(
            f"the file has {status.st_size} bytes; {MAX_BYTES} are allowed; "
            "shrink, crop or compress the image"
        )


def _content(file: BinaryIO) -> bytes:
    """Read a file that nobody writes to meanwhile: half of an old and of a new image is neither."""
    before = os.fstat(file.fileno())
    content = file.read(before.st_size + 1)
    after = os.fstat(file.fileno())
    unchanged = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    if len(content) != before.st_size or not unchanged:
        raise ImageError("the file changed while it was read; try again")
    return content


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = "".join(c if c.isprintable() else " " for c in text or type(error).__name__)
    return " ".join(line.split())[:200]


def _check_header(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(f"it has {width} x {height} pixels; {max_pixels} are allowed (max_pixels)")
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise ImageError(
            f"its pixels are {'floats' if image.mode == 'F' else '32-bit integers'}, which have "
            "no fixed white; convert it to 8 or 16 bits"
        )


def _check_scans(image: Image.Image, content: bytes) -> None:
    """Refuse a JPEG that decodes for hours: each of its scans, often tiny, goes over all pixels.

    A progressive JPEG has some 10 scans. What follows the image, a video perhaps, does not count.
    """
    n_scans, position = 0, 2
    while found := _JPEG_MARKER.search(content, position):
        end = found.end()
        position = end + int.from_bytes(content[end : end + 2], "big")
        if found[0] == _END_OF_IMAGE:
            return
        if found[0] == _START_OF_SCAN:
            all_at_once = content[end + 2 : end + 3] == bytes([getattr(image, "layers", 0)])
            if all_at_once and "progressive" not in image.info:  # nothing after it is looked at
                return
            n_scans += 1
        if n_scans > _MAX_SCANS:
            raise ImageError(f"it has more than {_MAX_SCANS} scans; save it again")


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; unreadable EXIF counts as none."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG)
    except Exception:
        return 1
    return value if value in _TRANSPOSITIONS else 1


def _turn(image: Image.Image, exif: bool) -> int:
    """Return the orientation that is left to undo, relative to the size in the header.

    Pillow itself turns every TIFF upright, so there it has to be turned back if not wanted.
    """
    orientation = _orientation(image)
    if image.format == "TIFF":
        return 1 if exif else {6: 8, 8: 6}.get(orientation, orientation)
    return orientation if exif else 1


def _to_8_bit_mode(image: Image.Image, options: ImageOptions) -> Image.Image:
    """Scale to 8 bits, lay over the background, and convert to grey or RGB."""
    if image.mode.startswith("I"):
        image = _scaled_to_8_bits(image)
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        paper = (options.background,) * 3 + (255,)
        below = Image.new("RGBA", image.size, paper)
        image = Image.alpha_composite(below, image.convert("RGBA"))
    if image.mode == "LAB":  # which Pillow does not make grey
        image = image.convert("RGB")
    return image.convert("L" if options.channels == 1 else "RGB")


def _scale_transparent_value(image: Image.Image) -> None:
    """Scale a PNG's transparent grey or colour as Pillow will scale its pixels."""
    rawmode = image.tile[0].args if isinstance(image, ImageFile.ImageFile) and image.tile else None
    value = image.info.get("transparency")
    if value is not None and rawmode in ("L;2", "L;4"):
        image.info["transparency"] = value * {"L;2": 85, "L;4": 17}[rawmode]
    elif value is not None and rawmode == "RGB;16B":
        image.info["transparency"] = tuple(part >> 8 for part in value)


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey (12-bit in some TIFFs) to 8 bits, rounding; Pillow would clip it."""
    tags = getattr(image, "tag_v2", {})
    white = 2 ** tags.get(_BITS_TAG, (16,))[0] - 1
    values = np.asarray(image).astype(np.uint32)
    grey = ((values * 510 + white) // (2 * white)).astype(np.uint8)
    if tags.get(_PHOTOMETRIC_TAG) == 0:
        grey = 255 - grey
    result = Image.fromarray(grey)
    if "transparency" in image.info:
        opaque = values != image.info["transparency"]
        result.putalpha(Image.fromarray(np.where(opaque, 255, 0).astype(np.uint8)))
    return result


class _Quiet:
    """Hide Pillow's warnings while any thread decodes.

    `warnings.catch_warnings` puts the filters back in the wrong order when threads overlap, so
    only the first thread in changes them and only the last one out restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._depth += 1
            if self._depth == 1:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                self._filters.__exit__(None, None, None)


_QUIET = _Quiet()
