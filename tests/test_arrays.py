import sys

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from scipy import sparse

from sparsecode.arrays import is_array_path, open_array
from sparsecode.codes import SparseCodes
from sparsecode.errors import NoInputError, RefusedError
from sparsecode.storage import write_codes

DENSE = np.random.default_rng(0).random((10, 6)).astype(np.float32)
DENSE[DENSE < 0.6] = 0
CSR = sparse.csr_array(DENSE)


def as_dense(rows):
    return rows.toarray() if sparse.issparse(rows) else rows


def save_npy(path):
    np.save(path, DENSE)


def save_npz(path):
    np.savez(path, X=DENSE, y=np.arange(10))


def save_sparse_npz(path):
    sparse.save_npz(path, CSR)


def save_csc_npz(path):
    sparse.save_npz(path, sparse.csc_array(DENSE))


def save_h5(path):
    with h5py.File(path, "w") as file:
        file["group/embeddings"] = DENSE
        file["y"] = np.arange(10)


def save_h5_x(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("X", data=DENSE, chunks=(3, 2), compression="gzip")
        file["other"] = DENSE[:5]


def save_h5ad(path):
    anndata.AnnData(sparse.csr_matrix(CSR)).write_h5ad(path)


def save_parquet(path):
    table = pa.table({f"c{i}": DENSE[:, i] for i in range(6)})
    pyarrow.parquet.write_table(table, path)


SAVERS = [
    (save_npy, "x.npy"),
    (save_npz, "x.npz"),
    (save_sparse_npz, "x.npz"),
    (save_csc_npz, "x.npz"),
    (save_h5, "x.h5"),
    (save_h5_x, "x.H5"),
    (save_h5ad, "x.h5ad"),
    (save_parquet, "x.parquet"),
]


@pytest.mark.parametrize(("save", "name"), SAVERS)
def test_every_format_gives_the_same_rows(tmp_path, save, name):
    save(tmp_path / name)
    array = open_array(tmp_path / name)
    assert is_array_path(tmp_path / name)
    assert array.shape == (10, 6)
    assert array.labels is None
    np.testing.assert_array_equal(as_dense(array.read(0, 10)), DENSE)
    for start, stop in ((0, 3), (3, 9), (9, 10), (4, 4)):
        rows = array.read(start, stop)
        assert rows.dtype == np.float32
        np.testing.assert_array_equal(as_dense(rows), DENSE[start:stop])


def test_rows_without_names_are_numbered(tmp_path):
    save_npy(tmp_path / "x.npy")
    assert open_array(tmp_path / "x.npy").names[:2] == ["row_0000000", "row_0000001"]


@pytest.mark.parametrize("categories", [False, True])
def test_anndata_gives_names_and_labels(tmp_path, categories):
    obs = pd.DataFrame({"label": ["cat", "dog"] * 5}, index=[f"cell {i}" for i in range(10)])
    if categories:
        obs["label"] = obs["label"].astype("category")
    data = anndata.AnnData(DENSE, obs=obs)
    data.write_h5ad(tmp_path / "x.h5ad", convert_strings_to_categoricals=categories)
    array = open_array(tmp_path / "x.h5ad")
    assert array.names == list(obs.index)
    assert array.labels == ["cat", "dog"] * 5
    np.testing.assert_array_equal(array.read(0, 10), DENSE)


def test_own_codes_are_arrays_too(tmp_path):
    names = np.array([f"{i}.png" for i in range(10)], dtype=object)
    write_codes(tmp_path / "c.h5", SparseCodes(CSR, names, {"label": ["a"] * 10}))
    array = open_array(tmp_path / "c.h5")
    assert array.names == list(names)
    assert array.labels == ["a"] * 10
    np.testing.assert_array_equal(as_dense(array.read(2, 5)), DENSE[2:5])


@pytest.mark.parametrize("name", ["x.npy", "x.h5"])
def test_images_are_flattened_and_uint8_stays(tmp_path, name):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 2), dtype=np.uint8)
    if name == "x.npy":
        np.save(tmp_path / name, images)
    else:
        with h5py.File(tmp_path / name, "w") as file:
            file["images"] = images
    array = open_array(tmp_path / name)
    assert array.shape == (5, 24)
    rows = array.read(1, 4)
    assert rows.dtype == np.uint8
    np.testing.assert_array_equal(rows, images[1:4].reshape(3, 24))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.array([[1], [1, 2]], dtype=object), "Python objects|Object arrays"),
        (np.array([["a", "b"]]), "type <U1"),
        (np.ones((2, 2), dtype=complex), "type complex128"),
        (np.float32(1), r"shape is \(\)"),
        (np.ones(5), r"shape is \(5,\); \(samples, features\)"),
        (np.ones((0, 5)), "nothing to encode|mmap"),
        (np.ones((5, 0)), "nothing to encode|mmap"),
    ],
)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_unfit_arrays_are_refused(tmp_path, values, reason, suffix):
    path = tmp_path / f"x.{suffix}"
    (np.save if suffix == "npy" else np.savez)(path, values)
    with pytest.raises(RefusedError, match=rf"x\.{suffix}' cannot be used as input: .*({reason})"):
        open_array(path)


