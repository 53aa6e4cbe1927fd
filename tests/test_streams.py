import numpy as np
import pytest
import torch

from sparsecode import coding
from sparsecode.loader import HostRows, as_rows, chunks
from sparsecode.streams import downloaded, uploaded

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_on_a_cpu_parts_are_made_when_they_are_asked_for():
    made = []

    def make():
        for i in range(3):
            made.append(i)
            yield torch.full((2,), float(i))

    parts = downloaded(uploaded(make(), CPU), lambda part, move: move(part), CPU)
    assert made == []
    assert next(parts).tolist() == [0.0, 0.0]
    assert made == [0]
    assert [part[0].item() for part in parts] == [1.0, 2.0]


def test_rows_passed_over_in_order_are_not_copied_on_a_cpu():
    X = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert as_rows(X, CPU, in_order=True).slice(0, 3).numpy().base is not None
    assert not isinstance(as_rows(X, CPU, in_order=True), HostRows)


@pytest.mark.gpu
@needs_gpu
def test_parts_arrive_whole_and_in_order():
    device = torch.device("cuda")
    X = np.random.default_rng(0).integers(0, 256, (50_000, 100), dtype=np.uint8)
    rows = as_rows(X, device, in_order=True)
    assert isinstance(rows, HostRows)
    # Work that a copy would overtake if nothing made it wait.
    weight = torch.eye(100, device=device)
    worked = (x @ weight for x in chunks(rows, 999))
    parts = [part.numpy() for part in downloaded(worked, lambda x, move: move(x), device)]
    np.testing.assert_allclose(np.concatenate(parts), X / np.float32(255), atol=1e-3)


@pytest.mark.gpu
@needs_gpu
def test_a_gpu_encodes_many_chunks_as_one(make, digits, monkeypatch):
    coder = make(device="cuda").fit(digits)
    whole = coder.transform(digits)
    monkeypatch.setattr(coding, "_GPU_VALUES", 1)  # as few rows at once as there may be
    parts = coder.transform(digits)
    assert np.array_equal(whole.indices, parts.indices)
    np.testing.assert_allclose(whole.data, parts.data, rtol=1e-4, atol=1e-5)
