"""Model files that are damaged, lie, or are something else: how each is made, by name.

The tests, ``benchmarks/reliability/hostile.py`` and the fuzz target draw on it. `KINDS` begin with
what `read_config` refuses (`describe_model` and loading with it); `WEIGHTS` is damage that shows
only when the weights are read.
"""

import gzip
import hashlib
import io
import json
import os
import pickle
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from safetensors.torch import load, save

from sparsecode import SparseVAETransformer
from sparsecode.model_config import FORMAT

Make = Callable[[Path, bytes], None]
"""Writes a hostile file to a path, given the bytes of a good one."""


def small_model(path: Path) -> bytes:
    """Train and save the good model that the others are made from; return its bytes."""
    X = np.random.default_rng(0).random((60, 30), dtype=np.float32)
    model = SparseVAETransformer(8, max_iter=1, hidden_sizes=(6,), random_state=0, device="cpu")
    model.fit(X).save(path)
    return path.read_bytes()


def weights_hash(tensors: dict[str, torch.Tensor]) -> str:
    """The hash of the format, written down a second time."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def split(good: bytes) -> tuple[dict[str, Any], bytes]:
    """Return a file's header and what follows it."""
    (length,) = struct.unpack("<Q", good[:8])
    return json.loads(good[8 : 8 + length]), good[8 + length :]


def joined(header: object, data: bytes = b"") -> bytes:
    """Put a header, JSON or its bytes, in front of data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def config_hash(config: dict[str, Any]) -> str:
    """The other hash of the format, written down a second time."""
    text = json.dumps({k: v for k, v in config.items() if k != "config_sha256"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def rewritten(
    good: bytes,
    change_config: Callable[[dict[str, Any]], object] | None = None,
    change_tensors: Callable[[dict[str, torch.Tensor]], object] | None = None,
    rehash: bool = True,
) -> bytes:
    """Change the configuration or the tensors, and put the weights' hash right."""
    config, tensors = json.loads(split(good)[0]["__metadata__"][FORMAT]), load(good)
    if change_tensors:
        change_tensors(tensors)
    if rehash:
        config["weights_sha256"] = weights_hash(tensors)
        config["config_sha256"] = config_hash(config)
    if change_config:
        change_config(config)
    return save(tensors, metadata={FORMAT: json.dumps(config)})


def put(*keys: str | int, value: Any) -> Make:
    """Give an entry of the configuration another value."""

    def change(whole: Any) -> None:
        config = whole
        for key in keys[:-1]:
            config = config[key]
        config[keys[-1]] = value
        whole.pop("config_sha256")

    return configured(change)


def drop(*keys: str | int) -> Make:
    """Leave out an entry of the configuration."""

    def change(whole: Any) -> None:
        config = whole
        for key in keys[:-1]:
            config = config[key]
        del config[keys[-1]]
        whole.pop("config_sha256")

    return configured(change)


def configured(change: Callable[[dict[str, Any]], object]) -> Make:
    """Change the configuration."""
    return lambda path, good: _write(path, rewritten(good, change))


def text_for_config(text: str) -> Make:
    """Put a text in the place of the configuration."""
    return headed(lambda header: header["__metadata__"].update({FORMAT: text}))


def replaced_in_config(old: str, new: str) -> Make:
    """Replace a piece of the configuration's text, which JSON would not write like that."""

    def change(header: dict[str, Any]) -> None:
        text = header["__metadata__"][FORMAT]
        assert old in text
        header["__metadata__"][FORMAT] = text.replace(old, new, 1)

    return headed(change)


def headed(change: Callable[[dict[str, Any]], object]) -> Make:
    """Change the header."""

    def make(path: Path, good: bytes) -> None:
        header, data = split(good)
        change(header)
        path.write_bytes(joined(header, data))

    return make


def entry(**values: Any) -> Make:
    """Change what the header says of one tensor."""
    return headed(lambda header: header["encoder.loc.bias"].update(values))


def tensors(change: Callable[[dict[str, torch.Tensor]], object], rehash: bool = True) -> Make:
    """Change the tensors."""
    return lambda path, good: _write(path, rewritten(good, None, change, rehash))


def fixed(content: bytes) -> Make:
    """Write the same bytes, whatever the good ones are."""
    return lambda path, _: _write(path, content)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _cast(dtype: torch.dtype) -> Make:
    return tensors(lambda t: t.update({"gate.usage": t["gate.usage"].to(dtype)}))


def _swap(values: dict[str, torch.Tensor]) -> None:
    values["input_scale"], values["scale"] = values["scale"] + 1, values["input_scale"] + 2


