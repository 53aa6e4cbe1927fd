import errno
import hashlib
import json
import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse import csr_array

from sparsecode import files
from sparsecode.codes import SparseCodes
from sparsecode.errors import CodesFormatError, NoInputError, OutputError, RefusedError
from sparsecode.storage import (
    CodesWriter,
    describe_codes,
    iterate_codes,
    read_codes,
    verify_codes,
    write_codes,
)

METADATA = {
    "config": {"p": 0.8, "name": "é", "nested": [1, None, True]},
    "model_sha256": "a" * 64,
    "listing_sha256": "b" * 64,
    "failed_path": ["bad.png", "bäd ☃.png"],
    "failed_reason": ["the file is empty", "truncated"],
}
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


def example(n_samples=300, n_latents=20, seed=0):
    rng = np.random.default_rng(seed)
    matrix = sparse.random_array(
        (n_samples, n_latents), density=0.2, format="csr", dtype=np.float32, rng=rng
    )
    names = np.array([f"dossier é/{i}.png" for i in range(n_samples)], dtype=object)
    obs = {
        "width": rng.integers(1, 4000, n_samples, dtype=np.int32),
        "height": rng.integers(1, 4000, n_samples, dtype=np.int32),
        "label": np.array(["cat", "dog ☃", ""] * n_samples, dtype=object)[:n_samples],
    }
    return SparseCodes(matrix, names, obs, {}, METADATA)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.h5"


@pytest.fixture
def written(path):
    write_codes(path, example())
    return path


def assert_same(actual, expected):
    """Equal in everything that was given; the file adds what it computes."""
    assert actual.shape == expected.shape
    assert actual.matrix.dtype == np.float32
    np.testing.assert_array_equal(actual.matrix.indptr, expected.matrix.indptr)
    np.testing.assert_array_equal(actual.matrix.indices, expected.matrix.indices)
    np.testing.assert_array_equal(actual.matrix.data, expected.matrix.data)
    assert list(actual.names) == list(expected.names)
    assert list(actual.obs) == list(expected.obs)
    for mine, other in ((actual.obs, expected.obs), (actual.var, expected.var)):
        for name, column in other.items():
            assert mine[name].dtype == column.dtype
            np.testing.assert_array_equal(mine[name], column)
    for name, value in expected.metadata.items():
        assert actual.metadata[name] == value


def test_round_trip(written):
    codes = read_codes(written)
    assert_same(codes, example())
    active = example().matrix.toarray() != 0
    np.testing.assert_array_equal(codes.var["activation_frequency"], active.mean(axis=0))
    np.testing.assert_array_equal(codes.var["dead"], ~active.any(axis=0))
    assert codes.metadata["format_version"] == 1
    assert verify_codes(written) == []


def test_indices_have_32_bits_as_every_scikit_learn_estimator_takes_them(written):
    for codes in (read_codes(written), *iterate_codes(written, 100)):
        assert codes.matrix.indices.dtype == codes.matrix.indptr.dtype == np.int32


def test_what_was_read_can_be_written_again(written, tmp_path):
    write_codes(tmp_path / "again.h5", read_codes(written))
    assert (tmp_path / "again.h5").read_bytes() == written.read_bytes()


@st.composite
def any_codes(draw):
    n_samples, n_latents = draw(st.integers(0, 6)), draw(st.integers(1, 5))
    values = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.just(0.0)
    rows = st.lists(values, min_size=n_latents, max_size=n_latents)
    dense = draw(st.lists(rows, min_size=n_samples, max_size=n_samples))
    matrix = csr_array(np.array(dense, dtype=np.float32).reshape(n_samples, n_latents))
    names = draw(st.lists(TEXT, min_size=n_samples, max_size=n_samples, unique=True))

    def column(length):
        kind = draw(st.sampled_from(["text", np.int32, np.uint8, np.float64, bool]))
        if kind == "text":
            array = np.empty(length, dtype=object)
            array[:] = draw(st.lists(TEXT, min_size=length, max_size=length))
            return array
        return np.array(draw(st.lists(st.integers(0, 1), min_size=length, max_size=length)), kind)

    titles = st.sets(st.sampled_from(["width", "label", "é x", "zz"]))
    obs = {title: column(n_samples) for title in sorted(draw(titles))}
    var = {title: column(n_latents) for title in sorted(draw(titles))}
    config = draw(st.dictionaries(TEXT, st.integers() | TEXT | st.none() | st.booleans()))
    failed = draw(st.lists(TEXT, max_size=3))
    metadata = {"config": config, "failed_path": failed, "failed_reason": failed[::-1]}
    return SparseCodes(matrix, np.array(names, dtype=object), obs, var, metadata)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(any_codes())
