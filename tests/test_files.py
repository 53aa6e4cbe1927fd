"""Text outputs are whole, or as they were."""

import pytest

from sparsecode import files
from sparsecode.errors import OutputError, RefusedError
from sparsecode.files import write_whole


def test_a_text_replaces_what_was_there(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    write_whole(path, "née")
    assert path.read_text(encoding="utf-8") == "née"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["open_new", "write", "sync", "rename"])
def test_a_text_that_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch, call):
    path = tmp_path / "page.html"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, call, full)
    with pytest.raises(OutputError, match=r"cannot write .*page\.html: No space left"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_short_writes_go_on(tmp_path, monkeypatch):
    real = files.write
    monkeypatch.setattr(files, "write", lambda descriptor, data: real(descriptor, data[:3]))
    write_whole(tmp_path / "x", b"0123456789")
    assert (tmp_path / "x").read_bytes() == b"0123456789"


def test_outputs_are_refused_early(tmp_path):
    (tmp_path / "old").touch()
    with pytest.raises(RefusedError, match=r"old exists; .*--overwrite"):
        files.check_output(tmp_path / "old", overwrite=False)
    files.check_output(tmp_path / "old", overwrite=True)
    with pytest.raises(RefusedError, match="is a folder"):
        files.check_output(tmp_path, overwrite=True)
    with pytest.raises(RefusedError, match="does not exist; make it"):
        files.check_output(tmp_path / "a/b", overwrite=True)


def test_space_is_asked_for_before_it_is_used(tmp_path):
    files.check_space(tmp_path, 1)
    with pytest.raises(OutputError, match=r"are needed; free some space"):
        files.check_space(tmp_path, 2**62)
