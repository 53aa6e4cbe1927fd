"""Files to write: refused before any work is done, and written with errors that name them."""

import os
from pathlib import Path

from sparsecode.errors import OutputError, RefusedError


def check_output(path: str | os.PathLike[str], overwrite: bool) -> None:
    """Refuse an output that exists or has no folder, before any work is done.

    Raises
    ------
    RefusedError
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise RefusedError(f"{path} exists; give another name, or --overwrite to replace it")
    if path.is_dir():
        raise RefusedError(f"{path} is a folder; name a file")
    if not path.absolute().parent.is_dir():
        raise RefusedError(f"the folder {path.absolute().parent} does not exist; make it first")
    if not os.access(path.absolute().parent, os.W_OK):
        raise OutputError(f"the folder {path.absolute().parent} is not writable")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file whole, or leave what was there.

    Raises
    ------
    OutputError
        It could not be written.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
