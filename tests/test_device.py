"""Precision of products, and which device is meant."""

import pytest
import torch

from sparsecode import device
from sparsecode.device import matmul_precision, resolve_device


@pytest.fixture(params=[True, False], ids=["casts", "no casts"])
def casts(request, monkeypatch):
    monkeypatch.setattr(device, "_casts_pay", lambda: request.param)
    return request.param


def factors():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(40, 50, generator=generator), torch.rand(50, 30, generator=generator)


def test_products_are_short_in_training_only(casts):
    a, b = factors()
    exact = a.double() @ b.double()
    with matmul_precision(reduced=True):
        assert (a @ b).dtype == (torch.bfloat16 if casts else torch.float32)
        torch.testing.assert_close((a @ b).double(), exact, rtol=1e-2, atol=0)
        with matmul_precision(reduced=False):
            torch.testing.assert_close((a @ b).double(), exact, rtol=1e-5, atol=0)
        assert ((a @ b).dtype == torch.bfloat16) == casts
    assert (a @ b).dtype == torch.float32


def test_a_users_own_setting_is_put_aside_and_comes_back(casts):
    a, b = factors()
    before = torch.get_float32_matmul_precision()
    with torch.autocast("cpu", torch.bfloat16):
        with matmul_precision(reduced=False):
            assert (a @ b).dtype == torch.float32
        assert (a @ b).dtype == torch.bfloat16
    assert torch.get_float32_matmul_precision() == before


BACKENDS = torch.backends
SETTINGS = {
    "all": (BACKENDS, "tf32"),
    "all, exact": (BACKENDS, "ieee"),
    "products": (BACKENDS.cuda.matmul, "tf32"),
    "convolutions": (BACKENDS.cudnn.conv, "ieee"),
    "cuDNN": (BACKENDS.cudnn, "tf32"),
    "CPU": (BACKENDS.mkldnn.matmul, "bf16"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_backends_own_setting_is_put_aside_and_comes_back(name):
    # Once one of these is set, torch refuses to read its older settings.
    owner, value = SETTINGS[name]
    before = owner.fp32_precision
    owner.fp32_precision = value
    try:
        check_that_settings_come_back()
    finally:
        owner.fp32_precision = before


def check_that_settings_come_back():
    places = [*device._BACKENDS, BACKENDS, BACKENDS.cudnn, BACKENDS.cudnn.rnn]
    before = [place.fp32_precision for place in places]
    a, b = factors()
    for reduced in (True, False):
        with matmul_precision(reduced):
            # Compiled modules read it.
            assert torch.get_float32_matmul_precision() == ("medium" if reduced else "highest")
        assert [place.fp32_precision for place in places] == before
    with matmul_precision(reduced=False):
        torch.testing.assert_close((a @ b).double(), a.double() @ b.double(), rtol=1e-5, atol=0)


def test_weights_that_change_are_multiplied_as_they_are(casts):
    layer, x = torch.nn.Linear(50, 1, bias=False), torch.ones(1, 50)
    with matmul_precision(reduced=True):
        for value in (1.0, 2.0):
            with torch.no_grad():
                layer.weight.fill_(value)
            assert layer(x).item() == 50 * value


@pytest.mark.parametrize("name", ["gpu", "mps", "cuda" if not torch.cuda.is_available() else "xpu"])
def test_a_device_that_is_not_there_is_named(name):
    with pytest.raises(ValueError, match=f"device='{name}'"):
        resolve_device(name)


def test_a_gpu_has_one_of_the_numbers_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    assert resolve_device("cuda") == torch.device("cuda")
    assert resolve_device("cpu:3").type == "cpu"
    with pytest.raises(ValueError, match=r"device='cuda:2', but torch sees 2 GPU\(s\)"):
        resolve_device("cuda:2")
