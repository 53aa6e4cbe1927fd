"""Models in one ``.safetensors`` file: weights, and the configuration as JSON in its header.

A file is untrusted until it has been compared, name by name, with what the configuration says it
must hold: nothing is unpickled, and no code or shape is taken from the file itself.
"""

import copy
import dataclasses
import hashlib
import json
import math
import os
import struct
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from sparsecode._version import __version__
from sparsecode.errors import ModelFormatError
from sparsecode.files import write_whole
from sparsecode.trainer import EpochRecord
from sparsecode.vae import ModelSpec, SparseVAE

if TYPE_CHECKING:
    from sparsecode.transformer import SparseVAETransformer

FORMAT = "sparsecode-model"
FORMAT_VERSION = 1
_MAX_HEADER = 64 << 20
_MAX_TENSORS = 4096
_MAX_VALUES = 1 << 34
_CONFIG_KEYS = {
    "format",
    "format_version",
    "sparsecode_version",
    "spec",
    "parameters",
    "n_features_in",
    "feature_names_in",
    "unit_interval",
    "density",
    "n_iter",
    "history",
    "custom_networks",
    "images",
    "weights_sha256",
}
# Modules and seeds in use are no part of a file; where the model runs is the loader's choice.
_NOT_STORED = {"encoder", "decoder", "device", "random_state", "verbose"}


def save_transformer(transformer: "SparseVAETransformer", path: str | PathLike[str]) -> None:
    """Write a fitted transformer to ``path``, through a temporary file and a rename."""
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
        "history": [dataclasses.asdict(record) for record in transformer.history_],
        "custom_networks": transformer.encoder is not None,
        "images": transformer.image_options_,
    }
    # Copied, for own networks may share weights, which the format does not know.
    tensors = {
        name: t.detach().cpu().clone().contiguous() for name, t in model.state_dict().items()
    }
    config["weights_sha256"] = _sha256(tensors)
    data = save(tensors, metadata={FORMAT: json.dumps(config, allow_nan=False)})
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


def read_config(path: str | PathLike[str]) -> dict[str, Any]:
    """Read and check the configuration of a model file, without its weights.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    dict
        With exactly the keys that this version writes.

    Raises
    ------
    FileNotFoundError
        No such file.
    ModelFormatError
        Not a sparsecode model, damaged, or of another format version.
    """
    path = Path(path)
    header = _read_header(path)
    try:
        config = json.loads(header["__metadata__"][FORMAT], parse_constant=_refuse_constant)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelFormatError(f"{path} is not a sparsecode model: {_reason(error)}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ModelFormatError(f"{path} is not a sparsecode model")
    if config.get("format_version") != FORMAT_VERSION:
        raise ModelFormatError(
            f"{path} has model format version {config.get('format_version')!r}; this is sparsecode "
            f"{__version__}, which reads version {FORMAT_VERSION}"
        )
    if set(config) != _CONFIG_KEYS:
        differing = sorted(set(config) ^ _CONFIG_KEYS)
        raise ModelFormatError(f"{path}: configuration keys missing or unknown: {differing}")
    return config


def describe_model(path: str | PathLike[str]) -> dict[str, Any]:
    """Say what a model file holds, without its weights: parameters, fit and file.

    Errors as for :func:`read_config`.
    """
    config = read_config(path)
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
    """Check a model file as loading does; return the problem found, if any."""
    try:
        config = read_config(path)
        tensors = _read_tensors(Path(path), config)
        if not config["custom_networks"]:
            _check_tensors(Path(path), tensors, _build(_spec(config["spec"])).state_dict())
    except (ModelFormatError, ValueError, TypeError, KeyError) as error:
        return [str(error)]
    return []


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} in the configuration")


def _read_header(path: Path) -> dict[str, Any]:
    # Checked here before the library sees the file: an absurd header length must not be allocated.
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
        if not 0 < length <= min(_MAX_HEADER, size - 8):
            raise ModelFormatError(f"{path} is not a safetensors file")
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(f"{path} is not a safetensors file: {_reason(error)}") from error
    if not isinstance(header, dict) or len(header) > _MAX_TENSORS:
        raise ModelFormatError(f"{path} is not a sparsecode model: unexpected header")
    return header


