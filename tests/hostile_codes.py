"""Files of codes that are damaged, lie, or are something else: how each is made, by name.

The tests, ``benchmarks/reliability/hostile.py`` and the fuzz target draw on it. `ONLY_VERIFIED` are
lies that the structure does not show: reading accepts them, `verify_codes` does not.
"""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
from scipy.sparse import random_array

from sparsecode import codes_writer, hdf5
from sparsecode.codes import SparseCodes
from sparsecode.storage import write_codes

Edit = Callable[[h5py.File], object]
N_SAMPLES, N_LATENTS = 300, 20


def small_codes() -> SparseCodes:
    """Return the good codes that the files are made from."""
    rng = np.random.default_rng(0)
    matrix = random_array(
        (N_SAMPLES, N_LATENTS), density=0.2, format="csr", dtype=np.float32, rng=rng
    )
    names = np.array([f"folder é/{i}.png" for i in range(N_SAMPLES)], dtype=object)
    obs = {
        "width": rng.integers(1, 4000, N_SAMPLES, dtype=np.int32),
        "label": np.array(["cat", "dog ☃", ""] * N_SAMPLES, dtype=object)[:N_SAMPLES],
    }
    metadata = {
        "config": {"p": 0.8, "nested": [1, None, True]},
        "model_sha256": "a" * 64,
        "failed_path": ["bad.png"],
        "failed_reason": ["truncated"],
    }
    return SparseCodes(matrix, names, obs, {}, metadata)


def small_file(path: Path) -> bytes:
    """Write the good file; return its bytes."""
    write_codes(path, small_codes(), overwrite=True)
    return path.read_bytes()


def old_file(path: Path) -> bytes:
    """Write the good file in HDF5's first format, whose metadata have no checksums; return it."""
    with mock.patch.object(codes_writer, "_DEFAULT_CHUNK", 512):  # smaller, for fuzzing
        small_file(path)
    old = path.with_suffix(".old")
    with h5py.File(path) as source, h5py.File(old, "w", libver="earliest") as target:
        target.attrs.update(source.attrs)
        for name in source:
            source.copy(name, target)
    old.replace(path)
    return path.read_bytes()


