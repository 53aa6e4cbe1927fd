import numpy as np
import pytest
from PIL import Image
from scipy import sparse

from sparsecode import SparseCodes
from sparsecode.companions import Originals, model_beside
from sparsecode.errors import NoInputError, RefusedError
from sparsecode.images import ImageOptions


def codes_named(names, config=None):
    matrix = sparse.csr_array(np.ones((len(names), 2), np.float32))
    return SparseCodes(matrix, np.array(names, object), metadata={"config": config or {}})


@pytest.fixture
def folder(tmp_path):
    for i in range(4):
        (tmp_path / "in" / "a").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 5), 10 * i, np.uint8)).save(tmp_path / "in" / "a" / f"{i}.png")
    return tmp_path / "in"


def test_images_are_found_by_name_in_any_order(folder):
    originals = Originals([folder], codes_named(["a/3.png", "a/1.png"]))
    assert originals.picture_shape == (6, 5, 1)
    np.testing.assert_array_equal(originals.rows(np.array([1, 0]))[:, 0], [10, 30])


def test_images_are_read_as_the_model_did(folder):
    images = ImageOptions(height=3, width=3, channels=3).to_dict()
    originals = Originals([folder], codes_named(["a/2.png"], {"images": images}))
    assert originals.picture_shape == (3, 3, 3)
    assert originals.rows(np.array([0])).shape == (1, 27)


def test_rows_of_arrays(tmp_path, monkeypatch):
    monkeypatch.setattr("sparsecode.companions._BLOCK", 3)
    X = np.random.default_rng(0).random((10, 4, 5)).astype(np.float32)
    np.save(tmp_path / "X.npy", X)
    names = [f"row_{i:07d}" for i in (7, 2, 9)]
    originals = Originals([tmp_path / "X.npy"], codes_named(names))
    assert originals.picture_shape == (4, 5, 1)
    got = originals.rows(np.array([2, 0, 1, 0]))
    np.testing.assert_array_equal(got, X.reshape(10, 20)[[9, 7, 2, 7]])
    assert originals.rows(np.array([], dtype=np.int64)).shape == (0, 20)


@pytest.mark.parametrize(("width", "shape"), [(49, (7, 7, 1)), (50, None), (1, None)])
def test_flat_rows_of_square_size_are_pictures(tmp_path, width, shape):
    np.save(tmp_path / "X.npy", np.zeros((2, width)))
    assert Originals([tmp_path / "X.npy"], codes_named(["row_0000000"])).picture_shape == shape


def test_other_inputs_are_refused(folder, tmp_path):
    with pytest.raises(RefusedError, match=r"lack 1 of 2 rows.*'b\.png'"):
        Originals([folder], codes_named(["a/1.png", "b.png"]))
    with pytest.raises(NoInputError):
        Originals([tmp_path / "none"], codes_named(["a"]))
    np.save(tmp_path / "X.npy", np.zeros((2, 4)))
    with pytest.raises(RefusedError, match="not both"):
        Originals([tmp_path / "X.npy", folder], codes_named(["row_0000000"]))


def test_the_model_beside_is_found_by_name_alone(tmp_path):
    codes = codes_named(["a"], {"model": "../../m.safetensors"})
    assert model_beside(tmp_path / "out.h5", codes.metadata["config"]) is None
    (tmp_path / "m.safetensors").write_bytes(b"")
    assert model_beside(tmp_path / "out.h5", codes.metadata["config"]) == tmp_path / "m.safetensors"
    assert model_beside(tmp_path / "out.h5", {}) is None
