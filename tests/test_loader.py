import numpy as np
import pytest
import torch
from scipy import sparse

from sparsecode.loader import HostRows, as_rows, chunks, epoch_index, moments, values_range

CPU = torch.device("cpu")
DATA = np.random.default_rng(0).integers(0, 256, (11, 4)).astype(np.uint8)


def mapped(path, array):
    np.save(path, array)
    return np.load(path, mmap_mode="r")


KINDS = {
    "uint8": lambda path: DATA,
    "float32": lambda path: (DATA / np.float32(255)).astype(np.float32),
    "float64": lambda path: DATA / 255,
    "read-only": lambda path: np.frombuffer(DATA.tobytes(), np.uint8).reshape(11, 4),
    "csr": lambda path: sparse.csr_array(DATA),
    "csr, float": lambda path: sparse.csr_array(DATA / 255),
    "memory map": lambda path: mapped(path / "x.npy", DATA),
    "strided": lambda path: np.repeat(DATA, 2, axis=1)[:, ::2],
}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def rows(request, tmp_path):
    return as_rows(request.param(tmp_path), CPU)


EXPECTED = torch.from_numpy(DATA.astype(np.float32) / np.float32(255))


def test_every_kind_of_matrix_gives_the_same_rows(rows):
    assert (rows.n_rows, rows.n_features) == (11, 4)
    index = torch.tensor([3, 0, 3, 10])
    for got, wanted in [
        (rows.batch(index), EXPECTED[index]),
        (rows.slice(2, 7), EXPECTED[2:7]),
        (torch.cat(list(chunks(rows, 4))), EXPECTED),
        (torch.cat(list(chunks(rows))), EXPECTED),
    ]:
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-7)


def test_rows_are_not_written_to(rows):
    rows.batch(torch.arange(11)).fill_(7.0)
    torch.testing.assert_close(rows.batch(torch.arange(11)), EXPECTED, rtol=0, atol=1e-7)


def test_chunks_have_the_size_asked_for(rows):
    assert [len(chunk) for chunk in chunks(rows, 4)] == [4, 4, 3]


def test_memory_maps_and_csr_stay_on_the_host(tmp_path):
    # Validation hands on a plain view of a memory map: that must not be read whole either.
    memory_map = mapped(tmp_path / "x.npy", DATA)
    for lazy in (memory_map, np.asarray(memory_map), sparse.csr_array(DATA)):
        assert isinstance(as_rows(lazy, CPU), HostRows)
    assert not isinstance(as_rows(DATA, CPU), HostRows)


def test_writeable_arrays_are_not_copied():
    X = np.zeros((3, 2), np.float32)
    rows = as_rows(X, CPU)
    X[1] = 5
    assert rows.slice(1, 2).tolist() == [[5, 5]]


def test_moments_over_some_rows(rows):
    index = torch.tensor([0, 2, 4, 6, 8])
    mean, variance = moments(rows, index)
    torch.testing.assert_close(mean, EXPECTED[index].mean(0))
    torch.testing.assert_close(variance, EXPECTED[index].var(0, correction=0))


def test_moments_join_chunks_and_large_offsets_do_not_cancel(monkeypatch):
    monkeypatch.setattr("sparsecode.loader._CHUNK_VALUES", 12)
    X = 1e6 + np.random.default_rng(1).normal(size=(101, 3))
    mean, variance = moments(as_rows(X, CPU), torch.arange(101))
    single = X.astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(mean, single.mean(0), rtol=1e-7)
    np.testing.assert_allclose(variance, single.var(0), rtol=1e-5)


@pytest.mark.parametrize(
    ("X", "expected"),
    [
        (np.array([[0.0, 1.0], [1.0, 0.0]]), (0, 1, True)),
        (np.array([[0.0, 0.5]]), (0, 0.5, False)),
        (np.array([[0, 255]], dtype=np.uint8), (0, 1, True)),
        (sparse.csr_array(np.array([[0.0, -3.0]])), (-3, 0, False)),
    ],
)
def test_range_of_values(X, expected):
    assert values_range(as_rows(X, CPU)) == expected


def test_an_epoch_visits_rows_once_in_an_order_of_its_own():
    index = torch.arange(100, 110)
    generator = torch.Generator().manual_seed(0)
    first, second = epoch_index(index, 3, generator), epoch_index(index, 3, generator)
    for batches in (first, second):
        assert batches.shape == (3, 3)
        assert len(set(batches.flatten().tolist())) == 9
        assert set(batches.flatten().tolist()) <= set(index.tolist())
    assert not torch.equal(first, second)
    assert torch.equal(epoch_index(index, 3, torch.Generator().manual_seed(0)), first)
