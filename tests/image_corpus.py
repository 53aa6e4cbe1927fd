"""Images of every kind that `sparsecode.images` may meet, made by script: whole, hostile, damaged.

The tests and ``benchmarks/reliability/images.py`` draw on it. The same Pillow makes the same bytes.
"""

import io
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Expected = Literal["decoded", "refused", "either"]

ROWS, COLUMNS = np.mgrid[:12, :16]
RGB = np.stack([COLUMNS * 16, ROWS * 20, (ROWS * COLUMNS) % 256], axis=-1).astype(np.uint8)
GREY = (COLUMNS * 16 + ROWS).astype(np.uint8)
ENCODINGS: list[tuple[str, dict[str, Any]]] = [
    ("PNG", {}),
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("BMP", {}),
    ("GIF", {}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("PPM", {}),
]
ORIENTATION_TAG = 0x0112
N_CUTS = 100
ODD_NAMES = (
    *(b"\xff.png", b"a\nb.png", b" .png", b"-rf.png", b"%2F.png", b"'\"$(x).png", b"x" * 255),
    *(name.encode() for name in ("é.png", "e\u0301.png", "\u202egnp.png")),
)
_FAX = ("group3", "group4", "tiff_ccitt")
_SHADES = ("packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "lzma", "zstd", "jpeg")
# First pixel and step, down and across, of each pass of an interlaced PNG.
_ADAM7 = (
    ((0, 8), (0, 8)),
    ((0, 8), (4, 8)),
    ((4, 8), (0, 4)),
    ((0, 4), (2, 4)),
    ((2, 4), (0, 2)),
    ((0, 2), (1, 2)),
    ((1, 2), (0, 1)),
)


class Sample(NamedTuple):
    """A file.

    Parameters
    ----------
    name : str
        Format, what is special, and an extension: ``png/interlaced.png``.
    content : bytes
    expected : {"decoded", "refused", "either"}
        What `read_image` must make of it.
    """

    name: str
    content: bytes
    expected: Expected

    @property
    def kind(self) -> str:
        """The format, in lower case."""
        return self.name.split("/")[0]


# -- whole images --------------------------------------------------------------------------------


def whole() -> Iterator[Sample]:
    """Yield images as they should be, in every mode and format that this Pillow can write."""
    for name, image, options in (*_pngs(), *_jpegs(), *_tiffs(), *_others()):
        kind, extension = name.split("/")[0], name.rsplit(".")[-1]
        if content := _encoded(image, {"mpo": "MPO"}.get(extension, kind), options):
            yield Sample(name, content, "decoded")
    yield from _by_hand()
    yield from _sizes()


def floats() -> Iterator[Sample]:
    """Yield undamaged images without a fixed white, which are refused."""
    for name, kind, values in (
        ("tiff/float.tif", "TIFF", GREY.astype(np.float32)),
        ("tiff/32-bit.tif", "TIFF", GREY.astype(np.int32)),
        ("ppm/float.pfm", "PPM", GREY.astype(np.float32)),
    ):
        yield Sample(name, encoded(Image.fromarray(values), kind), "refused")


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Encode an image in a format."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _encoded(image: Image.Image, kind: str, options: dict[str, Any]) -> bytes | None:
    """Encode an image, unless this Pillow was built without that."""
    try:
        return encoded(image, kind, **options)
    except (OSError, KeyError, ValueError):
        return None


def picture(mode: str) -> Image.Image:
    """The test picture in any mode, with some transparency where there can be any."""
    image = Image.fromarray(RGB)
    if mode in ("LA", "PA", "RGBA"):
        image = image.convert({"LA": "L", "PA": "P", "RGBA": "RGB"}[mode])
        image.putalpha(Image.fromarray((COLUMNS * 17).astype(np.uint8)))
        return image
    if mode.startswith("I;16"):
        values = (GREY.astype(np.uint16) * 257).astype(">u2" if mode == "I;16B" else "<u2")
        return Image.frombytes(mode, (16, 12), values.tobytes())
    return image.convert(mode)


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    return exif


def _frames() -> dict[str, Any]:
    others = [Image.new("RGB", (16, 12), colour) for colour in ("lime", "blue")]
    return {"save_all": True, "append_images": others}


_Recipe = tuple[str, Image.Image, dict[str, Any]]


def _pngs() -> Iterator[_Recipe]:
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        yield f"png/{mode}.png", picture(mode), {}
    yield "png/P transparent.png", picture("P"), {"transparency": bytes(range(0, 256, 2))}
    yield "png/L transparent.png", picture("L"), {"transparency": 16}
    yield "png/RGB transparent.png", picture("RGB"), {"transparency": (16, 20, 1)}
    for bits in (1, 2, 4):
        image = Image.fromarray(GREY % 2**bits).convert("P")
        yield f"png/P of {bits} bits.png", image, {"bits": bits}
    yield "png/animated.apng", picture("RGB"), _frames()
    for orientation in range(1, 9):
        yield f"png/turned {orientation}.png", picture("RGB"), {"exif": _exif(orientation)}


def _jpegs() -> Iterator[_Recipe]:
    for mode in ("L", "RGB", "CMYK", "YCbCr"):
        yield f"jpeg/{mode}.jpg", picture(mode), {}
        yield f"jpeg/{mode} progressive.jpg", picture(mode), {"progressive": True}
    for orientation in range(1, 9):
        yield f"jpeg/turned {orientation}.jpg", picture("RGB"), {"exif": _exif(orientation)}
    big = picture("RGB").resize((400, 300))
    yield "jpeg/big.jpg", big, {"quality": 90}
    yield "jpeg/restarts.jpg", big, {"restart_marker_rows": 1}
    yield "jpeg/two pictures.mpo", picture("RGB"), _frames()


def _tiffs() -> Iterator[_Recipe]:
    modes = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB")
    for mode in (*modes, "I;16", "I;16B"):
        yield f"tiff/{mode}.tif", picture(mode), {}
    for compression in _FAX:
        yield f"tiff/{compression}.tif", picture("1"), {"compression": compression}
    for compression in _SHADES:
        for mode in ("L", "RGB") if compression == "jpeg" else ("L", "P", "RGBA", "I;16"):
            yield f"tiff/{mode} {compression}.tif", picture(mode), {"compression": compression}
    predicted = {"compression": "tiff_lzw", "tiffinfo": {317: 2}}
    yield "tiff/predicted.tif", picture("RGB"), predicted
    yield "tiff/strips.tif", picture("RGB"), {"compression": "packbits", "strip_size": 96}
    yield "tiff/big.tif", picture("RGB"), {"big_tiff": True}
    yield "tiff/pages.tif", picture("RGB"), _frames()
    for orientation in range(1, 9):
        yield f"tiff/turned {orientation}.tif", picture("RGB"), {"exif": _exif(orientation)}


def _others() -> Iterator[_Recipe]:
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        yield f"bmp/{mode}.bmp", picture(mode), {}
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        yield f"gif/{mode}.gif", picture(mode), {}
    yield "gif/not interlaced.gif", picture("P"), {"interlace": 0}
    yield "gif/transparent.gif", picture("P"), {"transparency": 3}
    yield "gif/animated.gif", picture("RGB"), _frames()
    for mode in ("L", "RGB", "RGBA"):
        yield f"webp/{mode}.webp", picture(mode), {}
        yield f"webp/{mode} lossless.webp", picture(mode), {"lossless": True}
    yield "webp/animated.webp", picture("RGB"), _frames()
    for orientation in range(1, 9):
        yield f"webp/turned {orientation}.webp", picture("RGB"), {"exif": _exif(orientation)}
    for mode, extension in (("1", "pbm"), ("L", "pgm"), ("I;16", "pgm"), ("RGB", "ppm")):
        yield f"ppm/{mode}.{extension}", picture(mode), {}


def _by_hand() -> Iterator[Sample]:
    """Yield what Pillow reads and does not write."""
    yield Sample("png/interlaced.png", interlaced_png(RGB), "decoded")
    wide = RGB.astype(">u2") * 257
    rows = [row.tobytes() for row in wide]
    yield Sample("png/16-bit colour.png", png((16, 12), 16, 2, rows), "decoded")
    clear = b"\0\0" * 3
    yield Sample("png/16-bit clear.png", png((16, 12), 16, 2, rows, clear), "decoded")
    for bits in (2, 4):
        rows = [bytes([0b00011011] * (2 * bits))] * 12
        yield Sample(f"png/{bits}-bit clear.png", png((16, 12), bits, 0, rows, b"\0\1"), "decoded")
    for magic, values, largest in (("P1", GREY > 99, ""), ("P2", GREY, "255"), ("P3", RGB, "255")):
        lines = "\n".join(" ".join(str(int(v)) for v in row.ravel()) for row in values)
        text = f"{magic}\n# a remark\n16 12 {largest}\n{lines}\n"
        yield Sample(f"ppm/{magic} in letters.pnm", text.encode(), "decoded")


def _sizes() -> Iterator[Sample]:
    """Yield the smallest and the longest images."""
    for kind, longest in (
        ("PNG", 20_000),
        ("JPEG", 65_500),
        ("TIFF", 20_000),
        ("BMP", 20_000),
        ("GIF", 20_000),
        ("WEBP", 16_383),
        ("PPM", 20_000),
    ):
        for size in ((1, 1), (longest, 1), (1, longest)):
            content = encoded(picture("RGB").resize(size), kind)
            yield Sample(f"{kind.lower()}/{size[0]} x {size[1]}.{kind.lower()}", content, "decoded")


# -- files by hand -------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG."""
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


def png(
    size: tuple[int, int],
    depth: int,
    colour: int,
    rows: list[bytes],
    transparent: bytes | None = None,
    *,
    interlaced: bool = False,
    more: bytes = b"",
) -> bytes:
    """A PNG by hand, as Pillow does not write it; ``more`` chunks follow its header."""
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, int(interlaced))
    middle = chunk(b"tRNS", transparent) if transparent else b""
    data = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + more
        + middle
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


def interlaced_png(pixels: NDArray[np.uint8]) -> bytes:
    """An interlaced PNG of RGB pixels."""
    rows = [
        row.tobytes()
        for (top, down), (left, across) in _ADAM7
        for row in pixels[top::down, left::across]
        if row.size
    ]
    height, width, _ = pixels.shape
    return png((width, height), 8, 2, rows, interlaced=True)


def bomb(side: int = 9000) -> bytes:
    """A black PNG of ``side`` squared pixels, 81 million of them in less than 20 KB."""
    return encoded(Image.new("1", (side, side)), "PNG")


def tiff(entries: list[tuple[int, int, int, int]], following: int = 0, data: bytes = b"") -> bytes:
    """A little-endian TIFF of one directory; entries are tag, type, count and value or offset."""
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + directory + struct.pack("<I", following) + data


def _grey_tiff(width: int = 4, height: int = 4, strip: int = 16) -> list[tuple[int, int, int, int]]:
    return [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 122),
        (277, 3, 1, 1),
        (278, 4, 1, height),
        (279, 4, 1, strip),
    ]