def made(name: str, **arguments: Any) -> Edit:
    """Replace a dataset by another one."""

    def edit(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file.create_dataset(name, **arguments)

    return edit


def removed(name: str) -> Edit:
    """Remove a dataset or group."""
    return lambda file: file.__delitem__(name)


def linked(name: str, link: object) -> Edit:
    """Put a link in the place of something."""

    def edit(file: h5py.File) -> None:
        del file[name]
        file[name] = link

    return edit


def value(name: str, at: object, new: object) -> Edit:
    """Change some values of a dataset."""
    return lambda file: file[name].__setitem__(at, new)


def attribute(name: str, key: str, new: object, dtype: object = None) -> Edit:
    """Change an attribute."""
    return lambda file: file[name].attrs.create(key, new, dtype=dtype)


def no_attribute(name: str, key: str) -> Edit:
    """Remove an attribute."""
    return lambda file: file[name].attrs.__delitem__(key)


def resized(name: str, size: int) -> Edit:
    """Claim another number of values."""
    return lambda file: file[name].resize((size,))


def both(*edits: Edit) -> Edit:
    """Make several changes."""
    return lambda file: [edit(file) for edit in edits]


def column(name: str, **arguments: Any) -> Edit:
    """Add a column of `obs`."""

    def edit(file: h5py.File) -> None:
        item = file["obs"].create_dataset(name, **arguments)
        hdf5.encode(item, "array", "0.2.0")
        order = [*file["obs"].attrs["column-order"], name]
        file["obs"].attrs.create("column-order", order, dtype=h5py.string_dtype())

    return edit


def listed(frame: str, *names: str) -> Edit:
    """List other columns than there are."""
    return attribute(frame, "column-order", list(names), h5py.string_dtype())


def bomb(size: int, *names: str, times: int = 2) -> Edit:
    """Compress one huge chunk of zeros more than once: a ratio that no honest file has."""

    def edit(file: h5py.File) -> None:
        for name in names:
            dtype = file[name].dtype
            properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            properties.set_chunk((size,))
            for _ in range(times):
                properties.set_deflate(9)
            del file[name]
            kind, space = h5py.h5t.py_create(dtype), h5py.h5s.create_simple((size,))
            h5py.h5d.create(file.id, name.encode(), kind, space, properties)
            file[name][:] = 0

    return edit


def text_bomb(file: h5py.File) -> None:
    """Let the references of all names lead to one long text."""
    del file["obs/_index"]
    item = file.create_dataset("obs/_index", (N_SAMPLES,), h5py.string_dtype())
    item[:] = "x"
    item[0] = "y" * 10**6
    start = item.id.get_offset()
    name = file.filename
    file.close()
    with Path(name).open("r+b") as raw:
        raw.seek(start)
        reference = raw.read(16)
        raw.seek(start)
        raw.write(reference * N_SAMPLES)


def text_heap(size: int, index: int | None = None) -> Edit:
    """Let the first object of a collection of texts claim a size; HDF5 2.0 goes in circles."""

    def edit(file: h5py.File) -> None:
        name = file.filename
        file.close()
        content = bytearray(Path(name).read_bytes())
        at = content.index(b"GCOL") + 16
        content[at + 8 : at + 16] = size.to_bytes(8, "little")
        if index is not None:
            content[at : at + 2] = index.to_bytes(2, "little")
        Path(name).write_bytes(content)

    return edit


def external_link_in_a_column(file: h5py.File) -> None:
    """Name a column whose path leads through a link to another file."""
    other = Path(file.filename).with_name("other.h5")
    with h5py.File(other, "w") as secrets:
        secrets["x"] = np.arange(N_SAMPLES)
    file["obs/out"] = h5py.ExternalLink(str(other), "/")
    listed("obs", "width", "label", "out/x")(file)


def absolute_column(file: h5py.File) -> None:
    """Name a column by a path from the root."""
    listed("obs", "/X/indptr")(file)


def virtual(file: h5py.File) -> None:
    """Let values come from another dataset."""
    layout = h5py.VirtualLayout(shape=file["X/indices"].shape, dtype="f4")
    del file["X/data"]
    file.create_virtual_dataset("X/data", layout)


def external(file: h5py.File) -> None:
    """Let values come from another file."""
    size = file["X/indices"].shape
    made("X/data", shape=size, dtype="f4", external=[("/dev/zero", 0, h5py.h5f.UNLIMITED)])(file)


def falling_indices(file: h5py.File) -> None:
    """Exchange the first two latents of a row."""
    starts = file["X/indptr"][:]
    at = starts[np.flatnonzero(np.diff(starts) > 1)[0]]
    file["X/indices"][at : at + 2] = file["X/indices"][at : at + 2][::-1]


def repeated_index(file: h5py.File) -> None:
    """Name a latent twice in a row."""
    starts = file["X/indptr"][:]
    at = starts[np.flatnonzero(np.diff(starts) > 1)[0]]
    file["X/indices"][at + 1] = file["X/indices"][at]


def unknown_filter(file: h5py.File) -> None:
    """Ask for a filter that is nowhere."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((N_SAMPLES,))
    properties.set_filter(31999, h5py.h5z.FLAG_OPTIONAL)
    del file["obs/width"]
    kind, space = h5py.h5t.STD_I32LE, h5py.h5s.create_simple((N_SAMPLES,))
    h5py.h5d.create(file.id, b"obs/width", kind, space, properties)
    item = h5py.h5d.open(file.id, b"obs/width")
    item.write_direct_chunk((0,), b"\0" * 4 * N_SAMPLES, 0)


def damaged_chunk(file: h5py.File) -> None:
    """Write what is no gzip."""
    file["X/data"].id.write_direct_chunk((0,), b"nonsense", 0)


TEXT = h5py.string_dtype()
NESTED = "[" * 10**5
NOTHING = h5py.Empty("f4")
PAIR = np.dtype([("a", "f4"), ("b", "i4")])
EDITS: dict[str, Edit] = {
    **{f"no {name}": removed(name) for name in ("X", "obs", "var", "uns", "uns/sparsecode")},
    **{f"no X/{name}": removed(f"X/{name}") for name in ("data", "indices", "indptr")},
    **{
        f"no {name}": removed(f"uns/sparsecode/{name}")
        for name in ("config_json", "content_sha256", "format_version", "failed_path")
    },
    "no obs/_index": removed("obs/_index"),
    "no var/_index": removed("var/_index"),
    "a column missing": removed("obs/label"),
    **{
        f"{name} is a dataset": both(removed(name), made(name, data=1.0))
        for name in ("X", "obs", "var", "uns", "uns/sparsecode")
    },
    **{
        f"X/{name} is a group": both(
            removed(f"X/{name}"), lambda f, name=name: f.create_group(f"X/{name}")
        )
        for name in ("data", "indices", "indptr")
    },
    "obs is a type": both(removed("obs"), lambda f: f.__setitem__("obs", np.dtype("f4"))),
    # links
    "X is a link to another file": linked("X", h5py.ExternalLink("other.h5", "/")),
    "uns is a link to itself": linked("uns", h5py.SoftLink("/uns")),
    "obs is a soft link": linked("obs", h5py.SoftLink("/var")),
    "data is a link to another file": linked("X/data", h5py.ExternalLink("/dev/zero", "x")),
    "data is a link in a circle": both(
        linked("X/data", h5py.SoftLink("/X/loop")),
        lambda f: f["X"].__setitem__("loop", h5py.SoftLink("/X/data")),
    ),
    "a column through another file": external_link_in_a_column,
    "a column by a path": absolute_column,
    "values in another file": external,
    "values in another dataset": virtual,
    # attributes
    "no shape": no_attribute("X", "shape"),
    "shape is text": attribute("X", "shape", "300, 20"),
    "shape is of floats": attribute("X", "shape", [300.0, 20.0]),
    "shape is a scalar": attribute("X", "shape", 300),
    "shape has three entries": attribute("X", "shape", [300, 20, 1]),
    "shape is a table": attribute("X", "shape", [[300, 20]]),
    "shape is of pairs": attribute("X", "shape", np.zeros(2, PAIR)),
    "shape is empty": attribute("X", "shape", NOTHING),
    "shape is a reference": lambda f: f["X"].attrs.create(
        "shape", f["obs"].ref, (), h5py.ref_dtype
    ),
    "shape is below zero": attribute("X", "shape", [-1, 20]),
    "shape of 2**40 rows": attribute("X", "shape", [2**40, 20]),
    "shape of 2**31 latents": attribute("X", "shape", [300, 2**31]),
    "shape of 2**31 - 1 latents": attribute("X", "shape", [300, 2**31 - 1]),
    "shape of 2**63 latents": attribute("X", "shape", [300, 2**63], "u8"),
    "shape of no latents": attribute("X", "shape", [300, 0]),
    "shape of fewer rows": attribute("X", "shape", [299, 20]),
    "encoding-type is a number": attribute("X", "encoding-type", 3),
    "encoding-type is a list": attribute("X", "encoding-type", ["csr_matrix"], TEXT),
    "encoding-type is a pair": attribute("X", "encoding-type", np.zeros((), PAIR)),
    "encoding-type of another matrix": attribute("X", "encoding-type", "csc_matrix"),
    "no encoding-type": no_attribute("obs", "encoding-type"),
    "no column-order": no_attribute("obs", "column-order"),
    "column-order is a text": attribute("obs", "column-order", "width"),
    "column-order is of numbers": attribute("obs", "column-order", [1, 2]),
    "column-order is of references": lambda f: f["obs"].attrs.create(
        "column-order", [f["obs"].ref], (1,), h5py.ref_dtype
    ),
    "column-order is empty": attribute("obs", "column-order", NOTHING),
    "column-order of a thousand names": listed("obs", *["width"] * 2000),
    "column-order names a column twice": listed("obs", "width", "width"),
    "column-order names the index": listed("obs", "_index"),
    "column-order names nothing": listed("obs", ""),
    "column-order names the group": listed("obs", "."),
    "column-order names what is not there": listed("obs", "width", "x\33[2J"),
    # rows
    "indptr falls": value("X/indptr", 5, 10**12),
    "indptr begins later": value("X/indptr", 0, 1),
    "indptr begins below zero": value("X/indptr", 0, -1),
    "indptr ends early": value("X/indptr", N_SAMPLES, 5),
    "indptr ends late": value("X/indptr", N_SAMPLES, 10**12),
    "indptr too short": resized("X/indptr", N_SAMPLES),
    "indptr of floats": made("X/indptr", data=np.zeros(N_SAMPLES + 1)),
    "indptr of no sign": made("X/indptr", data=np.zeros(N_SAMPLES + 1, "u8")),
    "indptr of two dimensions": made("X/indptr", data=np.zeros((N_SAMPLES + 1, 1), "i8")),
    "indptr is a scalar": made("X/indptr", data=0),
    "indptr holds nothing": made("X/indptr", data=h5py.Empty("i8")),
    "indices below zero": value("X/indices", 3, -1),
    "indices too large": value("X/indices", 3, N_LATENTS),
    "indices fall": falling_indices,
    "indices repeat": repeated_index,
    "indices of text": made("X/indices", data=["1"] * 1200, dtype=TEXT),
    "indices too short": resized("X/indices", 1199),
    "data with zeros": value("X/data", 0, 0),
    "data with NaN": value("X/data", 5, np.nan),
    "data with infinity": value("X/data", 5, -np.inf),
    "data of text": made("X/data", data=["1"] * 1200, dtype=TEXT),
    "data of pairs": made("X/data", data=np.zeros(1200, PAIR)),
    "data of complex numbers": made("X/data", data=np.ones(1200, "c8")),
    "data of references": made("X/data", shape=(1200,), dtype=h5py.ref_dtype),
    "data of lists": made("X/data", shape=(1200,), dtype=h5py.vlen_dtype("f4")),
    "data of choices": made("X/data", shape=(1200,), dtype=h5py.enum_dtype({"a": 1})),
    "data of bytes": made("X/data", data=np.zeros(1200, "V4")),
    "data of integers": made("X/data", data=np.ones(1200, "i4")),
    "data of two dimensions": made("X/data", data=np.ones((1200, 1), "f4")),
    "data too short": resized("X/data", 1199),
    "data never stored": made("X/data", shape=(1200,), dtype="f4"),
    "data of a damaged chunk": damaged_chunk,
    "2**40 values that are nowhere": both(resized("X/data", 2**40), resized("X/indices", 2**40)),
    "2**40 rows that are nowhere": both(
        resized("X/indptr", 2**40 + 1), attribute("X", "shape", [2**40, N_LATENTS])
    ),
    "2**40 values in no chunk": made("X/data", shape=(2**40,), dtype="f4"),
    "a bomb of values": both(
        bomb(2 * 10**7, "X/data", "X/indices"), value("X/indptr", N_SAMPLES, 2 * 10**7)
    ),
    "a bomb of rows": both(
        bomb(10**7 + 1, "X/indptr"), attribute("X", "shape", [10**7, N_LATENTS])
    ),
    "a bomb of numbers in a column": both(
        removed("obs/width"), made("obs/width", data=1), bomb(2 * 10**7, "obs/width")
    ),
    "a bomb of text": text_bomb,
    "texts that go in circles": text_heap(2**64 - 16),
    "texts that stay where they are": text_heap(0, index=0),
    "texts longer than their collection": text_heap(2**32),
    # columns
    "names too few": resized("obs/_index", N_SAMPLES - 1),
    "names of numbers too few": made("obs/_index", data=np.arange(5)),
    "names of 2 dimensions": made("obs/_index", shape=(N_SAMPLES, 1), dtype=TEXT),
    "names that are no UTF-8": value("obs/_index", 0, b"\xff.png"),
    "names of fixed length": made("obs/_index", data=np.full(N_SAMPLES, b"a")),
    "names of references": made("obs/_index", shape=(N_SAMPLES,), dtype=h5py.ref_dtype),
    "latents too few": resized("var/_index", N_LATENTS - 1),
    "a column too short": resized("obs/width", N_SAMPLES - 1),
    "a column of pairs": column("pairs", data=np.zeros(N_SAMPLES, PAIR)),
    "a column of lists": column("lists", shape=(N_SAMPLES,), dtype=h5py.vlen_dtype("f4")),
    "a column of references": column("r", shape=(N_SAMPLES,), dtype=h5py.ref_dtype),
    "a column of an unknown filter": unknown_filter,
    "categories missing": both(
        removed("obs/label"),
        made("obs/label/codes", data=np.zeros(N_SAMPLES, "i1")),
    ),
    "categories that are not there": both(
        removed("obs/label"),
        made("obs/label/codes", data=np.full(N_SAMPLES, 5, "i1")),
        made("obs/label/categories", data=["a"], dtype=TEXT),
    ),
    "categories by fractions": both(
        removed("obs/label"),
        made("obs/label/codes", data=np.zeros(N_SAMPLES)),
        made("obs/label/categories", data=["a"], dtype=TEXT),
    ),
    # fields
    "a later version": value("uns/sparsecode/format_version", (), 2),
    "a version that is text": made("uns/sparsecode/format_version", data="1\33[2J", dtype=TEXT),
    "a version with a fraction": made("uns/sparsecode/format_version", data=1.5),
    "a version of a billion": made("uns/sparsecode/format_version", shape=(10**9,), dtype="i8"),
    "a version of pairs": made("uns/sparsecode/format_version", data=np.zeros((), PAIR)),
    "config is no JSON": value("uns/sparsecode/config_json", (), "{"),
    "config is a list": value("uns/sparsecode/config_json", (), "[]"),
    "config is nested": value("uns/sparsecode/config_json", (), NESTED),
    "config has NaN": value("uns/sparsecode/config_json", (), '{"p": NaN}'),
    "config has a number that overflows": value("uns/sparsecode/config_json", (), '{"p": 1e999}'),
    "config has a number of many digits": value(
        "uns/sparsecode/config_json", (), f'{{"p": {"9" * 10**5}}}'
    ),
    "config has a key twice": value("uns/sparsecode/config_json", (), '{"p": 1, "p": 2}'),
    "config of 5 million values": value(
        "uns/sparsecode/config_json", (), f'{{"p": [{"0," * 5_000_000}0]}}'
    ),
    "config is no UTF-8": value("uns/sparsecode/config_json", (), b"\xff"),
    "config is a number": made("uns/sparsecode/config_json", data=5),
    "config is a list of text": made("uns/sparsecode/config_json", data=["{}"], dtype=TEXT),
    "config is a reference": made("uns/sparsecode/config_json", shape=(), dtype=h5py.ref_dtype),
    "a hash that is a number": made("uns/sparsecode/model_sha256", data=5),
    "failures without reasons": resized("uns/sparsecode/failed_reason", 0),
    "failures that are a text": made("uns/sparsecode/failed_path", data="x", dtype=TEXT),
    "failures that are pairs": made("uns/sparsecode/failed_path", data=np.zeros(1, PAIR)),
}
_IN_THE_VALUES = (
    *("indptr begins", "indptr ends", "indptr falls", "indices below", "indices too large"),
    *("indices fall", "indices repeat", "data with", "data of a damaged", "names that are no"),
    *("a bomb of text", "a column of an unknown", "categories that", "categories by"),
)
# `describe_codes` reads no values, so some do not stop it.
STRUCTURE = frozenset(name for name in EDITS if not name.startswith(_IN_THE_VALUES))
ONLY_VERIFIED: dict[str, Edit] = {
    "another code": lambda f: value("X/data", 0, f["X/data"][0] + 1)(f),
    "another name": value("obs/_index", 0, "other.png"),
    "a name twice": lambda f: value("obs/_index", 1, f["obs/_index"][0])(f),
    "another frequency": value("var/activation_frequency", 0, 0.5),
    "a column that is not listed": made("obs/extra", data=np.arange(N_SAMPLES)),
    "another hash": value("uns/sparsecode/content_sha256", (), "0" * 64),
    "a hash that commands the terminal": value("uns/sparsecode/content_sha256", (), "\33[2J"),
    "another config": value("uns/sparsecode/config_json", (), "{}"),
    "another model": value("uns/sparsecode/model_sha256", (), "b" * 64),
    "a failure less": both(
        resized("uns/sparsecode/failed_path", 0), resized("uns/sparsecode/failed_reason", 0)
    ),
}


def _link(target: str) -> Callable[[Path, bytes], object]:
    return lambda path, _: path.symlink_to(target)


FILES: dict[str, Callable[[Path, bytes], object]] = {
    "empty": lambda path, _: path.touch(),
    "three bytes": lambda path, _: path.write_bytes(b"\x89HD"),
    "garbage": lambda path, _: path.write_bytes(bytes(range(256)) * 9),
    "a pickle": lambda path, _: path.write_bytes(pickle.dumps([1, 2])),
    "only a signature": lambda path, _: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(200)),
    "a folder": lambda path, _: path.mkdir(),
    "a FIFO": lambda path, _: os.mkfifo(path),
    "a link to itself": _link("codes.h5"),
    "a link to /dev/zero": _link("/dev/zero"),
    "cut off": lambda path, good: path.write_bytes(good[: len(good) // 2]),
    "without its last byte": lambda path, good: path.write_bytes(good[:-1]),
}
KINDS = [*(f"file: {name}" for name in FILES), *(f"codes: {name}" for name in EDITS)]
"""All that reading refuses."""


def make(name: str, folder: Path, good: bytes) -> Path:
    """Make a file of one kind, or one that only `verify_codes` refuses; return its path."""
    path = folder / "codes.h5"
    group, _, rest = name.partition(": ")
    if group == "file":
        FILES[rest](path, good)
        return path
    path.write_bytes(good)
    with h5py.File(path, "r+") as file:
        (EDITS | ONLY_VERIFIED)[rest](file)
    return path
