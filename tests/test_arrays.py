import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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


def save_parquet_lists(path, kind=None):
    rows = pa.array(DENSE.tolist(), kind or pa.list_(pa.float32()))
    pyarrow.parquet.write_table(pa.table({"embedding": rows}), path, row_group_size=4)


def save_parquet_large_lists(path):
    save_parquet_lists(path, pa.large_list(pa.float32()))


def save_parquet_fixed_lists(path):
    save_parquet_lists(path, pa.list_(pa.float32(), 6))


def save_fortran_npy(path):
    np.save(path, np.asfortranarray(DENSE))


def save_npy_2(path):
    with path.open("wb") as file:
        np.lib.format.write_array(file, DENSE, version=(2, 0))


SAVERS = [
    (save_npy, "x.npy"),
    (save_fortran_npy, "x.npy"),
    (save_npy_2, "x.npy"),
    (save_npz, "x.npz"),
    (save_sparse_npz, "x.npz"),
    (save_csc_npz, "x.npz"),
    (save_h5, "x.h5"),
    (save_h5_x, "x.H5"),
    (save_h5ad, "x.h5ad"),
    (save_parquet, "x.parquet"),
    (save_parquet_lists, "x.parquet"),
    (save_parquet_large_lists, "x.parquet"),
    (save_parquet_fixed_lists, "x.parquet"),
]


@pytest.mark.parametrize(("save", "name"), SAVERS)
def test_every_format_gives_the_same_rows(tmp_path, save, name):
    save(tmp_path / name)
    array = open_array(tmp_path / name)
    assert is_array_path(tmp_path / name)
    assert array.shape == (10, 6)
    assert not array.has_labels
    np.testing.assert_array_equal(as_dense(array.read(0, 10)), DENSE)
    for start, stop in ((0, 3), (3, 9), (9, 10), (4, 4)):
        rows = array.read(start, stop)
        assert rows.dtype == np.float32
        np.testing.assert_array_equal(as_dense(rows), DENSE[start:stop])


def test_rows_without_names_are_numbered(tmp_path):
    save_npy(tmp_path / "x.npy")
    array = open_array(tmp_path / "x.npy")
    assert array.names(0, 2) == ["row_0000000", "row_0000001"]
    assert array.names(8, 99) == ["row_0000008", "row_0000009"]
    assert array.read(8, 99).shape == (2, 6)
    with pytest.raises(RefusedError, match="its rows have no labels"):
        array.labels(0, 1)


def test_images_in_fortran_order_and_foreign_byte_order(tmp_path):
    images = np.random.default_rng(0).integers(0, 999, (5, 4, 3)).astype(">i4")
    for order in "CF":
        np.save(tmp_path / "x.npy", np.asarray(images, order=order))
        array = open_array(tmp_path / "x.npy")
        np.testing.assert_array_equal(array.read(1, 4), images[1:4].reshape(3, 12))


MANY = 300
X = np.random.default_rng(1).random((MANY, 5)).astype(np.float32)
X[X < 0.5] = 0
LABELS = ["", "cat", "dog"] * 100


def save_many_h5ad(path, rows):
    labels = pd.Categorical([label or None for label in LABELS])
    obs = pd.DataFrame({"label": labels}, index=[f"n{i}" for i in range(MANY)])
    anndata.AnnData(rows, obs=obs).write_h5ad(path)


def save_many_parquet(path, columns, texts):
    columns["label"] = pa.array([label or None for label in LABELS]).cast(texts)
    columns["name"] = [f"n{i}" for i in range(MANY)]
    table = pa.table(columns)
    with pyarrow.parquet.ParquetWriter(path, table.schema) as writer:
        for start, stop in ((0, 7), (7, 7), (7, 200), (200, 201), (201, MANY)):
            writer.write_table(table.slice(start, stop - start), row_group_size=MANY)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """The same rows, names and labels in files of several chunks or row groups."""
    folder = tmp_path_factory.mktemp("many")
    save_many_h5ad(folder / "dense.h5ad", X)
    save_many_h5ad(folder / "sparse.h5ad", sparse.csr_matrix(X))
    lists = {"x": pa.array(X.tolist(), pa.list_(pa.float32()))}
    save_many_parquet(folder / "lists.parquet", lists, pa.string())
    plain = {f"x{i}": X[:, i] for i in range(5)}
    save_many_parquet(folder / "plain.parquet", plain, pa.dictionary(pa.int8(), pa.string()))
    return [open_array(path) for path in sorted(folder.iterdir())]


