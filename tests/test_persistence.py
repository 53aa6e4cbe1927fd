import hashlib
import json
import os
import pickle
import struct
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save
from scipy import sparse
from torch import nn

from sparsecode import SparseVAETransformer
from sparsecode.errors import ModelFormatError, OutputError
from sparsecode.persistence import FORMAT, describe_model, read_config, verify_model

load = SparseVAETransformer.load


def dense(codes):
    return codes.toarray() if sparse.issparse(codes) else codes


@pytest.fixture
def path(gated, tmp_path):
    gated.save(tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


# -- there and back ----------------------------------------------------------------------------


def test_codes_of_a_loaded_model_are_bit_equal(fitted, digits, tmp_path):
    path = tmp_path / "model.safetensors"
    before = torch.random.get_rng_state()
    fitted.save(path)
    other = load(path, device="cpu")
    assert torch.equal(torch.random.get_rng_state(), before)
    X = digits[:60]
    codes = fitted.transform(X)
    assert np.array_equal(dense(codes), dense(other.transform(X)))
    assert np.array_equal(fitted.inverse_transform(codes), other.inverse_transform(codes))
    assert np.array_equal(fitted.score_samples(X[:9]), other.score_samples(X[:9]))
    assert np.array_equal(fitted.sample(3, random_state=0), other.sample(3, random_state=0))
    for name in ("n_features_in_", "n_iter_", "history_", "likelihood_", "threshold_", "density_"):
        assert getattr(other, name) == getattr(fitted, name), name
    stored = {"random_state": None, "verbose": 0, "device": "cpu"}
    for name, value in fitted.get_params().items():
        loaded = other.get_params()[name]
        wanted = stored.get(name, value)
        assert loaded == (list(wanted) if isinstance(wanted, tuple) else wanted), name
    assert verify_model(path) == []


def test_a_loaded_model_saves_the_same_bytes(path, tmp_path):
    load(path).save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_a_loaded_model_trains_on(path, gated, digits):
    other = load(path)
    other.partial_fit(digits[:200])
    other.set_params(warm_start=True, random_state=0).fit(digits[:300])
    assert other.n_iter_ == 2
    assert not np.array_equal(
        dense(other.transform(digits[:9])), dense(gated.transform(digits[:9]))
    )


def test_a_loaded_model_does_not_lean_on_its_file(path, gated, digits):
    other = load(path)
    path.write_bytes(b"")
    codes = gated.transform(digits[:9])
    assert (other.transform(digits[:9]) != codes).nnz == 0
    assert len(pickle.dumps(other.model_)) < 1.1 * len(pickle.dumps(gated.model_)) + 1000


def test_names_of_the_columns_come_back(make, digits, tmp_path):
    frame = pd.DataFrame(digits[:120], columns=[f"ž{i}" for i in range(64)])
    coder = make().fit(frame)
    coder.save(tmp_path / "model.safetensors")
    other = load(tmp_path / "model.safetensors")
    assert other.feature_names_in_.tolist() == list(frame)
    with pytest.raises(ValueError, match="feature names should match"):
        other.transform(frame.rename(columns={"ž0": "z"}))


def test_uint8_in_training_comes_back(make, digits, tmp_path):
    images = (digits[:120] * 255).astype(np.uint8)
    make().fit(images).save(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="fit saw uint8"):
        load(tmp_path / "model.safetensors").transform(images.astype(float))


def test_numpy_parameters_are_stored_as_plain_ones(make, digits, tmp_path):
    coder = make(n_components=np.int64(5), p=np.float32(0.5), hidden_sizes=np.array([4, 3]))
    coder.fit(digits[:120]).save(tmp_path / "model.safetensors")
    other = load(tmp_path / "model.safetensors")
    assert (other.n_components, other.p, other.hidden_sizes) == (5, 0.5, [4, 3])


def own_networks(width=20):
    encoder = nn.Sequential(nn.Linear(64, width), nn.BatchNorm1d(width), nn.Linear(width, 32))
    return {"encoder": encoder, "decoder": nn.Linear(16, 64)}


@pytest.fixture
def own_path(make, digits, tmp_path):
    coder = make(**own_networks()).fit(digits[:200])
    coder.save(tmp_path / "own.safetensors")
    coder.expected_ = dense(coder.transform(digits[:30]))
    return tmp_path / "own.safetensors", coder


def test_own_networks_come_back_into_modules_of_the_same_form(own_path, digits):
    path, coder = own_path
    networks = own_networks()
    before = deepcopy(networks["encoder"].state_dict())
    other = load(path, **networks)
    assert np.array_equal(dense(other.transform(digits[:30])), coder.expected_)
    for name, value in networks["encoder"].state_dict().items():
        assert torch.equal(value, before[name])  # copied, not changed


def test_own_networks_must_be_given_and_fit(own_path, path):
    file, _ = own_path
    with pytest.raises(ModelFormatError, match="needs the encoder and decoder"):
        load(file)
    with pytest.raises(ModelFormatError, match=r"tensor encoder.module.* asks for"):
        load(file, **own_networks(width=21))
    with pytest.raises(ModelFormatError, match="was not trained with own networks"):
        load(path, **own_networks())


class Transposed(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, z):
        return z @ self.layer.weight[:16]


def shared_networks():
    layer = nn.Linear(64, 32, bias=False)
    return {"encoder": layer, "decoder": Transposed(layer)}


def test_weights_shared_between_own_networks_come_back_shared(make, digits, tmp_path):
    coder = make(**shared_networks()).fit(digits[:120])
    coder.save(tmp_path / "model.safetensors")
    other = load(tmp_path / "model.safetensors", **shared_networks())
    assert (coder.transform(digits[:30]) != other.transform(digits[:30])).nnz == 0
    assert other.model_.encoder.module.weight is other.model_.decoder.layer.weight


def test_a_file_can_be_described_without_its_weights(path, gated):
    description = describe_model(path)
    assert description["n_latents"] == 16
    assert description["p"] == 0.8
    assert description["last_epoch"]["epoch"] == 2
    assert description["bytes"] == path.stat().st_size
    assert read_config(path)["parameters"]["n_components"] == 16


# -- writing -----------------------------------------------------------------------------------


def test_nothing_is_left_beside_the_file(path, gated):
    gated.save(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["model.safetensors"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    value = os.umask(0)
    os.umask(value)
    return value


def test_a_missing_folder_is_said(gated, tmp_path):
    with pytest.raises(OutputError, match=r"cannot write .*No such file or directory"):
        gated.save(tmp_path / "no" / "model.safetensors")


def test_a_failed_write_leaves_the_old_file(path, make, digits, monkeypatch):
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        make(p=0.5).fit(digits[:120]).save(path)
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == 1


def test_overwriting_replaces_the_file(path, make, digits):
    make(p=0.5).fit(digits[:120]).save(path)
    assert load(path).p == 0.5


def test_a_folder_in_the_place_of_the_file_is_said(gated, tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        gated.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


# -- hostile and damaged files -----------------------------------------------------------------


def weights_hash(tensors):
    """The hash of the format, written down a second time."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def tampered(path, change_config=None, change_tensors=None, rehash=True):
    """Write the file again with its configuration or tensors changed, and its hash put right."""
    config, tensors = read_config(path), load_file(path)
    if change_tensors:
        change_tensors(tensors)
    if rehash:
        config["weights_sha256"] = weights_hash(tensors)
    if change_config:
        change_config(config)
    path.write_bytes(save(tensors, metadata={FORMAT: json.dumps(config)}))


def put(*keys, value):
    def change(config):
        inner = config
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value

    return change


def test_the_hash_is_the_one_that_the_format_says(path, gated, digits):
    tampered(path)
    assert (load(path).transform(digits[:9]) != gated.transform(digits[:9])).nnz == 0


CONFIGURATIONS = {
    "another format": (put("format", value="other"), "is not a sparsecode model"),
    "a later version": (put("format_version", value=2), "format version 2; .* reads version 1"),
    "a missing key": (lambda c: c.pop("density"), r"keys missing or unknown: \['density'\]"),
    "an unknown key": (put("extra", value=1), r"keys missing or unknown: \['extra'\]"),
    "NaN": (put("density", value=float("nan")), "NaN in the configuration"),
    "infinity": (put("parameters", "tol", value=float("inf")), "Infinity in the configuration"),
    "an unknown parameter": (put("parameters", "hack", value=1), "invalid configuration"),
    "a parameter out of range": (put("parameters", "p", value=2), "invalid configuration"),
    "a path as a parameter": (put("parameters", "encoder", value="x"), "invalid configuration"),
    "parameters of another kind": (put("parameters", value=[1]), "invalid configuration"),
    "a spec of another kind": (put("spec", value=[]), "invalid configuration"),
    "an unknown key in spec": (put("spec", "extra", value=1), "spec has missing or unknown"),
    "an unknown posterior": (put("spec", "posterior", value="x"), "posterior='x' is unknown"),
    "an unhashable posterior": (put("spec", "posterior", value=[]), "invalid configuration"),
    "p of one": (put("spec", "spike_weight", value=1), "spike_weight=1 is out of range"),
    "p as text": (put("spec", "spike_weight", value="0.5"), "is out of range"),
    "negative sizes": (put("spec", "n_latents", value=-16), "sizes must be positive integers"),
    "fractional sizes": (put("spec", "encoder_sizes", value=[1.5]), "sizes must be positive"),
    "sizes as text": (put("spec", "encoder_sizes", value="ab"), "invalid configuration"),
    "huge sizes": (put("spec", "n_latents", value=2**31 - 1), "is too large"),
    "huge layers": (put("spec", "encoder_sizes", value=[2**30, 2**30]), "missing or unknown"),
    "other sizes": (
        put("spec", "n_latents", value=17),
        r"\(64, 16\), but .*\(64, 17\)",
    ),
    "a bad image shape": (put("spec", "image_shape", value=[8]), "invalid configuration"),
    "other features": (put("n_features_in", value=63), "n_features_in differs from spec"),
    "history of another kind": (put("history", value=[{"epoch": 1}]), "invalid configuration"),
    "own networks claimed": (put("custom_networks", value=True), "needs the encoder and decoder"),
    "another hash": (put("weights_sha256", value="0" * 64), "do not have the stored hash"),
}


@pytest.mark.parametrize(("change", "message"), CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_a_configuration_that_is_wrong_is_refused(path, change, message):
    tampered(path, change_config=change)
    with pytest.raises(ModelFormatError, match=message):
        load(path)


TENSORS = {
    "missing": (lambda t: t.pop("gate.usage"), "tensors missing or unknown: .*gate.usage"),
    "unknown": (lambda t: t.update(extra=torch.ones(1)), "missing or unknown: .*extra"),
    "NaN": (lambda t: t["decoder.0.weight"].fill_(torch.nan), "values that are not finite"),
    "infinite threshold": (
        lambda t: t["gate.threshold"].fill_(-torch.inf),
        "gate.threshold has values that are not finite",
    ),
    "another shape": (
        lambda t: t.update({"gate.usage": torch.ones(17)}),
        r"gate.usage is torch.float32 \(17,\), but .* asks for torch.float32 \(16,\)",
    ),
    "another type": (
        lambda t: t.update({"gate.usage": torch.ones(16, dtype=torch.float64)}),
        "gate.usage is torch.float64",
    ),
}


@pytest.mark.parametrize(("change", "message"), TENSORS.values(), ids=TENSORS)
def test_tensors_that_are_wrong_are_refused(path, change, message):
    tampered(path, change_tensors=change)
    with pytest.raises(ModelFormatError, match=message):
        load(path)
    assert len(verify_model(path)) == 1


def test_a_changed_weight_is_noticed(path):
    tampered(path, change_tensors=lambda t: t["decoder.0.weight"].add_(1e-3), rehash=False)
    with pytest.raises(ModelFormatError, match="do not have the stored hash"):
        load(path)


def with_header(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


FILES = {
    "empty": b"",
    "short": b"\x01\x02",
    "garbage": bytes(range(256)) * 4,
    "a pickle": pickle.dumps({"model": [1, 2, 3]}),
    "an absurd header": struct.pack("<Q", 2**62) + b"{}",
    "a header longer than the file": struct.pack("<Q", 1000) + b"{}",
    "a header of length zero": struct.pack("<Q", 0),
    "a header that is no JSON": with_header(b"{nonsense}"),
    "a header that is no text": with_header(b"\xff\xfe\xff"),
    "a header that is a list": with_header([]),
    "a header nested without end": with_header(b"[" * 100_000),
    "no metadata": with_header({}),
    "metadata of another kind": with_header({"__metadata__": 3}),
    "metadata of another program": with_header({"__metadata__": {"format": "pt"}}),
    "a configuration that is no JSON": with_header({"__metadata__": {FORMAT: "{"}}),
    "a configuration that is a list": with_header({"__metadata__": {FORMAT: "[]"}}),
    "a configuration nested without end": with_header({"__metadata__": {FORMAT: "[" * 100_000}}),
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_a_file_that_is_no_model_is_refused(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    for read in (load, read_config):
        with pytest.raises(ModelFormatError, match=r"model\.safetensors"):
            read(path)
    assert len(verify_model(path)) == 1


def test_a_torch_file_is_never_unpickled(tmp_path):
    ran = tmp_path / "ran"

    class Runs:
        def __reduce__(self):
            return os.mkdir, (str(ran),)

    torch.save({"model": Runs()}, tmp_path / "model.safetensors")
    with pytest.raises(ModelFormatError, match="is not a safetensors file"):
        load(tmp_path / "model.safetensors")
    assert not ran.exists()


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(path, kept):
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(ModelFormatError, match=r"damaged|not a s"):
        load(path)


def test_appended_bytes_are_refused(path):
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(ModelFormatError, match="damaged"):
        load(path)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere.safetensors")