def test_any_codes_survive(path, codes):
    write_codes(path, codes, overwrite=True)
    if len(codes):
        assert_same(read_codes(path), codes)
    else:
        assert read_codes(path).shape == codes.shape
    assert verify_codes(path) == []


def test_batches_of_any_size_give_the_same_content(path, tmp_path):
    codes = example(40_000, 8)
    write_codes(tmp_path / "whole.h5", codes)
    with CodesWriter(path, n_latents=8) as writer:
        start = 0
        for size in (1, 0, 16_383, 16_384, 20, 7_212):
            rows = slice(start, start + size)
            obs = {name: column[rows] for name, column in codes.obs.items()}
            writer.append(codes.matrix[rows], codes.names[rows], obs)
            start += size
        assert start == len(codes)
        writer.finish(metadata=METADATA)
    assert_same(read_codes(path), codes)
    assert verify_codes(path) == []
    hashes = [describe_codes(p)["content_sha256"] for p in (path, tmp_path / "whole.h5")]
    assert hashes[0] == hashes[1]


def test_equal_writes_give_equal_bytes(path, tmp_path, monkeypatch):
    write_codes(path, example())
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_codes(tmp_path / "b.h5", example())
    assert path.read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_content_hash_is_that_of_the_documentation(written):
    """An independent reading of docs/file-format.md."""

    def digest(value):
        value = np.asarray(value)
        if value.dtype.kind not in "OSU":
            return hashlib.sha256(value.tobytes()).hexdigest(), value.dtype.str
        texts = [v if isinstance(v, bytes) else str(v).encode() for v in value.ravel()]
        data = b"".join(len(text).to_bytes(8, "little") + text for text in texts)
        return hashlib.sha256(data).hexdigest(), "text"

    with h5py.File(written) as file:
        elements = {"X/shape": file["X"].attrs["shape"]}
        for frame in ("obs", "var"):
            elements[f"{frame}/column-order"] = file[frame].attrs["column-order"]
        file.visititems(
            lambda name, item: (
                elements.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        )
    stored = elements.pop("uns/sparsecode/content_sha256").decode()
    lines = "".join(f"{' '.join(digest(elements[name]))} {name}\n" for name in sorted(elements))
    assert hashlib.sha256(lines.encode()).hexdigest() == stored


def test_layout(written):
    with h5py.File(written) as file:
        assert set(file) == {"X", "obs", "var", "uns"}
        assert dict(file.attrs) == {"encoding-type": "anndata", "encoding-version": "0.1.0"}
        assert file["X"].attrs["shape"].dtype == np.int64
        for name, kind, chunk in (
            ("data", "<f4", 65536),
            ("indices", "<i4", 65536),
            ("indptr", "<i8", 16384),
        ):
            item = file["X"][name]
            assert (item.dtype.str, item.chunks, item.maxshape) == (kind, (chunk,), (None,))
            assert item.fletcher32
            compressed = name != "indptr"
            assert item.shuffle == compressed
            assert (item.compression, item.compression_opts) == (
                ("gzip", 1) if compressed else (None, None)
            )
        assert list(file["obs"].attrs["column-order"]) == ["width", "height", "label"]
        assert file["obs/width"].dtype == np.int32
        assert file["var/_index"][:2].tolist() == [b"latent_00000", b"latent_00001"]
        own = file["uns/sparsecode"]
        assert set(own) == {"format_version", "content_sha256", "config_json", *METADATA} - {
            "config"
        }
        assert json.loads(own["config_json"][()]) == METADATA["config"]


@pytest.mark.parametrize("n_samples", [0, 300])
@pytest.mark.parametrize("backed", [None, "r"])
def test_anndata_opens_it(path, n_samples, backed):
    codes = example(n_samples)
    if not n_samples:
        codes = SparseCodes(codes.matrix, codes.names)  # and no column at all
    write_codes(path, codes)
    data = anndata.read_h5ad(path, backed=backed)
    assert data.shape == (n_samples, 20)
    rows = data.X[:] if backed else data.X
    np.testing.assert_array_equal(rows.toarray(), codes.matrix.toarray())
    assert list(data.obs_names) == list(codes.names)
    assert list(data.obs.columns) == list(codes.obs)
    assert data.var["dead"].dtype == bool
    assert list(data.uns["sparsecode"]["failed_path"]) == codes.metadata.get("failed_path", [])
    if backed:
        data.file.close()


def test_codes_that_anndata_saved_again_can_be_read(written, tmp_path):
    anndata.read_h5ad(written).write_h5ad(tmp_path / "again.h5ad")
    again, codes = read_codes(tmp_path / "again.h5ad"), read_codes(written)
    np.testing.assert_array_equal(again.matrix.toarray(), codes.matrix.toarray())
    assert list(again.labels) == list(codes.labels)  # categories by now
    assert verify_codes(tmp_path / "again.h5ad") != []


def test_what_is_stored_is_canonical(path):
    messy = csr_array(
        ([1.0, 2.0, 0.0, 3.0, -3.0, 1e-60], [2, 0, 1, 1, 1, 0], [0, 3, 5, 6]), shape=(3, 3)
    )
    before = messy.indices.copy()
    write_codes(path, SparseCodes(messy, np.array(["a", "b", "c"], dtype=object)))
    matrix = read_codes(path).matrix
    assert matrix.indptr.tolist() == [0, 2, 2, 2]  # 1e-60 is zero in float32
    assert matrix.indices.tolist() == [0, 2]
    assert matrix.data.tolist() == [2, 1]
    assert verify_codes(path) == []
    np.testing.assert_array_equal(messy.indices, before)


# --- refusing ---------------------------------------------------------------------------------


def test_an_existing_file_is_kept(written):
    before = written.read_bytes()
    with pytest.raises(RefusedError, match=r"out\.h5 exists; .*--overwrite \(overwrite=True\)"):
        write_codes(written, example())
    assert written.read_bytes() == before
    write_codes(written, example(5), overwrite=True)
    assert len(read_codes(written)) == 5


def test_missing_folder_and_folder_as_output(tmp_path):
    with pytest.raises(RefusedError, match=r"the folder .*x does not exist; make it"):
        write_codes(tmp_path / "x/out.h5", example())
    with pytest.raises(RefusedError, match="is a folder; name a file"):
        write_codes(tmp_path, example(), overwrite=True)


@pytest.mark.parametrize("n_latents", [0, -1, 2**31])
def test_n_latents_range(path, n_latents):
    with pytest.raises(ValueError, match="n_latents="):
        CodesWriter(path, n_latents=n_latents)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"matrix": csr_array((2, 4), dtype=np.float32)}, "4 columns; 3 are needed"),
        ({"matrix": csr_array([[0, np.nan, 1], [0, 0, 0]])}, "NaN or infinity"),
        ({"matrix": csr_array([[0, 1e300, 1], [0, 0, 0]])}, "NaN or infinity"),
        ({"names": ["a"]}, r"names has shape \(1,\); \(2,\) is needed"),
        ({"names": ["a", 5]}, "names holds 5; text is needed"),
        ({"names": ["a", "b\0"]}, "HDF5 cannot store; percent-encode"),
        ({"names": ["a", "\udcff"]}, "HDF5 cannot store; percent-encode"),
        ({"obs": {"label": ["x"]}}, r"column 'label' has shape \(1,\)"),
        ({"obs": {"label": ["x", None]}}, "column 'label' holds None"),
        ({"obs": {"a/b": [1, 2]}}, "column name 'a/b' cannot be stored"),
        ({"obs": {"_index": [1, 2]}}, "column name '_index' cannot be stored"),
        ({"obs": {"other": [1, 2]}}, r"columns \['obs/label', 'obs/other'\] differ"),
        ({"obs": {"label": [1, 2]}}, r"columns \['obs/label'\] differ"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_unfit_batches_are_refused_and_change_nothing(path, change, reason):
    good = {
        "matrix": csr_array(np.eye(2, 3, dtype=np.float32)),
        "names": ["a", "b"],
        "obs": {"label": ["x", "y"]},
    }
    with CodesWriter(path, n_latents=3) as writer:
        writer.append(**good)
        with pytest.raises(ValueError, match=reason):
            writer.append(**good | change)
        writer.finish()
    assert list(read_codes(path).names) == ["a", "b"]
    assert verify_codes(path) == []


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"unknown": 1}, r"metadata \['unknown'\] are unknown; known are \['config'"),
        ({"config": {"a": float("nan")}}, "JSON"),
        ({"failed_path": ["x"]}, "one reason per path"),
        ({"model_sha256": 5}, "metadata holds 5; text is needed"),
    ],
)
def test_unfit_metadata_leaves_nothing(path, metadata, reason):
    with pytest.raises(ValueError, match=reason), CodesWriter(path, n_latents=3) as writer:
        writer.finish(metadata=metadata)
    assert list(path.parent.iterdir()) == []