def check_slice(array, start, stop):
    np.testing.assert_array_equal(as_dense(array.read(start, stop)), X[start:stop])
    assert array.names(start, stop) == [f"n{i}" for i in range(*slice(start, stop).indices(MANY))]
    assert array.labels(start, stop) == LABELS[start:stop]


SLICES = st.lists(st.tuples(st.integers(0, MANY), st.integers(0, MANY + 9)), max_size=5)


@settings(max_examples=25, deadline=None)
@given(slices=SLICES, step=st.integers(30, MANY))
def test_any_slices_in_any_order(many, slices, step):
    in_turn = [(start, start + step) for start in range(0, MANY, step)]
    for array in many:
        assert array.shape == (MANY, 5)
        for start, stop in slices + in_turn:
            check_slice(array, start, stop)


def test_arrays_cross_processes_and_threads(many):
    for array in many:
        array.read(0, 10)
        check_slice(pickle.loads(pickle.dumps(array)), 10, 20)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(check_slice, [array] * 15, range(0, MANY, 20), range(20, MANY + 1, 20)))


@pytest.mark.parametrize("categories", [False, True])
def test_anndata_gives_names_and_labels(tmp_path, categories):
    obs = pd.DataFrame({"label": ["cat", "dog"] * 5}, index=[f"cell {i}" for i in range(10)])
    if categories:
        obs["label"] = obs["label"].astype("category")
    data = anndata.AnnData(DENSE, obs=obs)
    data.write_h5ad(tmp_path / "x.h5ad", convert_strings_to_categoricals=categories)
    array = open_array(tmp_path / "x.h5ad")
    assert array.names(0, 10) == list(obs.index)
    assert array.labels(0, 10) == ["cat", "dog"] * 5
    np.testing.assert_array_equal(array.read(0, 10), DENSE)


def test_own_codes_are_arrays_too(tmp_path):
    names = np.array([f"{i}.png" for i in range(10)], dtype=object)
    write_codes(tmp_path / "c.h5", SparseCodes(CSR, names, {"label": ["a"] * 10}))
    array = open_array(tmp_path / "c.h5")
    assert array.names(0, 10) == list(names)
    assert array.labels(0, 10) == ["a"] * 10
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


def write_parquet(path, **columns):
    pyarrow.parquet.write_table(pa.table(columns), path)
    return path


def test_columns_called_name_and_label_are_no_features(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", label=[3, None], x=[0.5, 1], name=["a", "b"])
    array = open_array(path)
    np.testing.assert_array_equal(array.read(0, 2), [[0.5], [1]])
    assert array.labels(0, 2) == ["3", ""]
    assert array.names(0, 2) == ["a", "b"]


def test_columns_of_several_types_have_their_common_type(tmp_path):
    columns = {"a": pa.array([1, 2], pa.int8()), "b": [True, False]}
    array = open_array(write_parquet(tmp_path / "x.parquet", **columns))
    assert array.read(0, 2).dtype == np.int8
    np.testing.assert_array_equal(array.read(0, 2), [[1, 1], [2, 0]])


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"name": ["a"], "label": ["b"]}, "no columns of numbers"),
        ({"x": [[1.0]], "y": [1.0]}, r"columns \['x'\] are lists"),
        ({"x": [[1.0]], "y": [[1.0]]}, r"columns \['x', 'y'\] are lists"),
        ({"x": [[[1.0]]]}, r"columns \['x'\] are not numeric"),
        ({"x": [["a"]], "y": [1.0]}, r"columns \['x'\] are not numeric"),
        ({"x": [None, [1.0]]}, "column 'x' has missing values"),
        ({"x": pa.array([[], []], pa.list_(pa.float32()))}, "nothing to encode"),
        ({"x": pa.array([], pa.float32())}, "nothing to encode"),
        ({"x": pa.array([], pa.list_(pa.float32()))}, "nothing to encode"),
        ({"label": [[1.0]], "x": [1.0]}, r"columns \['label'\] are lists"),
    ],
)
def test_unfit_tables_are_refused(tmp_path, columns, reason):
    path = write_parquet(tmp_path / "x.parquet", **columns)
    with pytest.raises(RefusedError, match=rf"x\.parquet' cannot be used as input: .*{reason}"):
        open_array(path)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"x": [[1.0, 2.0], [1.0]]}, "column 'x' has lists of 1 numbers and of 2"),
        ({"x": [[1.0], None]}, "column 'x' has missing values"),
        ({"x": [[1.0], [None]]}, "column 'x' has missing values"),
        ({"x": [1, None]}, "column 'x' has missing values"),
        ({"x": pa.array([[1.0], None], pa.list_(pa.float32(), 1))}, "column 'x' has missing"),
    ],
)
def test_holes_in_tables_are_refused_when_read(tmp_path, columns, reason):
    array = open_array(write_parquet(tmp_path / "x.parquet", **columns))
    assert array.read(0, 1).shape[0] == 1
    with pytest.raises(RefusedError, match=reason):
        array.read(0, 2)


