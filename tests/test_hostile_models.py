"""No model file, whatever it is, does more than raise one kind of error."""

import hostile_limits
import hostile_models
import pytest
from hostile_models import CONFIGURATIONS, KINDS, Runs, config_hash, rewritten, small_model

from sparsecode import SparseVAETransformer
from sparsecode.errors import ModelFormatError, NoInputError, RefusedError
from sparsecode.persistence import describe_model, read_config, verify_model


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("good") / "model.safetensors")


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_refused_quickly_and_in_little_memory(tmp_path, good, name):
    path = hostile_models.make(name, tmp_path, good)
    readers = [SparseVAETransformer.load]
    readers += [] if name.startswith("weights") else [describe_model]
    with hostile_limits.measured() as cost:
        for read in readers:
            with pytest.raises(ModelFormatError) as caught:
                read(path)
            message = str(caught.value)
            assert message.startswith(str(path))
            assert len(message) < len(str(path)) + 1000
            assert "\33" not in message
        assert len(verify_model(path)) == 1
    assert cost.seconds < hostile_limits.SECONDS
    assert cost.mebibytes < hostile_limits.MEBIBYTES
    assert not (tmp_path / "ran").exists()  # what a pickle would have made


def test_there_are_as_many_kinds_as_were_asked_for():
    assert len(KINDS) >= 60


def test_the_file_that_they_are_made_from_is_good(tmp_path, good):
    path = tmp_path / "model.safetensors"
    path.write_bytes(rewritten(good))
    assert verify_model(path) == []
    assert describe_model(path)["n_latents"] == 8
    assert SparseVAETransformer.load(path).n_components == 8


def test_unpickling_would_have_been_noticed(tmp_path):
    make_folder, arguments = Runs(tmp_path / "ran").__reduce__()
    make_folder(*arguments)
    assert (tmp_path / "ran").exists()


MESSAGES = {
    "a later version": "has model format version 2; this sparsecode reads version 1",
    "key missing": r"configuration keys missing or unknown: \['density'\]",
    "parameter unknown": r"parameters keys missing or unknown: \['hack'\]",
    "parameter out of range": r"parameters p=2 is not a number from 0 to 0\.99",
    "posterior unknown": "spec posterior='x' is not one of spike_slab, gaussian",
    "NaN": "NaN in JSON",
    "n_latents of another number": r"\(6, 8\), but the configuration asks for .* \(6, 9\)",
    "layers of terabytes": "a layer of 30 x 1073741824 weights is too large",
    "a key twice": "the key 'n_iter' occurs twice",
    "images of another size": "images do not have 30 values",
}


@pytest.mark.parametrize(("name", "message"), MESSAGES.items(), ids=MESSAGES)
def test_the_message_says_what_is_wrong(tmp_path, good, name, message):
    CONFIGURATIONS[name](tmp_path / "model.safetensors", good)
    with pytest.raises(ModelFormatError, match=message):
        SparseVAETransformer.load(tmp_path / "model.safetensors")


@pytest.mark.parametrize("has_hash", [True, False])
def test_a_file_from_before_rows_were_counted_is_read(tmp_path, good, has_hash):
    def remove(config):
        del config["config_sha256"], config["n_samples_seen"]
        if has_hash:
            config["config_sha256"] = config_hash(config)

    path = tmp_path / "model.safetensors"
    path.write_bytes(rewritten(good, remove))
    assert verify_model(path) == []
    loaded = SparseVAETransformer.load(path)
    assert loaded.n_samples_seen_ == sum(record.n_samples for record in loaded.history_)


def test_own_networks_that_a_file_only_claims_are_asked_for(tmp_path, good):
    def claim(config):
        config["custom_networks"] = True
        del config["config_sha256"]

    path = tmp_path / "model.safetensors"
    path.write_bytes(rewritten(good, claim))
    with pytest.raises(ModelFormatError, match="needs the encoder and decoder"):
        SparseVAETransformer.load(path)


@pytest.mark.parametrize("target", [None, "nowhere"])
def test_a_missing_file_and_a_link_to_nothing_are_no_input(tmp_path, target):
    path = tmp_path / "model.safetensors"
    if target:
        path.symlink_to(target)
    for read in (SparseVAETransformer.load, describe_model, verify_model, read_config):
        with pytest.raises(NoInputError, match=r"model\.safetensors does not exist"):
            read(path)


class Extended(SparseVAETransformer):
    """A subclass with a parameter more, and without most of the others."""

    def __init__(self, max_iter=1, *, extra=1, encoder=None, decoder=None, device="cpu"):
        super().__init__(8, max_iter=max_iter, encoder=encoder, decoder=decoder, device=device)
        self.extra = extra


def test_a_subclass_has_its_own_parameters(digits, tmp_path):
    path = tmp_path / "model.safetensors"
    Extended(extra=[5, "x"]).fit(digits[:60]).save(path)
    assert Extended.load(path).extra == [5, "x"]
    with pytest.raises(ModelFormatError, match="parameters keys missing or unknown"):
        SparseVAETransformer.load(path)


def test_what_could_not_be_loaded_is_not_saved(make, digits, tmp_path):
    coder = make().fit(digits[:60]).set_params(max_time=float("inf"))
    with pytest.raises(RefusedError, match=r"cannot be saved as .*model\.safetensors"):
        coder.save(tmp_path / "model.safetensors")
    coder.set_params(max_time=None, tol=10**400)
    with pytest.raises(RefusedError, match="tol=1000"):
        coder.save(tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_of_an_endless_stream_the_last_epochs_are_kept(make, digits, tmp_path, monkeypatch):
    monkeypatch.setattr("sparsecode.persistence._MAX_HISTORY", 2)
    coder = make()
    for _ in range(3):
        coder.partial_fit(digits[:60])
    coder.save(tmp_path / "model.safetensors")
    other = SparseVAETransformer.load(tmp_path / "model.safetensors")
    assert other.n_iter_ == 3
    assert other.history_ == coder.history_[1:]
