import os
import random
import socket
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from image_corpus import (
    COLUMNS,
    ENCODINGS,
    GREY,
    N_CUTS,
    ODD_NAMES,
    RGB,
    ROWS,
    Sample,
    bomb,
    cut,
    encoded,
    flipped,
    picture,
    png,
    scan_bomb,
)
from PIL import Image

from sparsecode import images
from sparsecode.errors import ImageError, NoInputError
from sparsecode.images import FORMATS, ImageOptions, read_image, survey
from sparsecode.inputs import IMAGE_EXTENSIONS

SAME_SIZE = ImageOptions(12, 16, 3)
SAME_SIZE_GREY = ImageOptions(12, 16, 1)
needs_benchmarks = pytest.mark.skipif(
    not (Path(__file__).parents[1] / "benchmarks" / "reliability").exists(),
    reason="the benchmarks are not beside the tests",
)


@pytest.fixture
def save(tmp_path):
    """Save an image (or pixels) in a format and return the path."""

    def save(image, kind="PNG", name="image", **options):
        image = image if isinstance(image, Image.Image) else Image.fromarray(image)
        path = tmp_path / name
        image.save(path, kind, **options)
        return path

    return save


def outcome_of(path):
    """The pixels, or the reason."""
    try:
        return read_image(path, SAME_SIZE).pixels
    except ImageError as error:
        reason = str(error)
        assert reason
        assert reason.isprintable()
        return reason