def test_a_row_without_its_name_is_refused(tmp_path):
    array = open_array(write_parquet(tmp_path / "x.parquet", name=["a", None], x=[1, 2]))
    with pytest.raises(RefusedError, match="column 'name' has missing values"):
        array.names(0, 2)


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array([1.0])] * 2, names=["x", "x"])
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(RefusedError, match=r"columns \['x'\] are there twice"):
        open_array(tmp_path / "x.parquet")


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


@pytest.mark.parametrize(("save", "name"), SAVERS)
def test_a_file_cut_short_is_refused_at_once(tmp_path, save, name):
    (tmp_path / "whole").mkdir()
    save(tmp_path / "whole" / name)
    content = (tmp_path / "whole" / name).read_bytes()
    for n in (0, 5, len(content) // 2, len(content) - 1):
        (tmp_path / name).write_bytes(content[:n])
        with pytest.raises(RefusedError, match=r"x\.\w+' cannot be used as input: "):
            open_array(tmp_path / name).read(0, 10)
        if name.endswith(("npy", "parquet")):
            with pytest.raises(RefusedError):
                open_array(tmp_path / name)


def test_an_npy_cut_short_says_so(tmp_path):
    save_npy(tmp_path / "x.npy")
    array = open_array(tmp_path / "x.npy")
    os.truncate(tmp_path / "x.npy", 300)
    with pytest.raises(RefusedError, match=r"x\.npy' .*it has 300 bytes, but .* needs 368"):
        open_array(tmp_path / "x.npy")
    with pytest.raises(RefusedError, match=r"x\.npy' .*became shorter"):
        array.read(5, 10)
    assert array.read(0, 5).shape == (5, 6)


def test_npy_headers_that_no_array_of_numbers_has(tmp_path):
    fields = np.zeros(3, [("é", "f4"), ("名", "f4")])
    with pytest.warns(UserWarning, match=r"format 3\.0"):
        np.save(tmp_path / "x.npy", fields)
    with pytest.raises(RefusedError, match=r"version \(3, 0\) is none of \[\(1, 0\)"):
        open_array(tmp_path / "x.npy")
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1152921504606846976, 64), }"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(RefusedError, match="cut short"):
        open_array(tmp_path / "x.npy")
    for shape in (b"(-4, 64)", b"(-4, -64)"):
        (tmp_path / "x.npy").write_bytes(content.replace(b"(1152921504606846976, 64)", shape))
        with pytest.raises(RefusedError, match="cannot be used as input"):
            open_array(tmp_path / "x.npy")


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.h5", "x.parquet"])
def test_what_is_no_regular_file_is_refused(tmp_path, name):
    os.mkfifo(tmp_path / name)  # opening it would wait for ever
    (tmp_path / "folder" / name).mkdir(parents=True)
    for path in (tmp_path / name, tmp_path / "folder" / name):
        with pytest.raises(RefusedError, match="it is not a regular file"):
            open_array(path)