def scan_bomb(side: int, n_scans: int) -> bytes:
    """A progressive JPEG, black, with so many scans more: each goes over all its pixels."""
    content = encoded(Image.new("L", (side, side)), "JPEG", progressive=True)
    # The second scan, with the tables before it: a few bytes, for its blocks have nothing to add.
    scans = [match.start() for match in re.finditer(rb"\xff\xda", content)]
    begin, end = content.index(b"\xff\xc4", scans[0]), content.index(b"\xff\xc4", scans[1])
    return content[:end] + content[begin:end] * n_scans + content[end:]


# -- hostile files -------------------------------------------------------------------------------


def hostile() -> Iterator[Sample]:
    """Yield files that no decoder should trip over, for a limit of two million pixels."""
    yield from _not_images()
    yield from _hostile_pngs()
    yield from _hostile_tiffs()
    yield from _oversized()
    jpeg = encoded(picture("RGB"), "JPEG")
    exif = b"Exif\0\0" + tiff([(ORIENTATION_TAG, 3, 1, 1), (34665, 4, 1, 8)], following=8)
    loop = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    yield Sample("jpeg/looping EXIF.jpg", jpeg[:2] + loop + jpeg[2:], "decoded")
    huge = b"\xff\xe1" + struct.pack(">H", 65_535) + exif + bytes(65_533 - len(exif))
    yield Sample("jpeg/huge EXIF.jpg", jpeg[:2] + huge * 20 + jpeg[2:], "decoded")
    yield Sample("jpeg/no picture.jpg", jpeg[: jpeg.index(b"\xff\xda")] + b"\xff\xd9", "refused")
    yield Sample("jpeg/followed by text.jpg", jpeg + b"and more", "decoded")
    yield Sample("jpeg/scan bomb.jpg", scan_bomb(1400, 2000), "refused")
    video = b"\0\0\0\x18ftypmp42" + b"\xff\xda" * 200
    yield Sample("jpeg/followed by a video.jpg", jpeg + video, "decoded")
    yield Sample("jpeg/called a PNG.png", jpeg, "decoded")