def test_leaving_without_finish_leaves_nothing(path):
    with CodesWriter(path, n_latents=20) as writer:
        writer.append(example().matrix, example().names)
        assert [p.name for p in path.parent.iterdir()] == ["out.h5.tmp"]
    assert list(path.parent.iterdir()) == []
    with pytest.raises(ValueError, match=r"the writer of .*out\.h5 is closed"):
        writer.append(example().matrix, example().names)
    with pytest.raises(ValueError, match="is closed"):
        writer.finish()


def test_an_error_in_the_block_keeps_the_old_file(written):
    before = written.read_bytes()

    def interrupted():
        with CodesWriter(written, n_latents=20, overwrite=True) as writer:
            writer.append(example().matrix, example().names)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert written.read_bytes() == before
    assert list(written.parent.iterdir()) == [written]


# --- disks that fail --------------------------------------------------------------------------


class FailingDisk:
    """Let the n-th write or truncation fail, by an error or by a short write before it."""

    def __init__(self, monkeypatch, error=None):
        self.calls, self.fail_at, self.short = 0, None, False
        self.error = error or OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        disk = self

        def write(descriptor, data, real=files.write):
            disk.calls += 1
            if disk.fail_at is not None and disk.calls >= disk.fail_at:
                if disk.short and disk.calls == disk.fail_at and len(data) > 1:
                    return real(descriptor, data[: len(data) // 2])
                raise disk.error
            return real(descriptor, data)

        def truncate(descriptor, size, real=files.truncate):
            disk.calls += 1
            if disk.fail_at is not None and disk.calls >= disk.fail_at:
                raise disk.error
            real(descriptor, size)

        monkeypatch.setattr(files, "write", write)
        monkeypatch.setattr(files, "truncate", truncate)


@pytest.mark.parametrize("short", [False, True])
def test_every_failing_write_is_an_output_error(written, monkeypatch, short):
    before, codes = written.read_bytes(), example(2000)
    disk = FailingDisk(monkeypatch)
    write_codes(written.with_name("count.h5"), codes)
    total = disk.calls
    written.with_name("count.h5").unlink()
    assert total > 20
    for disk.fail_at in range(1, total + 1):
        disk.calls, disk.short = 0, short
        with pytest.raises(OutputError, match=r"out\.h5 could not be written \(No space left"):
            write_codes(written, codes, overwrite=True)
        assert list(written.parent.iterdir()) == [written]
        assert written.read_bytes() == before
    disk.fail_at = None
    write_codes(written, codes, overwrite=True)
    assert verify_codes(written) == []


def test_an_interrupt_inside_a_write_is_still_an_interrupt(written, monkeypatch):
    before = written.read_bytes()
    disk = FailingDisk(monkeypatch, KeyboardInterrupt())
    disk.fail_at = 10
    with pytest.raises(KeyboardInterrupt):
        write_codes(written, example(), overwrite=True)
    assert list(written.parent.iterdir()) == [written]
    assert written.read_bytes() == before


@pytest.mark.parametrize("call", ["open_new", "sync", "rename"])
def test_failing_fsync_and_rename(written, monkeypatch, call):
    before = written.read_bytes()

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(files, call, fail)
        with pytest.raises(OutputError, match="Input/output error"):
            write_codes(written, example(5), overwrite=True)
    assert written.read_bytes() == before
    assert list(written.parent.iterdir()) == [written]


def test_output_that_cannot_be_created(tmp_path):
    (tmp_path / "out.h5.tmp").mkdir()
    with pytest.raises(OutputError, match=r"out\.h5 could not be written"):
        write_codes(tmp_path / "out.h5", example())


FULL_DISK = """
import resource, signal, sys
import numpy as np
from scipy.sparse import random_array
from sparsecode.errors import OutputError
from sparsecode.storage import CodesWriter

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in map(int, sys.argv[2:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    rng = np.random.default_rng(0)
    try:
        with CodesWriter(sys.argv[1], n_latents=64) as writer:
            for i in range(8):
                batch = random_array((5000, 64), density=0.3, format="csr", rng=rng)
                writer.append(batch, [f"{i}/{j}" for j in range(5000)])
            writer.finish()
    except OutputError as error:
        assert "File too large" in str(error), error
        print("output error")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no RLIMIT_FSIZE")
def test_full_disk_is_an_output_error_and_not_a_crash(path):
    limits = ["0", "1000", "100000", "300000", "900001", "2000000", "3500000"]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(path), *limits],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("output error") == len(limits)
    assert list(path.parent.iterdir()) == []


# --- files that lie ---------------------------------------------------------------------------


def test_missing_file(tmp_path):
    for function in (read_codes, verify_codes, describe_codes):
        with pytest.raises(NoInputError, match="does not exist"):
            function(tmp_path / "x.h5")


def test_files_that_are_something_else(tmp_path):
    (tmp_path / "empty.h5").touch()
    (tmp_path / "text.h5").write_text("hello" * 100)
    (tmp_path / "folder.h5").mkdir()
    os.mkfifo(tmp_path / "fifo.h5")
    anndata.AnnData(np.eye(3, dtype=np.float32)).write_h5ad(tmp_path / "foreign.h5")
    for name in ("empty", "text", "folder", "fifo", "foreign"):
        for function in (read_codes, describe_codes):
            with pytest.raises(CodesFormatError, match=rf"{name}\.h5 cannot be read"):
                function(tmp_path / f"{name}.h5")
        assert len(verify_codes(tmp_path / f"{name}.h5")) == 1


def edit_index_out_of_range(file):
    file["X/indices"][3] = 20


def edit_negative_index(file):
    file["X/indices"][3] = -1


def edit_order_of_indices(file):
    start, stop = next(
        (a, b)
        for a, b in zip(file["X/indptr"][:-1], file["X/indptr"][1:], strict=True)
        if b - a > 1
    )
    file["X/indices"][start:stop] = file["X/indices"][start:stop][::-1]


def edit_explicit_zero(file):
    file["X/data"][0] = 0


def edit_nan(file):
    file["X/data"][5] = np.nan


def edit_indptr_falls(file):
    file["X/indptr"][5] = file["X/indptr"][4] - 1


def edit_indptr_end(file):
    file["X/indptr"][300] = 10**12


def edit_shape(file):
    file["X"].attrs["shape"] = np.array([300, 2**40])


def edit_shape_rows(file):
    file["X"].attrs["shape"] = np.array([299, 20])


def edit_huge_claim(file):
    for name in ("data", "indices"):
        file["X"][name].resize((10**13,))


def edit_replaced(file, name, **kwargs):
    del file[name]
    file.create_dataset(name, **kwargs)


def edit_never_stored(file):
    edit_replaced(file, "X/data", shape=file["X/indices"].shape, dtype="f4")


def edit_decompression_bomb(file):
    size = 10**7
    for name, dtype in (("indices", "i4"), ("data", "f4")):
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((size,))
        properties.set_deflate(9)
        properties.set_deflate(9)  # twice: a ratio that no honest file has
        del file["X"][name]
        kind, space = h5py.h5t.py_create(np.dtype(dtype)), h5py.h5s.create_simple((size,))
        h5py.h5d.create(file["X"].id, name.encode(), kind, space, properties)
        file["X"][name][:] = 0
    file["X/indptr"][300] = size


def edit_text_for_numbers(file):
    edit_replaced(file, "X/data", data=["x"] * file["X/indices"].shape[0])


def edit_external_link(file):
    del file["X/data"]
    file["X/data"] = h5py.ExternalLink("/etc/passwd", "data")


def edit_external_storage(file):
    size = file["X/indices"].shape
    edit_replaced(
        file, "X/data", shape=size, dtype="f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)]
    )


def edit_virtual(file):
    layout = h5py.VirtualLayout(shape=file["X/indices"].shape, dtype="f4")
    del file["X/data"]
    file.create_virtual_dataset("X/data", layout)


def edit_missing_group(file):
    del file["uns/sparsecode"]


def edit_missing_column(file):
    del file["obs/label"]


def edit_short_names(file):
    file["obs/_index"].resize((299,))


def edit_version(file):
    file["uns/sparsecode/format_version"][()] = 2


def edit_config(file):
    file["uns/sparsecode/config_json"][()] = "{"


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (edit_index_out_of_range, "leaves the range 0 to 19"),
        (edit_negative_index, "leaves the range 0 to 19"),
        (edit_order_of_indices, "does not rise within a row"),
        (edit_explicit_zero, "explicit zeros"),
        (edit_nan, "NaN or infinity"),
        (edit_indptr_falls, "X/indptr does not rise"),
        (edit_indptr_end, "X/indptr does not rise"),
        (edit_shape, "impossible shape"),
        (edit_shape_rows, "does not fit its indptr"),
        (edit_huge_claim, "not all of its values were stored"),
        (edit_never_stored, "not all of its values were stored"),
        (edit_decompression_bomb, "claims 40000000 bytes, more than its storage can hold"),
        (edit_text_for_numbers, "X/data floats"),
        (edit_external_link, "missing or a link"),
        (edit_external_storage, "values in another file"),
        (edit_virtual, "values in another file"),
        (edit_missing_group, "missing or a link"),
        (edit_missing_column, "label"),
        (edit_short_names, "names|_index"),
        (edit_version, "format_version is 2; this sparsecode reads 1"),
        (edit_config, "Expecting"),
    ],
)
def test_lies_are_refused(written, edit, reason):
    with h5py.File(written, "r+") as file:
        edit(file)
    with pytest.raises(CodesFormatError, match=reason):
        read_codes(written)
    assert verify_codes(written) != []


def test_verify_names_what_only_it_can_see(written):
    with h5py.File(written, "r+") as file:
        file["X/data"][0] += 1
    read_codes(written)
    (problem,) = verify_codes(written)
    assert "does not have the hash" in problem
    with h5py.File(written, "r+") as file:
        file["obs/_index"][1] = file["obs/_index"][0]
        file["var/activation_frequency"][0] = 0.5
        file["obs/extra"] = np.arange(300)
    problems = " ".join(verify_codes(written))
    for what in ("names a row twice", "is not that of the codes", "'extra'", "the hash"):
        assert what in problems


def test_no_flipped_bit_is_silent(written):
    whole, codes, rng = written.read_bytes(), read_codes(written), random.Random(0)
    busy = [i for i, value in enumerate(whole) if value]
    found = 0
    for i in range(200):
        damaged = bytearray(whole)
        place = rng.choice(busy) if i % 2 else rng.randrange(len(whole))
        damaged[place] ^= 1 << rng.randrange(8)
        written.write_bytes(damaged)
        if verify_codes(written):
            found += 1
        else:
            assert_same(read_codes(written), codes)
    assert found > 100


def test_no_truncated_file_passes(written):
    whole = written.read_bytes()
    for percent in range(100):
        written.write_bytes(whole[: len(whole) * percent // 100])
        assert verify_codes(written) != []
        with pytest.raises(CodesFormatError):
            read_codes(written)


def test_describe(written):
    assert describe_codes(written) == {
        "n_samples": 300,
        "n_latents": 20,
        "nnz": 1200,
        "density": 0.2,
        "obs_columns": ["width", "height", "label"],
        "var_columns": ["activation_frequency", "dead"],
        "n_failed": 2,
        "n_dead": 0,
        "bytes": written.stat().st_size,
        "format_version": 1,
        "config": METADATA["config"],
        "model_sha256": "a" * 64,
        "listing_sha256": "b" * 64,
        "content_sha256": read_codes(written).metadata["content_sha256"],
    }


def test_reading_does_not_import_torch():
    code = "import sys, sparsecode.storage, sparsecode.diagnostics, sparsecode.images;"
    code += "import sparsecode.inputs, sparsecode.arrays; assert 'torch' not in sys.modules"
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