def test_extensions_are_those_of_the_formats():
    registered = Image.registered_extensions()
    # .pfm holds floats only, which are refused.
    expected = {extension for extension, kind in registered.items() if kind in FORMATS} - {".pfm"}
    assert expected == IMAGE_EXTENSIONS


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM", "WEBP"])
def test_lossless_formats_keep_every_value(save, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded = read_image(save(RGB, kind, **options), SAME_SIZE)
    assert (decoded.width, decoded.height) == (16, 12)
    assert decoded.pixels.dtype == np.uint8
    np.testing.assert_array_equal(decoded.pixels, RGB)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM", "GIF"])
def test_grey_keeps_every_value_in_both_modes(save, kind):
    path = save(GREY, kind)
    np.testing.assert_array_equal(read_image(path, SAME_SIZE_GREY).pixels, GREY[..., None])
    np.testing.assert_array_equal(
        read_image(path, SAME_SIZE).pixels, np.repeat(GREY[..., None], 3, axis=2)
    )


def test_jpeg_is_close(save):
    smooth = np.stack([COLUMNS * 16, ROWS * 20, COLUMNS * 4 + ROWS * 8], axis=-1).astype(np.uint8)
    pixels = read_image(save(smooth, "JPEG", quality=95, subsampling=0), SAME_SIZE).pixels
    assert np.abs(pixels.astype(int) - smooth).max() < 16


def test_bits_become_black_and_white(save):
    pixels = read_image(save(Image.fromarray(GREY > 100)), SAME_SIZE_GREY).pixels
    np.testing.assert_array_equal(pixels[..., 0], np.where(GREY > 100, 255, 0))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_are_scaled_and_rounded(save, kind):
    values = np.linspace(0, 65535, 12 * 16).round().astype(np.uint16).reshape(12, 16)
    pixels = read_image(save(values, kind), SAME_SIZE_GREY).pixels
    np.testing.assert_array_equal(pixels[..., 0], np.floor(values / 257 + 0.5))


def test_16_bit_colour_keeps_the_high_byte(tmp_path):
    (tmp_path / "x.png").write_bytes(png((1, 1), 16, 2, [b"\x10\x01\x80\x02\xff\xff"]))
    pixels = read_image(tmp_path / "x.png", ImageOptions(1, 1, 3)).pixels
    assert pixels.ravel().tolist() == [16, 128, 255]


@pytest.mark.parametrize(
    ("depth", "colour", "row", "transparent"),
    [
        (1, 0, b"\x00", b"\0\0"),
        (2, 0, b"\x40", b"\0\1"),
        (4, 0, b"\x30", b"\0\3"),
        (8, 0, b"\x30", b"\0\x30"),
        (16, 0, b"\x30\x31", b"\x30\x31"),
        (8, 2, b"\1\2\3", b"\0\1\0\2\0\3"),
        (16, 2, b"\x30\x31" * 3, b"\x30\x31" * 3),
        (8, 4, b"\x30\0", None),
        (16, 4, b"\x30\x31\0\0", None),
        (8, 6, b"\1\2\3\0", None),
    ],
)
def test_transparent_pixels_show_the_background(tmp_path, depth, colour, row, transparent):
    (tmp_path / "x.png").write_bytes(png((1, 1), depth, colour, [row], transparent))
    for background in (255, 17):
        options = ImageOptions(1, 1, 1, background=background)
        assert read_image(tmp_path / "x.png", options).pixels.item() == background


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_laid_over_the_background(save, kind):
    alpha = (COLUMNS * 17).astype(np.uint8)
    image = np.concatenate([RGB, alpha[..., None]], axis=-1)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    pixels = read_image(save(image, kind, **options), SAME_SIZE).pixels
    weight = alpha[..., None] / 255
    np.testing.assert_allclose(pixels, RGB * weight + 255 * (1 - weight), atol=1)


@pytest.mark.parametrize("mode", ["LA", "PA"])
def test_grey_and_palette_with_alpha(save, mode):
    image = Image.fromarray(GREY).convert(mode[0])
    image.putalpha(128)
    assert image.mode == mode
    weight = 128 / 255
    pixels = read_image(save(image, "TIFF"), SAME_SIZE_GREY).pixels[..., 0]
    np.testing.assert_allclose(pixels, GREY * weight + 255 * (1 - weight), atol=1)


@pytest.mark.parametrize(("kind", "transparency"), [("PNG", bytes([0, 128, 255])), ("GIF", 0)])
def test_palette_with_transparency(save, kind, transparency):
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    pixels = read_image(save(image, kind, transparency=transparency), ImageOptions(1, 3, 3)).pixels
    middle = [127, 255, 127] if kind == "PNG" else [0, 255, 0]
    np.testing.assert_allclose(pixels[0], [[255, 255, 255], middle, [0, 0, 255]], atol=1)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_converted(save, kind):
    image = Image.new("CMYK", (16, 12), (0, 255, 255, 0))
    pixels = read_image(save(image, kind), SAME_SIZE).pixels
    np.testing.assert_allclose(pixels, np.broadcast_to([255, 0, 0], pixels.shape), atol=3)


@pytest.mark.parametrize("values", [GREY.astype(np.float32), GREY.astype(np.int32)])
def test_float_and_32_bit_tiff_fail(save, values):
    path = save(values, "TIFF")
    with pytest.raises(ImageError, match="no fixed white; convert it to 8 or 16 bits"):
        read_image(path, SAME_SIZE)
    with pytest.raises(NoInputError, match="no fixed white"):
        survey([path])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation(save, kind, orientation):
    upright = np.zeros((16, 24), dtype=np.uint8)
    upright[:8, :8], upright[8:, 16:] = 255, 128
    # How a camera stores it: the inverse of what its orientation asks for.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100}, "WEBP": {"lossless": True}}.get(kind, {})
    path = save(np.ascontiguousarray(stored), kind, exif=exif, **options)
    decoded = read_image(path, ImageOptions(16, 24, 1))
    assert (decoded.width, decoded.height) == (24, 16)
    np.testing.assert_allclose(decoded.pixels[..., 0], upright, atol=3)
    assert survey([path]).sizes == {(16, 24): 1}
    height, width = stored.shape
    ignored = read_image(path, ImageOptions(height, width, 1, exif=False))
    assert (ignored.width, ignored.height) == (width, height)
    np.testing.assert_allclose(ignored.pixels[..., 0], stored, atol=3)
    assert survey([path], exif=False).sizes == {(height, width): 1}


def test_broken_exif_counts_as_none(save):
    path = save(RGB, "PNG", exif=b"Exif\0\0garbage, not a TIFF header")
    np.testing.assert_array_equal(read_image(path, SAME_SIZE).pixels, RGB)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(save, kind):
    frames = [Image.new("RGB", (16, 12), colour) for colour in ("red", "lime", "blue")]
    path = save(frames[0], kind, save_all=True, append_images=frames[1:])
    pixels = read_image(path, SAME_SIZE).pixels
    np.testing.assert_allclose(pixels, np.broadcast_to([255, 0, 0], pixels.shape), atol=4)


def test_resizing_averages_over_what_a_pixel_covers(save):
    # Stripes of one pixel: without antialiasing they come out black, white or wavy.
    stripes = np.where(np.indices((90, 90))[1] % 2, 255, 0).astype(np.uint8)
    pixels = read_image(save(stripes), ImageOptions(9, 9, 1)).pixels
    np.testing.assert_allclose(pixels, 127.5, atol=6)


@pytest.mark.parametrize("orientation", [1, 6])
def test_large_jpegs_decode_small_without_a_shift(save, orientation):
    # 1003 columns: not a multiple of the 8 by which the decoder shrinks.
    ramp = np.tile(np.linspace(0, 255, 1003), (700, 1)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(ramp, "JPEG", quality=95, exif=exif)
    decoded = read_image(path, ImageOptions(20, 20, 1))
    line = decoded.pixels[10, :, 0] if orientation == 1 else decoded.pixels[:, 10, 0]
    np.testing.assert_allclose(line, (np.arange(20) + 0.5) * 255 / 20, atol=1.5)
    expected = (1003, 700) if orientation == 1 else (700, 1003)
    assert (decoded.width, decoded.height) == expected


@pytest.mark.parametrize(("kind", "options"), ENCODINGS)
def test_no_truncated_file_gives_wrong_pixels(save, kind, options):
    path = save(RGB, kind, **options)
    whole, pixels = Sample("", path.read_bytes(), "decoded"), read_image(path, SAME_SIZE).pixels
    for percent in range(N_CUTS):
        content = cut(whole, percent).content
        path.write_bytes(content)
        outcome = outcome_of(path)
        if not isinstance(outcome, str):
            np.testing.assert_array_equal(outcome, pixels)
            # Only (part of) the mark behind the last pixel may be missing unnoticed.
            assert len(whole.content) - len(content) <= 4


@pytest.mark.parametrize(("kind", "options"), ENCODINGS)
def test_damage_never_escapes_as_another_error(save, kind, options):
    path = save(RGB, kind, **options)
    whole = Sample("", path.read_bytes(), "decoded")
    for seed in range(60):
        path.write_bytes(flipped(whole, seed).content)
        outcome = outcome_of(path)
        assert isinstance(outcome, str) or outcome.shape == (12, 16, 3)


def test_no_flipped_bit_of_a_png_gives_wrong_pixels(save):
    path = save(RGB)
    whole, rng = path.read_bytes(), random.Random(0)
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        outcome = outcome_of(path)
        assert isinstance(outcome, str) or np.array_equal(outcome, RGB)


def test_reasons(tmp_path, save):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    # A format that Pillow reads but that is not on the list.
    save(RGB, "TGA", name="listed.png")
    for name, reason in {
        "empty.png": "the file is empty",
        "text.png": "it is not an image in a known format (PNG, JPEG",
        "listed.png": "it is not an image in a known format",
        "folder.png": "it is not a regular file",
        "loop.png": "Too many levels of symbolic links",
        "missing.png": "No such file or directory",
        "nul\0.png": "embedded null",
    }.items():
        with pytest.raises(ImageError) as caught:
            read_image(str(tmp_path / name), SAME_SIZE)
        assert reason in str(caught.value)
        assert str(tmp_path) not in str(caught.value)


@pytest.mark.timeout(20)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs here")
def test_what_is_not_a_file_does_not_hang(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's address may not be longer than some 100 bytes
    os.mkfifo("x.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        for path in ("x.jpg", "socket", "/dev/zero", "."):
            with pytest.raises(ImageError, match="not a regular file"):
                read_image(path, SAME_SIZE)


def test_files_of_too_many_bytes_are_refused_unread(tmp_path):
    path = tmp_path / "x.bmp"
    path.write_bytes(encoded(Image.fromarray(RGB), "BMP"))
    os.truncate(path, images.MAX_BYTES + 1)  # takes no room on the disk
    with pytest.raises(ImageError, match=r"has 536870913 bytes; 536870912 are allowed; shrink"):
        read_image(path, SAME_SIZE)
    with pytest.raises(NoInputError, match="536870912 are allowed"):
        survey([path])


def grow(path):
    with path.open("ab") as file:
        file.write(b"more")


def overwrite(path):
    with path.open("r+b") as file:
        file.write(path.read_bytes())
    os.utime(path, ns=(0, 0))


@pytest.mark.parametrize("change", [lambda path: os.truncate(path, 50), grow, overwrite])
@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM"])
def test_a_file_that_changes_meanwhile_gives_no_row(save, monkeypatch, kind, change):
    path = save(RGB, kind)
    at_each_look(monkeypatch, {2: lambda: change(path)})
    with pytest.raises(ImageError, match="changed while it was read"):
        read_image(path, SAME_SIZE)


def test_a_file_that_is_replaced_or_removed_meanwhile_is_the_one_that_was_opened(save, monkeypatch):
    path, other = save(RGB), save(255 - RGB, name="other")
    at_each_look(monkeypatch, {1: lambda: other.replace(path), 2: path.unlink})
    np.testing.assert_array_equal(read_image(path, SAME_SIZE).pixels, RGB)
    with pytest.raises(ImageError, match="No such file"):
        read_image(path, SAME_SIZE)


def at_each_look(monkeypatch, changes):
    """Make changes right after the n-th time that a file's size is asked for."""
    real, looks = os.fstat, []

    def fstat(descriptor):
        status = real(descriptor)
        looks.append(descriptor)
        changes.get(len(looks), lambda: None)()
        return status

    monkeypatch.setattr(images.os, "fstat", fstat)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are not listed here")
def test_no_file_stays_open(save, tmp_path):
    (tmp_path / "text").write_text("text")
    paths = [save(RGB), tmp_path / "text", tmp_path, tmp_path / "missing"]
    before = sorted(Path("/proc/self/fd").iterdir())
    for path in paths:
        outcome_of(path)
        survey([paths[0], path])
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_bombs_are_refused_before_decoding(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb())
    assert path.stat().st_size < 20_000
    with pytest.raises(ImageError, match=r"9000 x 9000 pixels; 1000000 are allowed"):
        read_image(path, ImageOptions(4, 4, 1, max_pixels=1_000_000))
    path.write_bytes(png((60_000, 60_000), 8, 2, [b""]))
    with pytest.raises(ImageError, match="pixels"):
        read_image(path, SAME_SIZE)


def test_a_broken_stream_under_good_checksums_is_refused(tmp_path):
    # Pillow decodes a PNG to look for EXIF behind its pixels; that must not hide the failure.
    stream = bytearray(zlib.compress(b"".join(b"\0" + row.tobytes() for row in RGB)))
    whole = png((16, 12), 8, 2, [row.tobytes() for row in RGB])
    stream[len(stream) // 2] ^= 0xFF
    checksum = struct.pack(">I", zlib.crc32(b"IDAT" + stream))
    data = struct.pack(">I", len(stream)) + b"IDAT" + stream + checksum
    (tmp_path / "x.png").write_bytes(whole[:33] + data + whole[-12:])
    with pytest.raises(ImageError, match="broken data stream"):
        read_image(tmp_path / "x.png", SAME_SIZE)


@pytest.mark.timeout(30)
def test_a_jpeg_of_endless_scans_is_refused(tmp_path):
    (tmp_path / "x.jpg").write_bytes(scan_bomb(4000, 20_000))
    with pytest.raises(ImageError, match="more than 100 scans"):
        read_image(tmp_path / "x.jpg", SAME_SIZE)


def test_lab_is_made_grey_too(save):
    path = save(picture("RGB").convert("LAB"), "TIFF")
    colour = Image.fromarray(read_image(path, SAME_SIZE).pixels)
    pixels = read_image(path, SAME_SIZE_GREY).pixels[..., 0]
    np.testing.assert_array_equal(pixels, np.asarray(colour.convert("L")))


@needs_benchmarks
def test_no_wrong_row_no_crash_no_hang():
    """All kinds of files, whole, hostile and some damaged: no wrong row, no crash, no hang."""
    from benchmarks.reliability.corrupt import MAX_PIXELS, damaged, undamaged
    from benchmarks.reliability.decoding import check

    for cases, least in ((undamaged(), 200), (damaged(400), 400)):
        tally = check(cases, max_pixels=MAX_PIXELS)
        assert tally.failures == []
        assert set(tally.outcomes) == {"decoded", "refused"}
        assert tally.outcomes.total() >= least


@needs_benchmarks
def test_pillows_own_test_images(request):
    """Needs the network, once: the source distribution is kept in pytest's cache."""
    from benchmarks.reliability import pillow_source
    from benchmarks.reliability.corrupt import MAX_PIXELS
    from benchmarks.reliability.decoding import check

    try:
        folder = request.config.cache.mkdir("pillow-source")
        archive = pillow_source.fetch(folder, seconds=20)
    except pillow_source.UnavailableError as error:
        pytest.skip(f"Pillow's source distribution cannot be downloaded: {error}")
    tally = check(pillow_source.cases(archive, largest=40_000), max_pixels=MAX_PIXELS)
    assert tally.failures == []
    assert tally.outcomes.total() > 500


def test_warnings_stay_inside_even_with_threads(save):
    image = Image.new("P", (16, 12))
    path = save(image, transparency=bytes(range(200)), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    failures = []

    def read():
        try:
            for _ in range(50):
                read_image(path, SAME_SIZE)
        except BaseException as error:
            failures.append(error)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert warnings.filters == before
    assert failures == []


def test_options_round_trip():
    options = ImageOptions(28, 30, 1, exif=False, max_pixels=10, background=0)
    assert ImageOptions.from_dict(options.to_dict()) == options
    assert options.n_features == 840
    assert ImageOptions(2, 3, 3).n_features == 18


@pytest.mark.parametrize(
    "change",
    [
        {"height": 0},
        {"height": "28"},
        {"width": 2.0},
        {"width": True},
        {"channels": 2},
        {"channels": 4},
        {"exif": 1},
        {"max_pixels": 0},
        {"background": 256},
        {"background": -1},
        {"unknown": 1},
    ],
)
def test_unfit_options_are_refused(change):
    options = ImageOptions(28, 28, 1).to_dict()
    with pytest.raises(ValueError, match=next(iter(change))):
        ImageOptions.from_dict(options | change)


def test_missing_options_are_refused():
    options = ImageOptions(28, 28, 1).to_dict()
    del options["exif"]
    with pytest.raises(ValueError, match="exactly the keys"):
        ImageOptions.from_dict(options)


def test_survey_takes_the_commonest_size(save, tmp_path):
    big, small = Image.new("L", (40, 30)), Image.new("L", (28, 28))
    paths = [save(image, name=str(i)) for i, image in enumerate([big, small, small, big, small])]
    (tmp_path / "broken").write_bytes(b"x")
    found = survey([*paths, tmp_path / "broken"])
    assert found.options == ImageOptions(28, 28, 1)
    assert found.sizes == {(28, 28): 3, (30, 40): 2}
    assert (found.n_resized, found.n_unreadable) == (2, 1)
    assert survey(paths[:4]).options == ImageOptions(30, 40, 1)  # a tie: the first seen


@pytest.mark.parametrize(
    ("size", "expected"), [((640, 480), (48, 64)), ((64, 64), (64, 64)), ((9000, 5), (1, 64))]
)
def test_survey_shrinks_large_images_in_proportion(save, size, expected):
    path = save(Image.new("RGB", size))
    options = survey([path]).options
    assert (options.height, options.width, options.channels) == (*expected, 3)
    assert survey([path], size=(100, 200)).options == ImageOptions(100, 200, 3)


def test_survey_reads_grey_only_as_grey(save):
    grey = [
        save(GREY, name="L"),
        save(GREY > 9, name="1"),
        save(GREY.astype(np.uint16), name="I;16"),
        save(Image.fromarray(GREY).convert("LA"), name="LA"),
    ]
    assert survey(grey).options.channels == 1
    assert survey([*grey, save(RGB, name="RGB")]).options.channels == 3
    assert survey(grey, channels=3).options.channels == 3
    options = survey(grey, exif=False, max_pixels=1000, background=0).options
    assert options == ImageOptions(12, 16, 1, exif=False, max_pixels=1000, background=0)


def test_survey_of_nothing_readable_gives_reasons(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path in paths:
        path.touch()
    with pytest.raises(NoInputError) as caught:
        survey(paths)
    assert "none of 5 files can be read" in str(caught.value)
    assert str(caught.value).count("the file is empty") == 3


def test_survey_neither_reads_nor_decodes_a_whole_file(save, monkeypatch):
    path = save(RGB, "JPEG")
    path.write_bytes(path.read_bytes()[:-40])
    monkeypatch.setattr(images, "_content", pytest.fail)
    assert survey([path]).n_unreadable == 0
    monkeypatch.undo()
    with pytest.raises(ImageError):
        read_image(path, SAME_SIZE)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_paths_with_odd_names(tmp_path, name):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
    Path(path).write_bytes(encoded(Image.fromarray(RGB), "PNG"))
    np.testing.assert_array_equal(read_image(path, SAME_SIZE).pixels, RGB)
