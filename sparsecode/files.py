"""Our own files: every open for writing, write, fsync and rename that the package does itself.

They are few and all here, so that a test can let the n-th of them fail. A file appears whole under
its name, or not at all.
"""

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from sparsecode.errors import OutputError, RefusedError

_WRITABLE = os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0)
_READABLE = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
_BINARY = getattr(os, "O_BINARY", 0)


def open_new(path: str | os.PathLike[str]) -> int:
    """Create or empty a file; return its descriptor."""
    return os.open(path, _WRITABLE | _BINARY, 0o666)


def open_regular(path: str | os.PathLike[str]) -> int:
    """Open for reading what is a file and nothing else; return its descriptor.

    A FIFO would wait for its other end, a device may have no end.

    Raises
    ------
    OSError
        It is missing, something else, or cannot be read.
    """
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise OSError("it is not a regular file")
    descriptor = os.open(path, _READABLE | _BINARY)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # it was replaced meanwhile
        os.close(descriptor)
        raise OSError("it is not a regular file")
    return descriptor


def write(descriptor: int, data: memoryview) -> int:
    """Write some of the bytes; return how many."""
    return os.write(descriptor, data)


def truncate(descriptor: int, size: int) -> None:
    """Give a file another size."""
    os.ftruncate(descriptor, size)


def sync(descriptor: int) -> None:
    """Wait until what was written is on the disk."""
    os.fsync(descriptor)


def rename(source: Path, target: Path) -> None:
    """Give a file another name, replacing what had it, in one step."""
    source.replace(target)


def publish(temporary: Path, path: Path) -> None:
    """Put a finished, synchronised file in place, and see that its name is on the disk, too."""
    rename(temporary, path)
    if os.name == "posix":
        folder = os.open(path.absolute().parent, os.O_RDONLY)
        try:
            sync(folder)
        finally:
            os.close(folder)


def temporary_name(path: Path) -> Path:
    """Return the name, in the same folder, under which a file is written."""
    return path.with_name(path.name + ".tmp")


def write_whole(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write a file whole, or leave what was there; text becomes UTF-8.

    Raises
    ------
    OutputError
        It could not be written.
    """
    path = Path(path)
    temporary = temporary_name(path)
    try:
        _write_synced(temporary, data.encode("utf-8") if isinstance(data, str) else data)
        publish(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _write_synced(path: Path, data: bytes) -> None:
    descriptor = open_new(path)
    try:
        left = memoryview(data)
        while left:
            left = left[write(descriptor, left) :]
        sync(descriptor)
    finally:
        os.close(descriptor)


def check_output(path: str | os.PathLike[str], overwrite: bool) -> None:
    """Refuse an output that exists or has no folder, before any work is done.

    Raises
    ------
    RefusedError
        It exists and `overwrite` is false, it is a folder, or it has none to be in.
    OutputError
        Its folder cannot be written to.
    """
    path = Path(path)
    folder = path.absolute().parent
    if path.is_dir():
        raise RefusedError(f"{path} is a folder; name a file")
    if path.exists() and not overwrite:
        raise RefusedError(f"{path} exists; give another name, or --overwrite (overwrite=True)")
    if not folder.is_dir():
        raise RefusedError(f"the folder {folder} does not exist; make it first")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"the folder {folder} is not writable")


def check_space(folder: Path, n_bytes: int) -> None:
    """Refuse to begin what will not fit.

    Raises
    ------
    OutputError
        The file system has less free space than `n_bytes`.
    """
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise OutputError(
            f"{folder} has {free:,} bytes free, but {n_bytes:,} are needed; free some space and "
            "run the same command again"
        )
