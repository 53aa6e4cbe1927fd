"""Models in one ``.safetensors`` file: weights, and the configuration as JSON in its header.

A file is untrusted until it has been compared, name by name, with what the configuration says it
must hold: nothing is unpickled, and no code or shape is taken from the file itself.
"""

import copy
import dataclasses
import hashlib
import json
import os
import struct
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from sparsecode._version import __version__
from sparsecode.errors import ModelFormatError, NoInputError, RefusedError, plain_text
from sparsecode.files import open_regular, write_whole
from sparsecode.model_config import (
    FORMAT,
    FORMAT_VERSION,
    PARAMETERS,
    config_sha256,
    parse_config,
)
from sparsecode.strict_json import parse_json
from sparsecode.trainer import EpochRecord
from sparsecode.vae import ModelSpec, SparseVAE

if TYPE_CHECKING:
    from sparsecode.transformer import SparseVAETransformer

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "describe_model",
    "load_transformer",
    "read_config",
    "save_transformer",
    "verify_model",
]

_MAX_HEADER = 64 << 20
_MAX_TENSORS = 4096
_MAX_HISTORY = 100_000
# What Python and torch raise over values that they cannot use.
_REFUSALS = (ValueError, TypeError, KeyError, AttributeError, RuntimeError)
# Modules and seeds in use are no part of a file; where the model runs is the loader's choice.
_NOT_STORED = {"encoder", "decoder", "device", "random_state", "verbose"}


def save_transformer(transformer: "SparseVAETransformer", path: str | PathLike[str]) -> None:
    """Write a fitted transformer to ``path``, through a temporary file and a rename.

    Raises
    ------
    RefusedError
        It has parameters or sizes that loading would refuse.
    OutputError
        The file cannot be written.
    """
    model = transformer.model_
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "sparsecode_version": __version__,
        "spec": dataclasses.asdict(model.spec),
        "parameters": _plain_parameters(transformer),
        "n_features_in": transformer.n_features_in_,
        "feature_names_in": _names(transformer),
        "unit_interval": transformer._unit_interval,
        "density": transformer.density_,
        "n_iter": transformer.n_iter_,
        "n_samples_seen": transformer.n_samples_seen_,
        "history": [dataclasses.asdict(record) for record in transformer.history_[-_MAX_HISTORY:]],
        "custom_networks": transformer.encoder is not None,
        "images": transformer.image_options_,
    }
    # Copied, for own networks may share weights, which the format does not know.
    tensors = {
        name: t.detach().cpu().clone().contiguous() for name, t in model.state_dict().items()
    }
    config["weights_sha256"] = _sha256(tensors)
    try:
        config["config_sha256"] = config_sha256(config)
        data = save(tensors, metadata={FORMAT: json.dumps(config, allow_nan=False)})
        _parse_header(data, len(data), config["parameters"])
    except ValueError as error:
        raise RefusedError(f"the model cannot be saved as {path}: {error}") from error
    write_whole(path, data)


def _plain_parameters(transformer: "SparseVAETransformer") -> dict[str, Any]:
    parameters = transformer.get_params(deep=False)
    return {name: _plain(value) for name, value in parameters.items() if name not in _NOT_STORED}


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    return value


def _names(transformer: "SparseVAETransformer") -> list[str] | None:
    names = getattr(transformer, "feature_names_in_", None)
    return None if names is None else [str(name) for name in names]


