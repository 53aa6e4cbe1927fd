import base64
import io

import numpy as np
from PIL import Image

from sparsecode.report.pictures import PictureStyle, sheet, tile


def picture(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))))


def test_grey_pixels_survive():
    rows = np.random.default_rng(0).integers(0, 256, (6, 20), dtype=np.uint8)
    style = PictureStyle.of(rows, (4, 5, 1))
    images = style.images(rows)
    np.testing.assert_array_equal(images, rows.reshape(6, 4, 5))
    np.testing.assert_array_equal(picture(tile(images[0])), images[0])
    joined = picture(sheet(images.reshape(3, 2, 4, 5)))
    np.testing.assert_array_equal(joined[4:8, 5:10], images[3])


def test_floats_are_scaled_to_the_range_that_they_have():
    unit = np.array([[0.0, 0.5, 1.0, 0.2]])
    assert PictureStyle.of(unit, (2, 2, 1)) == PictureStyle((2, 2, 1), 0.0, 1.0)
    style = PictureStyle.of(np.linspace(-3, 5, 4000).reshape(1000, 4), (2, 2, 1))
    assert -3 < style.low < -2.9
    assert style.images(np.array([[-9.0, 9.0, 1.0, 1.0]])).ravel()[:2].tolist() == [0, 255]
    constant = PictureStyle.of(np.full((2, 4), 7.0), (2, 2, 1))
    assert constant.high > constant.low


def test_changes_keep_their_sign_and_zero_stays_white():
    style = PictureStyle((1, 3, 1), 0.0, 1.0)
    rgb = np.asarray(Image.fromarray(style.changes(np.array([[-2.0, 0.0, 1.0]]))[0]))
    assert rgb.tolist() == [[1, 128, 192]]
    red, white = (
        Image.open(
            io.BytesIO(base64.b64decode(tile(np.full((1, 1), value, np.uint8), True).split(",")[1]))
        )
        .convert("RGB")
        .getpixel((0, 0))
        for value in (255, 128)
    )
    assert red[0] > red[2] + 100
    assert min(white) > 240
    assert style.changes(np.zeros((1, 3))).ravel().tolist() == [128] * 3


def test_large_colour_pictures_are_averaged_down():
    rows = np.random.default_rng(0).random((2, 50 * 70 * 3))
    style = PictureStyle((50, 70, 3), 0.0, 1.0)
    assert style.cell == (17, 24)
    images = style.images(rows)
    assert images.shape == (2, 17, 24, 3)
    expected = rows[0].reshape(50, 70, 3)[:3, :3].mean((0, 1)) * 255
    np.testing.assert_allclose(images[0, 0, 0], expected, atol=1)
    assert tile(images[0]).startswith("data:image/")