def damage(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


def replace(file, key, values):
    del file[key]
    file[key] = values


@pytest.mark.parametrize("dtype", ["i8", "i4", "u8"])
@pytest.mark.parametrize(("at", "value"), [(3, 29), (3, 10**6), (4, 0)])
def test_row_starts_that_lie_are_refused_when_read(tmp_path, dtype, at, value):
    save_h5ad(tmp_path / "x.h5ad")

    def change(file):
        starts = file["X/indptr"][:].astype(dtype)
        starts[at] = value
        replace(file, "X/indptr", starts)

    damage(tmp_path / "x.h5ad", change)
    array = open_array(tmp_path / "x.h5ad")
    with pytest.raises(RefusedError, match="indptr falls, or leaves its indices"):
        [array.read(row, row + 1) for row in range(10)]


@pytest.mark.parametrize(
    ("key", "values", "reason"),
    [
        ("X/indptr", np.arange(10), "indptr does not fit"),
        ("X/indptr", np.arange(11) + 1, "indptr does not fit"),
        ("X/indptr", np.arange(11.0), "indptr does not fit"),
        ("X/data", np.ones(3), "indptr does not fit"),
        ("obs/_index", ["a"] * 9, "its obs does not have one entry per row"),
        ("obs/label/codes", np.zeros(9, np.int8), "its obs does not have one entry per row"),
        ("obs/label/codes", np.zeros((10, 1), np.int8), "has 2 dimensions; 1 is needed"),
        ("obs/label", h5py.ExternalLink("other.h5", "obs/label"), "label is missing or a link"),
        ("obs/label/codes", h5py.SoftLink("/obs/label/categories"), "missing or a link"),
        ("obs/label/categories", h5py.Empty("f4"), "not a dataset with values"),
        ("obs", h5py.SoftLink("/X"), "its obs is a link"),
        ("X", h5py.ExternalLink("other.h5", "X"), "its X is a link"),
    ],
)
def test_lies_seen_at_once(tmp_path, key, values, reason):
    obs = pd.DataFrame({"label": pd.Categorical(["a", "b"] * 5)}, index=[f"{i}" for i in range(10)])
    for name in ("x.h5ad", "other.h5"):
        anndata.AnnData(sparse.csr_matrix(CSR), obs=obs).write_h5ad(tmp_path / name)
    damage(tmp_path / "x.h5ad", lambda file: replace(file, key, values))
    with pytest.raises(RefusedError, match=reason):
        open_array(tmp_path / "x.h5ad")


@pytest.mark.parametrize(
    ("codes", "reason"),
    [
        (np.full(10, 2), "codes outside of its 2 categories"),
        (np.full(10, -2), "codes outside of its 2 categories"),
        (np.zeros(10), "integers are needed"),
    ],
)
def test_codes_without_a_category_are_refused_when_read(tmp_path, codes, reason):
    obs = pd.DataFrame({"label": pd.Categorical(["a", "b"] * 5)}, index=[f"{i}" for i in range(10)])
    anndata.AnnData(DENSE, obs=obs).write_h5ad(tmp_path / "x.h5ad")
    damage(tmp_path / "x.h5ad", lambda file: replace(file, "obs/label/codes", codes))
    array = open_array(tmp_path / "x.h5ad")
    with pytest.raises(RefusedError, match=reason):
        array.labels(3, 5)


def test_names_that_are_not_text_are_refused_when_read(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["X"] = DENSE
        file["obs/_index"] = np.array([b"a"] * 9 + [b"\xff"], object)
    array = open_array(tmp_path / "x.h5")
    assert array.names(0, 9) == ["a"] * 9
    with pytest.raises(RefusedError, match="utf-8"):
        array.names(9, 10)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(NoInputError, match="does not exist"):
        open_array(tmp_path / "x.npy")
    assert not is_array_path("x.png")
    with pytest.raises(RefusedError, match=r"not an array file; known are \.npy"):
        open_array(tmp_path / "x.png")


def test_missing_pyarrow_names_the_extra(tmp_path, monkeypatch):
    save_parquet(tmp_path / "x.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(RefusedError, match=r"pip install 'sparsecode\[parquet\]'"):
        open_array(tmp_path / "x.parquet")