def _huge_header(path: Path, _: bytes) -> None:
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2**36))
        file.truncate(2**37)  # a hole, which takes no room on the disk


def _overlapping(header: dict[str, Any]) -> None:
    header["gate.usage"]["data_offsets"] = header["encoder.loc.bias"]["data_offsets"]


def _hole(header: dict[str, Any]) -> None:
    del header["gate.usage"]


def _duplicate_tensor(path: Path, good: bytes) -> None:
    header, data = split(good)
    text = json.dumps(header)
    again = json.dumps({"gate.usage": header["gate.usage"]})[1:-1]
    path.write_bytes(joined(f"{text[:-1]}, {again}}}".encode(), data))


def _torch_file(path: Path, _: bytes) -> None:
    torch.save({"model": Runs(path.with_name("ran"))}, path)


class Runs:
    """Unpickled, it would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def _hdf5(path: Path, _: bytes) -> None:
    with h5py.File(path, "w") as file:
        file["X"] = np.eye(3)


def _numpy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.eye(3))
    return stream.getvalue()


def bind_socket(path: Path) -> None:
    """Leave a socket at a path."""
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's whole path may be too long
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def _link(target: str) -> Make:
    return lambda path, _: path.symlink_to(target)


SPEC, PARAMETERS, HISTORY = "spec", "parameters", "history"
IMAGES = {
    "height": 5,
    "width": 6,
    "channels": 1,
    "exif": True,
    "max_pixels": 100,
    "background": 255,
}
FILES: dict[str, Make] = {
    "empty": fixed(b""),
    "three bytes": fixed(b"\1\2\3"),
    "garbage": fixed(bytes(range(256)) * 4),
    "a pickle": lambda path, _: _write(path, pickle.dumps(Runs(path.with_name("ran")))),
    "a torch file": _torch_file,
    "a NumPy file": fixed(_numpy()),
    "HDF5": _hdf5,
    "gzip": lambda path, good: _write(path, gzip.compress(good)),
    "a folder": lambda path, _: path.mkdir(),
    "a FIFO": lambda path, _: os.mkfifo(path),
    "a socket": lambda path, _: bind_socket(path),
    "a link to itself": _link("model.safetensors"),
    "a link to /dev/zero": _link("/dev/zero"),
}
HEADERS: dict[str, Make] = {
    "cut off in the header": lambda path, good: _write(path, good[:200]),
    "cut off in the weights": lambda path, good: _write(path, good[:-1]),
    "more bytes at the end": lambda path, good: _write(path, good + b"more"),
    "header of length zero": fixed(struct.pack("<Q", 0) + b"{}"),
    "header longer than the file": fixed(struct.pack("<Q", 1000) + b"{}"),
    "header of 2**63 bytes": fixed(struct.pack("<Q", 2**63) + b"{}"),
    "header of 2**64 - 1 bytes": fixed(b"\xff" * 8 + b"{}"),
    "header of 64 GiB that are there": _huge_header,
    "header that is no JSON": fixed(joined(b"{nonsense}")),
    "header that is no UTF-8": fixed(joined(b'{"\xff": 1}')),
    "header in UTF-16": lambda path, good: _write(
        path, joined(json.dumps(split(good)[0]).encode("utf-16"), split(good)[1])
    ),
    "header that is a list": fixed(joined([])),
    "header of nested lists": fixed(joined(b"[" * 10**6)),
    "header of nested objects": fixed(joined(b'{"a":' * 10**6)),
    "header of 20 million lists": fixed(joined(b"[" + b"[]," * (2 * 10**7) + b"[]]")),
    "header with NaN": headed(lambda header: header.update(x=float("nan"))),
    "header with a tensor twice": _duplicate_tensor,
    "header of 20,000 tensors": headed(
        lambda header: header.update(
            {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(20_000)}
        )
    ),
    "no metadata": headed(lambda header: header.pop("__metadata__")),
    "metadata that is a number": headed(lambda header: header.update(__metadata__=3)),
    "metadata of another program": headed(lambda h: h.update(__metadata__={"format": "pt"})),
    "metadata with another key": headed(lambda h: h["__metadata__"].update(format="pt")),
    "configuration that is no text": headed(lambda h: h["__metadata__"].update({FORMAT: {}})),
    "tensors that overlap": headed(_overlapping),
    "tensors with a hole between": headed(_hole),
    "negative offsets": entry(data_offsets=[-4, 28]),
    "offsets behind the end": entry(data_offsets=[2**40, 2**40 + 32]),
    "offsets beyond 64 bits": entry(data_offsets=[2**70, 2**70 + 32]),
    "offsets that fall": entry(data_offsets=[64, 32]),
    "fractional offsets": entry(data_offsets=[0.5, 32.5]),
    "offsets that are booleans": entry(data_offsets=[False, True]),
    "three offsets": entry(data_offsets=[0, 16, 32]),
    "no offsets": headed(lambda header: header["gate.usage"].pop("data_offsets")),
    "a tensor that is a list": headed(lambda header: header.update({"gate.usage": [1, 2]})),
    "unknown type of numbers": entry(dtype="F31"),
    "type of another size": entry(dtype="F64"),
    "negative shape": entry(shape=[-8]),
    "shape of other size": entry(shape=[9]),
    "shape beyond 64 bits": entry(shape=[2**40, 2**40, 8]),
    "shape of a trillion values": entry(shape=[10**12]),
    "shape that is a boolean": entry(shape=[True]),
    "shape that is text": entry(shape="8"),
}
TENSORS: dict[str, Make] = {
    "tensor missing": tensors(lambda t: t.pop("gate.usage")),
    "tensor too many": tensors(lambda t: t.update(extra=torch.ones(1))),
    "tensor of another name": tensors(lambda t: t.update(usage=t.pop("gate.usage"))),
    "tensor of another shape": tensors(lambda t: t.update({"gate.usage": torch.ones(9)})),
    "tensor with a dimension more": tensors(lambda t: t.update({"gate.usage": torch.ones(1, 8)})),
    "tensor transposed": tensors(
        lambda t: t.update({"encoder.loc.weight": t["encoder.loc.weight"].T.contiguous()})
    ),
    "float64": _cast(torch.float64),
    "float16": _cast(torch.float16),
    "bfloat16": _cast(torch.bfloat16),
    "8-bit floats": _cast(torch.float8_e5m2),
    "integers": _cast(torch.int32),
    "booleans": _cast(torch.bool),
    "complex numbers": _cast(torch.complex64),
}
WEIGHTS: dict[str, Make] = {
    "a weight that is NaN": tensors(lambda t: t["encoder.loc.weight"][0, 0].fill_(torch.nan)),
    "a weight that is infinite": tensors(lambda t: t["encoder.loc.bias"][0].fill_(torch.inf)),
    "a threshold that is NaN": tensors(lambda t: t["gate.threshold"].fill_(torch.nan)),
    "a threshold that opens all": tensors(lambda t: t["gate.threshold"].fill_(-torch.inf)),
    "input_scale of zero": tensors(lambda t: t["input_scale"].zero_()),
    "a negative scale": tensors(lambda t: t["scale"].neg_()),
    "a changed weight": tensors(lambda t: t["encoder.loc.weight"].add_(1e-3), rehash=False),
    "scales exchanged": tensors(_swap, rehash=False),
    "another hash": put("weights_sha256", value="0" * 64),
}
CONFIGURATIONS: dict[str, Make] = {
    "no JSON": text_for_config("{"),
    "a list": text_for_config("[]"),
    "nested lists": text_for_config("[" * 10**6),
    "a number of a million digits": replaced_in_config('"n_iter": 1', f'"n_iter": {"9" * 10**6}'),
    "NaN": put("density", value=float("nan")),
    "infinity": put(PARAMETERS, "tol", value=float("inf")),
    "a number that overflows": replaced_in_config('"n_iter": 1', '"n_iter": 1e999'),
    "a key twice": replaced_in_config('"n_iter": 1', '"n_iter": 1, "n_iter": 1'),
    "half a character": replaced_in_config('"feature_names_in": null', '"\\ud800": null'),
    "half a character as a name": put("feature_names_in", value=["\ud800"] * 30),
    "key missing": drop("density"),
    "key unknown": put("extra", value=1),
    "another format": put("format", value="other"),
    "a later version": put("format_version", value=2),
    "a version that is text": put("format_version", value="1"),
    "a version that is true": put("format_version", value=True),
    "a version that commands the terminal": put("sparsecode_version", value="1\33[2J"),
    "spec that is a list": put(SPEC, value=[]),
    "spec without a key": drop(SPEC, "prior"),
    "spec with an unknown key": put(SPEC, "extra", value=1),
    "n_latents of true": put(SPEC, "n_latents", value=True),
    "n_latents of zero": put(SPEC, "n_latents", value=0),
    "n_latents below zero": put(SPEC, "n_latents", value=-8),
    "n_latents with a fraction": put(SPEC, "n_latents", value=8.0),
    "n_latents that is text": put(SPEC, "n_latents", value="8"),
    "n_latents of another number": put(SPEC, "n_latents", value=9),
    "n_latents of 2**31 - 1": put(SPEC, "n_latents", value=2**31 - 1),
    "n_latents of 10**30": put(SPEC, "n_latents", value=10**30),
    "sizes that are text": put(SPEC, "encoder_sizes", value="ab"),
    "sizes that are nested": put(SPEC, "encoder_sizes", value=[[6]]),
    "layers of terabytes": put(SPEC, "encoder_sizes", value=[2**30, 2**30]),
    "a thousand layers": put(SPEC, "encoder_sizes", value=[1] * 1000),
    "a million layers": put(SPEC, "decoder_sizes", value=[1] * 10**6),
    "posterior unknown": put(SPEC, "posterior", value="x"),
    "posterior that is a list": put(SPEC, "posterior", value=[]),
    "likelihood of null": put(SPEC, "likelihood", value=None),
    "p of one": put(SPEC, "spike_weight", value=1),
    "p below zero": put(SPEC, "spike_weight", value=-0.1),
    "p that is text": put(SPEC, "spike_weight", value="0.5"),
    "p of false": put(SPEC, "spike_weight", value=False),
    "usage_balance of 1e300": put(SPEC, "usage_balance", value=1e300),
    "image_shape of one number": put(SPEC, "image_shape", value=[30]),
    "image_shape of another size": put(SPEC, "image_shape", value=[5, 7]),
    "image_shape that is nested": put(SPEC, "image_shape", value=[[5, 6]]),
    "image_shape of terabytes": put(SPEC, "image_shape", value=[2**20, 2**20]),
    "parameters that are a list": put(PARAMETERS, value=[1]),
    "parameter missing": drop(PARAMETERS, "p"),
    "parameter unknown": put(PARAMETERS, "hack", value=1),
    "parameter out of range": put(PARAMETERS, "p", value=2),
    "parameter that is a path": put(PARAMETERS, "encoder", value="x"),
    "n_components of true": put(PARAMETERS, "n_components", value=True),
    "hidden_sizes that are nested": put(PARAMETERS, "hidden_sizes", value=[[1, 2]]),
    "max_iter of 10**400": put(PARAMETERS, "max_iter", value=10**400),
    "beta that is a list": put(PARAMETERS, "beta", value=[1]),
    "other features": put("n_features_in", value=29),
    "names for other features": put("feature_names_in", value=["a"] * 29),
    "names that are numbers": put("feature_names_in", value=list(range(30))),
    "unit_interval of one": put("unit_interval", value=1),
    "density of two": put("density", value=2),
    "n_iter below zero": put("n_iter", value=-1),
    "n_samples_seen below zero": put("n_samples_seen", value=-1),
    "history that is an object": put(HISTORY, value={}),
    "history of numbers": put(HISTORY, value=[1]),
    "history without a key": drop(HISTORY, 0, "loss"),
    "history with text": put(HISTORY, 0, "loss", value="low"),
    "history of more epochs than there were": put("n_iter", value=0),
    "custom_networks of one": put("custom_networks", value=1),
    "images that are a list": put("images", value=[]),
    "images without a key": put("images", value={"height": 5}),
    "images of another size": put("images", value={**IMAGES, "height": 6}),
    "images of gigapixels": put("images", value={**IMAGES, "height": 2**20}),
    "images with exif of one": put("images", value={**IMAGES, "exif": 1}),
    "another hash of it": configured(lambda config: config.update(config_sha256="0" * 64)),
    "a hash of it that is a list": configured(lambda config: config.update(config_sha256=[])),
    "another digit": replaced_in_config('"n_iter": 1', '"n_iter": 3'),
    "a hash that is short": put("weights_sha256", value="0" * 63),
    "a hash that is a number": put("weights_sha256", value=0),
}
KINDS = {
    f"{group}: {name}": make
    for group, makes in (
        ("file", FILES),
        ("header", HEADERS),
        ("tensors", TENSORS),
        ("weights", WEIGHTS),
        ("configuration", CONFIGURATIONS),
    )
    for name, make in makes.items()
}
"""All of them; `describe_model` accepts those of the group "weights", which it does not read."""


def make(name: str, folder: Path, good: bytes) -> Path:
    """Make a file of one kind in an empty folder; return its path."""
    path = folder / "model.safetensors"
    KINDS[name](path, good)
    return path
