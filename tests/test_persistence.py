import os
import pickle
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch
from hostile_models import rewritten
from scipy import sparse
from torch import nn

from sparsecode import SparseVAETransformer, defaults
from sparsecode.errors import ModelFormatError, OutputError
from sparsecode.persistence import describe_model, read_config, verify_model

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


def test_widths_that_follow_from_a_numpy_number_of_latents_are_stored(
    make, digits, tmp_path, monkeypatch
):
    monkeypatch.setattr(defaults, "_MANY_ROWS", 1)
    coder = make(n_components=np.int64(5), hidden_sizes="auto").fit(digits[:120])
    coder.save(tmp_path / "model.safetensors")
    assert load(tmp_path / "model.safetensors").model_.spec == coder.model_.spec


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


# -- damaged files; hostile ones are in test_hostile_models.py ----------------------------------


def test_the_hash_is_the_one_that_the_format_says(path, gated, digits):
    path.write_bytes(rewritten(path.read_bytes()))
    assert (load(path).transform(digits[:9]) != gated.transform(digits[:9])).nnz == 0


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(path, kept):
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(ModelFormatError, match=r"damaged|not a safetensors file"):
        load(path)
