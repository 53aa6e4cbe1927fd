import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from scipy import sparse

from sparsecode import SparseCodes
from sparsecode.errors import NoInputError, RefusedError
from sparsecode.labels import read_labels, usable_labels


@pytest.fixture
def codes():
    names = np.array(["a/1.png", "a/2.png", "b/1.png"], dtype=object)
    obs = {"label": np.array(["a", "a", "b"], object), "width": np.array([8, 8, 9], np.int32)}
    return SparseCodes(sparse.csr_array(np.eye(3, dtype=np.float32)), names, obs)


def test_columns_of_the_codes(codes):
    assert list(read_labels(codes)) == ["a", "a", "b"]
    assert list(read_labels(codes, column="width")) == [8, 8, 9]
    with pytest.raises(RefusedError, match=r"no column 'age' \(they have: label, width\)"):
        read_labels(codes, column="age")


def test_csv_by_name_in_any_order(codes, tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("digit,name\n3,b/1.png\n1,a/1.png\n9,elsewhere.png\n")
    labels = read_labels(codes, path)
    np.testing.assert_array_equal(labels, [1, np.nan, 3])
    np.testing.assert_array_equal(usable_labels(labels), [True, False, True])
    path.write_text("file,kind,age\nb/1.png,cat,3\na/2.png,dog,\n")
    labels = read_labels(codes, path, "kind")
    assert list(labels) == [None, "dog", "cat"]
    np.testing.assert_array_equal(usable_labels(labels), [False, True, True])


def test_parquet_by_name(codes, tmp_path):
    path = tmp_path / "labels.parquet"
    table = pa.table({"name": ["b/1.png", "a/1.png", "a/2.png"], "age": [3.5, 1.0, None]})
    parquet.write_table(table, path)
    np.testing.assert_array_equal(read_labels(codes, path), [1.0, np.nan, 3.5])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be read"),
        ("name,x\nother,1\n", "names none of the 3 rows"),
        ("name,x\na/1.png,1\na/1.png,2\n", "names a row twice"),
        ("name,x,y\na/1.png,1,2\n", "which column.*x, y"),
        ("name\na/1.png\n", "Give --column, one of: none"),
        ("name,x\na/1.png\n", "without 2 cells"),
    ],
)
def test_unfit_files_are_refused(codes, tmp_path, text, words):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(RefusedError, match=words):
        read_labels(codes, path)


def test_missing_and_damaged_files(codes, tmp_path):
    with pytest.raises(NoInputError, match="do not exist"):
        read_labels(codes, tmp_path / "none.csv")
    (tmp_path / "bad.parquet").write_bytes(b"nonsense")
    with pytest.raises(RefusedError, match="cannot be read as Parquet"):
        read_labels(codes, tmp_path / "bad.parquet")