def _not_images() -> Iterator[Sample]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.png", encoded(picture("RGB"), "PNG"))
    for name, content in {
        "empty.png": b"",
        "one byte.png": b"\x89",
        "text.jpg": b"This is not an image.\n" * 50,
        "page.jpg": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "drawing.png": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "archive.png": archive.getvalue(),
        "document.jpg": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
        "zeros.tif": bytes(4096),
        "other format.png": encoded(picture("RGB"), "TGA"),
        "icon.png": encoded(picture("RGB"), "ICO"),
    }.items():
        yield Sample(f"other/{name}", content, "refused")
    for kind, magic in {
        "png": b"\x89PNG\r\n\x1a\n",
        "jpeg": b"\xff\xd8\xff\xe0",
        "tiff": b"II*\0",
        "bmp": b"BM",
        "gif": b"GIF89a",
        "webp": b"RIFF\x10\0\0\0WEBP",
        "ppm": b"P6 ",
    }.items():
        yield Sample(f"{kind}/magic only.{kind}", magic, "refused")
        yield Sample(f"{kind}/magic and noise.{kind}", magic + _noise(500), "refused")
        wrong = encoded(picture("RGB"), kind)[len(magic) :]
        yield Sample(f"{kind}/wrong magic.{kind}", b"\1" * len(magic) + wrong, "refused")