def test_ambiguous_files_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", a=DENSE, b=DENSE)
    with pytest.raises(RefusedError, match=r"\['a', 'b'\]"):
        open_array(tmp_path / "x.npz")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a"], file["b"] = DENSE, DENSE
    with pytest.raises(RefusedError, match=r"no \"X\", and \['a', 'b'\]"):
        open_array(tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a"] = DENSE[0]
    with pytest.raises(RefusedError, match=r"no \"X\", and no datasets"):
        open_array(tmp_path / "x.h5")


def test_text_columns_and_csc_are_refused(tmp_path):
    pyarrow.parquet.write_table(pa.table({"a": [1.0], "b": ["x"]}), tmp_path / "x.parquet")
    with pytest.raises(RefusedError, match=r"columns \['b'\] are not numeric"):
        open_array(tmp_path / "x.parquet")
    anndata.AnnData(sparse.csc_matrix(DENSE)).write_h5ad(tmp_path / "x.h5ad")
    with pytest.raises(RefusedError, match="csc_matrix; save it as a CSR"):
        open_array(tmp_path / "x.h5ad")


@pytest.mark.parametrize(("save", "name"), SAVERS)
def test_damaged_files_are_refused_with_their_path(tmp_path, save, name):
    save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for damaged in (b"", b"garbage" * 40, whole[: len(whole) // 2]):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(RefusedError, match=f"{name}' cannot be used as input: ."):
            open_array(tmp_path / name).read(0, 10)


def test_sparse_indices_are_not_trusted(tmp_path):
    indices = CSR.indices.copy()
    indices[-1] = 10**6
    np.savez(
        tmp_path / "x.npz",
        format=b"csc",
        shape=CSR.shape[::-1],
        data=CSR.data,
        indices=indices,
        indptr=CSR.indptr,
    )
    with pytest.raises(RefusedError, match="cannot be used as input"):
        open_array(tmp_path / "x.npz")
    save_h5ad(tmp_path / "x.h5ad")
    with h5py.File(tmp_path / "x.h5ad", "r+") as file:
        file["X/indices"][-1] = 10**6
    with pytest.raises(RefusedError, match="cannot be used as input"):
        open_array(tmp_path / "x.h5ad").read(0, 10)


def test_links_out_of_the_file_are_refused(tmp_path):
    save_h5_x(tmp_path / "other.h5")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["X"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "X")
    with pytest.raises(RefusedError, match="cannot be used as input"):
        open_array(tmp_path / "x.h5")


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(NoInputError, match="does not exist"):
        open_array(tmp_path / "x.npy")
    assert not is_array_path("x.png")
    with pytest.raises(RefusedError, match=r"not an array file; known are \.npy"):
        open_array(tmp_path / "x.png")


def test_missing_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(RefusedError, match=r"pip install 'sparsecode\[parquet\]'"):
        open_array(tmp_path / "x.parquet")
