"""Sources: images and arrays give the same kind of batches."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sparsecode import sources
from sparsecode.arrays import ArrayInput, open_array
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
    monkeypatch.setattr(sources, "_BATCH_IMAGES", 3)
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


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> ArrayInput:
    path = tmp_path_factory.mktemp("labelled") / "X.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("X", data=np.arange(200.0).reshape(100, 2), chunks=(7, 1))
        file["obs/label"] = [f"label {i}" for i in range(100)]
    return open_array(path)


@given(rows=st.sets(st.integers(0, 99)), size=st.integers(1, 120))
def test_chosen_rows_keep_their_names_and_labels(
    labelled: ArrayInput, rows: set[int], size: int
) -> None:
    index = np.array(sorted(rows), dtype=np.intp)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "_MAX_BATCH_ROWS", size)
        batches = list(ArraySource(labelled, index).batches())
    values = [int(value) // 2 for batch in batches for value in batch.X[:, 0]]
    assert values == index.tolist()
    assert [name for batch in batches for name in batch.names] == [f"row_{i:07d}" for i in index]
    labels = [label for batch in batches for label in batch.obs["label"]]
    assert labels == [f"label {i}" for i in index]


def test_a_sample_of_a_sample_is_part_of_it(labelled: ArrayInput) -> None:
    rng = np.random.default_rng(0)
    first = ArraySource(labelled).sample(20, rng)
    second = first.sample(5, rng)
    assert second.n_listed == 5
    assert set(read_all(second)[:, 0]) <= set(read_all(first)[:, 0])


def slices_read(source: ArraySource, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Read all batches and tell which slices of the file that took."""
    seen, read = [], ArrayInput.read

    def spy(array: ArrayInput, start: int, stop: int) -> object:
        seen.append((start, stop))
        return read(array, start, stop)

    monkeypatch.setattr(ArrayInput, "read", spy)
    list(source.batches())
    return seen


def test_a_sample_reads_no_more_than_it_needs(
    labelled: ArrayInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_MAX_BATCH_ROWS", 10)
    rows = np.array([3, 4, 30, 95])
    assert slices_read(ArraySource(labelled, rows), monkeypatch) == [(3, 5), (30, 31), (95, 96)]


def test_whole_chunks_are_read_where_they_are_not_huge(
    labelled: ArrayInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ArraySource(labelled)  # of chunks of 7 rows
    for most, n_bytes, size in ((15, 1 << 20, 14), (3, 1 << 20, 7), (3, 5 * 8, 4)):
        monkeypatch.setattr(sources, "_MAX_BATCH_ROWS", most)
        monkeypatch.setattr(sources, "_BATCH_BYTES", n_bytes)
        with monkeypatch.context() as patch:
            seen = slices_read(source, patch)
        assert seen == [(start, min(start + size, 100)) for start in range(0, 100, size)]


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