def _noise(n: int) -> bytes:
    return random.Random(n).randbytes(n)


def _hostile_pngs() -> Iterator[Sample]:
    rows = [row.tobytes() for row in RGB]
    good = png((16, 12), 8, 2, rows)
    for kind in (b"IHDR", b"IDAT"):
        at = good.index(kind) + (4 if kind == b"IHDR" else 20)
        bad = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        yield Sample(f"png/bad checksum of {kind.decode()}.png", bad, "refused")
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26), 9))
    yield Sample("png/text bomb.png", png((16, 12), 8, 2, rows, more=text), "refused")
    profile = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**26), 9))
    yield Sample("png/profile bomb.png", png((16, 12), 8, 2, rows, more=profile), "either")
    exif = chunk(b"eXIf", tiff([(ORIENTATION_TAG, 3, 1, 1)]) + bytes(2**23))
    yield Sample("png/huge EXIF.png", png((16, 12), 8, 2, rows, more=exif), "decoded")
    # Its checksums hold, so it is decoded as Pillow does: the last row is black.
    yield Sample("png/too few rows.png", png((16, 13), 8, 2, rows), "decoded")
    stream = bytearray(zlib.compress(b"".join(b"\0" + row for row in rows)))
    stream[len(stream) // 2] ^= 0xFF
    bad = good[:33] + chunk(b"IDAT", bytes(stream)) + chunk(b"IEND", b"")
    yield Sample("png/bad stream.png", bad, "refused")
    yield Sample("png/no rows.png", png((16, 12), 8, 2, []), "refused")
    yield Sample("png/no palette.png", png((16, 12), 8, 3, [row[:16] for row in rows]), "either")


def _hostile_tiffs() -> Iterator[Sample]:
    pixels = bytes(range(0, 256, 16))
    fine = _grey_tiff()
    yield Sample("tiff/by hand.tif", tiff(fine, data=pixels), "decoded")
    yield Sample("tiff/next is itself.tif", tiff(fine, following=8, data=pixels), "decoded")
    beyond = tiff(fine, following=2**31, data=pixels)
    yield Sample("tiff/next is beyond.tif", beyond, "decoded")
    child = [*fine, (330, 4, 1, 8)]
    moved = [(t, k, n, v + 12 if t == 273 else v) for t, k, n, v in child]
    yield Sample("tiff/child is itself.tif", tiff(moved, data=pixels), "decoded")
    yield Sample("tiff/directory beyond.tif", b"II*\0" + struct.pack("<I", 2**31), "refused")
    yield Sample("tiff/directory at 0.tif", b"II*\0" + bytes(12), "refused")
    short = tiff(_grey_tiff(strip=2**31), data=pixels[:5])
    yield Sample("tiff/strip beyond.tif", short, "refused")
    many = tiff([(256, 4, 2**31 - 1, 8), *fine[1:]], data=pixels)
    yield Sample("tiff/many values.tif", many, "refused")


def _oversized() -> Iterator[Sample]:
    """Yield small files whose headers promise more than two million pixels."""
    yield Sample("png/bomb.png", bomb(), "refused")
    yield Sample("png/60000 x 60000.png", png((60_000, 60_000), 8, 2, [b""]), "refused")
    yield Sample("png/largest.png", png((2**31 - 1, 2**31 - 1), 8, 2, [b""]), "refused")
    yield Sample("png/nothing.png", png((0, 0), 8, 2, [b""]), "refused")
    yield Sample("tiff/huge.tif", tiff(_grey_tiff(2**31 - 1, 2**31 - 1)), "refused")
    yield Sample("gif/huge.gif", _resized("GIF", 6, "<HH", 65_535, 65_535), "refused")
    yield Sample("bmp/huge.bmp", _resized("BMP", 18, "<ii", 2**31 - 1, 2**31 - 1), "refused")
    yield Sample("bmp/negative.bmp", _resized("BMP", 18, "<ii", -16, -12), "either")
    yield Sample("ppm/huge.ppm", b"P6 99999999 99999999 255\n", "refused")
    yield Sample("ppm/digits.ppm", b"P6 " + b"9" * 10_000 + b" 1 255\n", "refused")
    jpeg = encoded(picture("RGB"), "JPEG")
    frame = jpeg.index(b"\xff\xc0") + 5
    for size in ((65_500, 65_500), (0, 0)):
        content = jpeg[:frame] + struct.pack(">HH", *size) + jpeg[frame + 4 :]
        yield Sample(f"jpeg/{size[0]} x {size[1]} only.jpg", content, "refused")


def _resized(kind: str, offset: int, layout: str, width: int, height: int) -> bytes:
    content = bytearray(encoded(picture("RGB"), kind))
    struct.pack_into(layout, content, offset, width, height)
    return bytes(content)


# -- damage --------------------------------------------------------------------------------------


def cut(sample: Sample, percent: int) -> Sample:
    """Cut a file off at a per cent of its length."""
    content = sample.content[: len(sample.content) * percent // N_CUTS]
    return Sample(f"{sample.name} cut at {percent} %", content, "either")


def flipped(sample: Sample, seed: int) -> Sample:
    """Replace 1, 5 or 50 bytes at random."""
    rng, content = random.Random(seed), bytearray(sample.content)
    for _ in range(rng.choice([1, 5, 50])):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return Sample(f"{sample.name} flipped, seed {seed}", bytes(content), "either")
