"""Foreign ``.h5`` and ``.h5ad`` files that cannot be used as input: how each is made, by name.

Those of sparse rows are made from a file of codes, which is an ``.h5ad`` as well.
"""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from tests.hostile_codes import (
    EDITS,
    N_SAMPLES,
    PAIR,
    TEXT,
    attribute,
    both,
    linked,
    made,
    no_attribute,
    removed,
    small_file,
    value,
)

Make = Callable[[h5py.File], object]

# Of the damage to codes, what is not damage to rows: another reader may allow it.
_ALLOWED = (
    *("no obs", "no var", "no uns", "no config", "no content", "no format", "no failed", "no enc"),
    *("var is", "uns ", "no column-order", "column-order", "a column", "latents", "data with"),
    *("a later", "a version", "config ", "a hash", "failures", "indices fall", "indices repeat"),
    *("data of integers", "shape of fewer columns", "indptr of no sign", "a bomb of numbers"),
    *("obs is a", "uns/", "shape of 2**31 - 1"),
)
SPARSE: dict[str, Make] = {
    name: edit for name, edit in EDITS.items() if not name.startswith(_ALLOWED)
} | {
    "_index is a number": attribute("obs", "_index", 5),
    "_index is a pair": attribute("obs", "_index", np.zeros((), PAIR)),
    "_index is a reference": lambda f: f["obs"].attrs.create(
        "_index", f["obs"].ref, (), h5py.ref_dtype
    ),
    "_index leads elsewhere": attribute("obs", "_index", "/X/indptr"),
    "no encoding-type of X": no_attribute("X", "encoding-type"),
    "labels of references": both(
        removed("obs/label"), made("obs/label", shape=(N_SAMPLES,), dtype=h5py.ref_dtype)
    ),
    "labels too few": made("obs/label", data=["a"], dtype=TEXT),
    "labels that are no UTF-8": value("obs/label", 0, b"\xff"),
    "labels in another file": linked("obs/label", h5py.ExternalLink("other.h5", "/x")),
    "indices of rows in another file": made(
        "X/indices", shape=(1200,), dtype="i4", external=[("/dev/zero", 0, h5py.h5f.UNLIMITED)]
    ),
}


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(9, 4), dtype="f4")
    file.create_virtual_dataset("X", layout)


def _bomb(file: h5py.File) -> None:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((10**7, 4))
    properties.set_deflate(9)
    properties.set_deflate(9)
    space = h5py.h5s.create_simple((10**7, 4))
    h5py.h5d.create(file.id, b"X", h5py.h5t.IEEE_F32LE, space, properties)
    file["X"][:] = 0


def _stored(**arguments: object) -> Make:
    return lambda file: file.create_dataset("X", **{"dtype": "f4", **arguments})


def _sparse_with(**attributes: object) -> Make:
    def make(file: h5py.File) -> None:
        group = file.create_group("X")
        group.attrs.update(attributes)

    return make


def _linked_in_a_circle(file: h5py.File) -> None:
    group = file.create_group("a")
    group["b"] = group


DENSE: dict[str, Make] = {
    "nothing": lambda _: None,
    "groups in a circle": _linked_in_a_circle,
    "two tables": lambda file: [file.create_dataset(name, data=np.eye(3)) for name in "ab"],
    "X in another file": lambda f: f.__setitem__("X", h5py.ExternalLink("/dev/zero", "x")),
    "X is a link to itself": lambda f: f.__setitem__("X", h5py.SoftLink("/X")),
    "X is a type": lambda f: f.__setitem__("X", np.dtype("f4")),
    "X is a scalar": _stored(data=1.0),
    "X holds nothing": _stored(data=h5py.Empty("f4")),
    "X of one dimension": _stored(data=np.ones(9)),
    "X without rows": _stored(shape=(0, 4)),
    "X without columns": _stored(shape=(4, 0)),
    "X of text": _stored(data=[["a"]], dtype=TEXT),
    "X of pairs": _stored(data=np.zeros((9, 4), PAIR), dtype=PAIR),
    "X of references": _stored(shape=(9, 4), dtype=h5py.ref_dtype),
    "X of lists": _stored(shape=(9, 4), dtype=h5py.vlen_dtype("f4")),
    "X of complex numbers": _stored(data=np.ones((9, 4), "c8"), dtype="c8"),
    "X never stored": _stored(shape=(9, 4)),
    "X of 2**40 rows that are nowhere": _stored(shape=(2**40, 4), chunks=(1000, 4)),
    "X from another dataset": _virtual,
    "X from another file": _stored(shape=(9, 4), external=[("/dev/zero", 0, h5py.h5f.UNLIMITED)]),
    "X is a bomb": _bomb,
    "X without attributes": _sparse_with(),
    "X of columns": _sparse_with(**{"encoding-type": "csc_matrix"}),
    "X whose type is a pair": _sparse_with(**{"encoding-type": np.zeros((), PAIR)}),
    "X without parts": _sparse_with(**{"encoding-type": "csr_matrix", "shape": [3, 3]}),
    "X without a shape": _sparse_with(**{"encoding-type": "csr_matrix"}),
}
KINDS = [*(f"dense: {name}" for name in DENSE), *(f"sparse: {name}" for name in SPARSE)]


def make(name: str, folder: Path) -> Path:
    """Make a file of one kind; return its path."""
    path = folder / "rows.h5ad"
    group, _, rest = name.partition(": ")
    if group == "sparse":
        small_file(path)
    with h5py.File(path, "a") as file:
        (SPARSE if group == "sparse" else DENSE)[rest](file)
    return path