def load_transformer(
    cls: type["SparseVAETransformer"],
    path: str | PathLike[str],
    *,
    encoder: nn.Module | None,
    decoder: nn.Module | None,
    device: str,
) -> "SparseVAETransformer":
    """Read a transformer; see :meth:`SparseVAETransformer.load`."""
    path = Path(path)
    config = read_config(path)
    if config["custom_networks"] != (encoder is not None and decoder is not None):
        remedy = (
            "needs the encoder and decoder that it was trained with; pass both to load"
            if config["custom_networks"]
            else "was not trained with own networks; load it without encoder and decoder"
        )
        raise ModelFormatError(f"{path} {remedy}")
    try:
        transformer = cls(**config["parameters"], encoder=encoder, decoder=decoder, device=device)
        transformer._validate_params()
        model = _build(_spec(config["spec"]), *copy.deepcopy((encoder, decoder)))
        _set_attributes(transformer, config)
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise ModelFormatError(f"{path}: invalid configuration: {_reason(error)}") from error
    tensors = _read_tensors(path, config)
    _check_tensors(path, tensors, model.state_dict())
    # Copies: the tensors read are views of one mapped file.
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    model.load_state_dict(copies, assign=encoder is None)
    transformer.model_ = model.to(transformer._device()).eval()
    return transformer


def _spec(values: Any) -> ModelSpec:
    fields = {field.name for field in dataclasses.fields(ModelSpec)}
    if not isinstance(values, dict) or set(values) != fields:
        raise ValueError("spec has missing or unknown keys")
    sizes = [values["n_features"], values["n_latents"], *values["encoder_sizes"]]
    sizes += values["decoder_sizes"]
    sizes += values["image_shape"] or []
    if not all(type(size) is int and 0 < size < 2**31 for size in sizes):
        raise ValueError(f"sizes must be positive integers, got {sizes}")
    if math.prod(sizes[:2]) > _MAX_VALUES:
        raise ValueError(f"{sizes[0]} features x {sizes[1]} latents is too large")
    choices = {
        "posterior": {"spike_slab", "gaussian"},
        "prior": {"spike_slab", "normal", "laplace"},
        "likelihood": {"bernoulli", "continuous_bernoulli", "gaussian"},
    }
    for name, allowed in choices.items():
        if values[name] not in allowed:
            raise ValueError(f"{name}={values[name]!r} is unknown")
    for name, low, high in (("spike_weight", 0, 1), ("spike_scale", 0, 1), ("usage_balance", 0, 9)):
        if type(values[name]) not in (int, float) or not low <= values[name] < high:
            raise ValueError(f"{name}={values[name]!r} is out of range")
    shape = values["image_shape"]
    return ModelSpec(
        **{
            **values,
            "encoder_sizes": tuple(values["encoder_sizes"]),
            "decoder_sizes": tuple(values["decoder_sizes"]),
            "image_shape": None if shape is None else tuple(shape),
        }
    )


def _set_attributes(transformer: "SparseVAETransformer", config: dict[str, Any]) -> None:
    if config["n_features_in"] != config["spec"]["n_features"]:
        raise ValueError("n_features_in differs from spec")
    transformer.n_features_in_ = config["n_features_in"]
    if config["feature_names_in"] is not None:
        transformer.feature_names_in_ = np.array(config["feature_names_in"], dtype=object)
    transformer.likelihood_ = config["spec"]["likelihood"]
    transformer._unit_interval = bool(config["unit_interval"])
    transformer.density_ = float(config["density"])
    transformer.n_iter_ = int(config["n_iter"])
    transformer.history_ = [EpochRecord(**record) for record in config["history"]]
    transformer.image_options_ = config["images"]
    transformer._trainer = None


def _read_tensors(path: Path, config: dict[str, Any]) -> dict[str, Tensor]:
    try:
        tensors = load_file(path)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise ModelFormatError(f"{path} is damaged: {_reason(error)}") from error
    if _sha256(tensors) != config["weights_sha256"]:
        raise ModelFormatError(f"{path} is damaged: the weights do not have the stored hash")
    for name, tensor in tensors.items():
        # The threshold of a dense model (p = 0) is -inf: nothing is ever closed.
        dense = name == "gate.threshold" and config["spec"]["spike_weight"] == 0
        if not dense and not bool(torch.isfinite(tensor).all()):
            raise ModelFormatError(f"{path}: tensor {name} has values that are not finite")
    return tensors


def _check_tensors(path: Path, tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    if set(tensors) != set(expected):
        differing = sorted(set(tensors) ^ set(expected))[:5]
        raise ModelFormatError(f"{path}: tensors missing or unknown: {differing}")
    for name, tensor in tensors.items():
        wanted = expected[name]
        if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
            raise ModelFormatError(
                f"{path}: tensor {name} is {tensor.dtype} {tuple(tensor.shape)}, but the "
                f"configuration asks for {wanted.dtype} {tuple(wanted.shape)}"
            )


def _sha256(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _build(
    spec: ModelSpec, encoder: nn.Module | None = None, decoder: nn.Module | None = None
) -> SparseVAE:
    if encoder is not None:
        return SparseVAE(spec, encoder, decoder)
    # On the meta device nothing is allocated, however large the sizes that a file claims.
    with torch.device("meta"):
        return SparseVAE(spec)
