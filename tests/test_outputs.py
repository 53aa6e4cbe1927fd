"""Text outputs are whole, or as they were."""

from pathlib import Path

import pytest

from sparsecode.errors import OutputError
from sparsecode.outputs import write_text


def test_a_text_replaces_what_was_there(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    write_text(path, "née")
    assert path.read_text(encoding="utf-8") == "née"
    assert list(tmp_path.iterdir()) == [path]


def test_a_text_that_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_text("old")

    def full(self, text, encoding):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutputError, match=r"cannot write .*page\.html: No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
