"""Sources: images and arrays give the same kind of batches."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparsecode import sources
from sparsecode.arrays import open_array
from sparsecode.errors import ImageError, RefusedError
from sparsecode.images import ImageOptions
from sparsecode.inputs import list_images
from sparsecode.sources import ArraySource, ImageSource, open_array_source, read_all


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(7):
        label = tmp_path / "images" / str(i % 2)
        label.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), 10 * i, np.uint8)).save(label / f"{i}.png")
    (tmp_path / "images" / "0" / "2.png").write_bytes(b"broken")
    return tmp_path / "images"


def image_source(folder: Path, on_error: str = "skip") -> ImageSource:
    return ImageSource(list_images([folder]), ImageOptions(4, 4, 1), on_error)


def test_a_broken_image_has_no_row_and_no_neighbour_takes_its_name(folder: Path) -> None:
    (batch,) = image_source(folder).batches()
    assert batch.names == ["0/0.png", "0/4.png", "0/6.png", "1/1.png", "1/3.png", "1/5.png"]
    np.testing.assert_array_equal(batch.X[:, 0], [0, 40, 60, 10, 30, 50])
    assert batch.obs["label"].tolist() == ["0", "0", "0", "1", "1", "1"]
    assert [failure.path for failure in batch.failures] == ["0/2.png"]
    with pytest.raises(ImageError, match=r"0/2\.png"):
        list(image_source(folder, "fail").batches())


def test_batches_and_samples_keep_the_order(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = np.arange(20, dtype=np.float32).reshape(10, 2)
    np.save(tmp_path / "X.npy", X)
    array = ArraySource(open_array(tmp_path / "X.npy"))
    whole = read_all(array)
    monkeypatch.setattr(sources, "_MAX_BATCH_ROWS", 3)
    for source in (array, image_source(folder)):
        batches = list(source.batches())
        assert max(len(batch.names) for batch in batches) <= 3
        sample = source.sample(5, np.random.default_rng(0))
        names = [name for batch in sample.batches() for name in batch.names]
        all_names = [name for batch in batches for name in batch.names]
        assert names == [name for name in all_names if name in names]
        assert sample.n_listed == 5
    np.testing.assert_array_equal(read_all(array), whole)
    np.testing.assert_array_equal(whole, X)


def test_a_source_without_a_readable_row_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"broken")
    with pytest.raises(RefusedError, match="none of the inputs"):
        read_all(image_source(tmp_path))


def test_arrays_come_one_at_a_time(tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", np.zeros((2, 2)))
    assert open_array_source([tmp_path / "images"]) is None
    source = open_array_source([tmp_path / "X.npy"])
    assert source is not None
    assert source.n_listed == 2
    with pytest.raises(RefusedError, match="one array file at a time"):
        open_array_source([tmp_path / "X.npy", tmp_path / "images"])