def read_config(
    path: str | PathLike[str], parameters: Collection[str] = PARAMETERS
) -> dict[str, Any]:
    """Read and check the configuration of a model file, without its weights.

    Parameters
    ----------
    path : path-like
    parameters : collection of str, optional
        Names of those that a subclass of the estimator has.

    Returns
    -------
    dict
        With exactly the keys that this version writes.

    Raises
    ------
    NoInputError
        No such file.
    ModelFormatError
        Not a sparsecode model, damaged, or of another format version.
    """
    with _refusing(path), os.fdopen(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        # An absurd length must not be allocated.
        return _parse_header(prefix + file.read(_header_length(prefix, size)), size, parameters)


@contextmanager
def _refusing(path: str | PathLike[str]) -> Iterator[None]:
    """Turn whatever a file does to its reader into one error with the file's name."""
    try:
        yield
    except ModelFormatError:
        raise
    except FileNotFoundError as error:
        raise NoInputError(f"{path} does not exist; name a model (.safetensors)") from error
    except OSError as error:
        raise ModelFormatError(f"{path} cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise ModelFormatError(f"{path} is damaged: {plain_text(error)}") from error
    except _REFUSALS as error:
        reason = plain_text(error)
        raise ModelFormatError(f"{path} cannot be read as a sparsecode model: {reason}") from error


def _header_length(prefix: bytes, size: int) -> int:
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
    if not 0 < length <= min(_MAX_HEADER, size - 8):
        raise ValueError("it is not a safetensors file")
    return length


def _parse_header(data: bytes, size: int, parameters: Collection[str]) -> dict[str, Any]:
    """Check the first bytes of a file of `size` bytes; return the configuration."""
    header = parse_json(data[8 : 8 + _header_length(data[:8], size)])
    if not isinstance(header, dict) or len(header) > _MAX_TENSORS + 1:
        raise ValueError(f"its header is not an object of at most {_MAX_TENSORS} tensors")
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or metadata.keys() != {FORMAT}:
        raise ValueError("it is not a sparsecode model: its metadata are of another program")
    text = metadata[FORMAT]
    if not isinstance(text, str):
        raise ValueError("it is not a sparsecode model: its configuration is no text")
    return parse_config(text, parameters)


def describe_model(path: str | PathLike[str]) -> dict[str, Any]:
    """Say what a model file holds, without its weights: parameters, fit and file.

    Errors as for :func:`read_config`.
    """
    config = read_config(path)
    with _refusing(path):
        _open_tensors(path, config)
    last = config["history"][-1] if config["history"] else {}
    spec, parameters = config["spec"], config["parameters"]
    return {
        "sparsecode_version": config["sparsecode_version"],
        "n_features": config["n_features_in"],
        "n_latents": spec["n_latents"],
        "p": spec["spike_weight"],
        "posterior": spec["posterior"],
        "likelihood": spec["likelihood"],
        "encoder_sizes": spec["encoder_sizes"],
        "decoder_sizes": spec["decoder_sizes"],
        "images": config["images"],
        "n_iter": config["n_iter"],
        "last_epoch": last,
        "parameters": parameters,
        "bytes": Path(path).stat().st_size,
    }


def verify_model(path: str | PathLike[str]) -> list[str]:
    """Check a model file as loading does; return the problem found, if any.

    Of own networks, which are not in the file, only the hash of the weights can be checked.

    Raises
    ------
    NoInputError
        No such file.
    """
    try:
        config = read_config(path)
        with _refusing(path):
            _check_weights(_open_tensors(path, config), config)
    except ModelFormatError as error:
        return [str(error)]
    return []


def load_transformer(
    cls: type["SparseVAETransformer"],
    path: str | PathLike[str],
    *,
    encoder: nn.Module | None,
    decoder: nn.Module | None,
    device: str,
) -> "SparseVAETransformer":
    """Read a transformer; see :meth:`SparseVAETransformer.load`."""
    config = read_config(path, set(cls._get_param_names()) - _NOT_STORED)
    if config["custom_networks"] != (encoder is not None and decoder is not None):
        remedy = (
            "needs the encoder and decoder that it was trained with; pass both to load"
            if config["custom_networks"]
            else "was not trained with own networks; load it without encoder and decoder"
        )
        raise ModelFormatError(f"{path} {remedy}")
    with _refusing(path):
        transformer = cls(**config["parameters"], encoder=encoder, decoder=decoder, device=device)
        transformer._validate_params()
        _set_attributes(transformer, config)
        tensors = _open_tensors(path, config)
        model = _build(_spec(config), *copy.deepcopy((encoder, decoder)))
        _check_tensors(tensors, model.state_dict())
        _check_weights(tensors, config)
        # Copies: the tensors read are views of one mapped file.
        copies = {name: tensor.clone() for name, tensor in tensors.items()}
        model.load_state_dict(copies, assign=encoder is None)
    transformer.model_ = model.to(transformer._device()).eval()
    return transformer


def _spec(config: Mapping[str, Any]) -> ModelSpec:
    tuples = {name: tuple(v) for name, v in config["spec"].items() if isinstance(v, list)}
    return ModelSpec(**{**config["spec"], **tuples})


def _set_attributes(transformer: "SparseVAETransformer", config: dict[str, Any]) -> None:
    transformer.n_features_in_ = config["n_features_in"]
    if config["feature_names_in"] is not None:
        transformer.feature_names_in_ = np.array(config["feature_names_in"], dtype=object)
    transformer.likelihood_ = config["spec"]["likelihood"]
    transformer._unit_interval = config["unit_interval"]
    transformer.density_ = float(config["density"])
    transformer.n_iter_ = config["n_iter"]
    transformer.n_samples_seen_ = config["n_samples_seen"]
    transformer.history_ = [EpochRecord(**record) for record in config["history"]]
    transformer.image_options_ = config["images"]
    transformer._trainer = None


def _open_tensors(path: str | PathLike[str], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Map the tensors, unread, once they are known to be those that the configuration asks for.

    Those of own networks are not known before the networks are.
    """
    own = ("encoder.", "decoder.") if config["custom_networks"] else ()
    networks = (nn.Identity(), nn.Identity()) if own else (None, None)
    tensors = load_file(path)
    # On the meta device nothing is allocated, however large the sizes that a file claims.
    with torch.device("meta"):
        expected = SparseVAE(_spec(config), *networks).state_dict()
    _check_tensors({name: t for name, t in tensors.items() if not name.startswith(own)}, expected)
    return tensors


def _check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    if tensors.keys() != expected.keys():
        differing = sorted(tensors.keys() ^ expected.keys())[:5]
        raise ValueError(f"tensors missing or unknown: {differing}")
    for name, tensor in tensors.items():
        wanted = expected[name]
        if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
            raise ValueError(
                f"tensor {name} is {tensor.dtype} {tuple(tensor.shape)}, but the configuration "
                f"asks for {wanted.dtype} {tuple(wanted.shape)}"
            )


def _check_weights(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Read the tensors: their hash must be right, and their values possible."""
    if _sha256(tensors) != config["weights_sha256"]:
        raise ValueError("it is damaged: the weights do not have the stored hash")
    # The threshold of a dense model (p = 0) is -inf: nothing is ever closed.
    lowest = -torch.inf if config["spec"]["spike_weight"] == 0 else None
    for name, tensor in tensors.items():
        is_open = name == "gate.threshold" and tensor == lowest
        if not is_open and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"tensor {name} has values that are not finite")
    for name in ("input_scale", "scale"):
        if tensors[name] <= 0:
            raise ValueError(f"tensor {name} is not positive")


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _build(spec: ModelSpec, encoder: nn.Module | None, decoder: nn.Module | None) -> SparseVAE:
    """Build a network whose weights are those of own networks, or not there yet."""
    if encoder is not None:
        return SparseVAE(spec, encoder, decoder)
    with torch.device("meta"):
        return SparseVAE(spec)
