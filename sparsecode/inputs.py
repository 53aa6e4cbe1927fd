"""Paths in, a frozen and ordered listing of images out."""

import fnmatch
import glob
import hashlib
import os
import unicodedata
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from sparsecode.errors import NoInputError, RefusedError

# Those of images.FORMATS, which a test compares; kept here because a listing needs no Pillow.
IMAGE_EXTENSIONS = frozenset(
    {".apng", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm"}
    | {".ppm", ".tif", ".tiff", ".webp"}
)


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One file to encode.

    Parameters
    ----------
    name : str
        The POSIX path relative to the input, always UTF-8 without control characters (see
        `encode_name`).
    path : str
        What to open; undecodable bytes are kept as `os.fsdecode` gives them.
    label : str or None
        The folder right above the file, as far as `name` shows it.
    """

    name: str
    path: str
    label: str | None


@dataclass(frozen=True)
class Listing:
    """Files in a fixed order: by the bytes of their relative paths."""

    files: tuple[ImageFile, ...]

    def __len__(self) -> int:
        return len(self.files)

    @property
    def names(self) -> list[str]:
        """Names of the files, in order."""
        return [file.name for file in self.files]

    @property
    def labels(self) -> list[str] | None:
        """Folder names, "" for files without; None when no file has one."""
        labels = [file.label for file in self.files]
        return [label or "" for label in labels] if any(labels) else None

    @property
    def sha256(self) -> str:
        """Hash of the names and their order, as 64 hexadecimal digits."""
        digest = hashlib.sha256()
        for name in self.names:
            digest.update(name.encode("utf-8") + b"\0")
        return digest.hexdigest()


def encode_name(name: str) -> str:
    """Make a file name valid UTF-8 without control characters; different names stay different.

    Bytes that are not UTF-8 and control characters become ``%XX``, a byte each, in upper case. A
    literal ``%`` becomes ``%25`` only where two hexadecimal digits follow, since it would read as
    an escape there. `urllib.parse.unquote_to_bytes` gives the original bytes back.

    Parameters
    ----------
    name : str
        A path as `os.fsdecode` gives it.

    Returns
    -------
    str
        The same for nearly every name in the world.
    """
    if name.isprintable() and "%" not in name:
        return name
    return "".join(_encode_character(name, i) for i in range(len(name)))


def _encode_character(name: str, i: int) -> str:
    character = name[i]
    escape = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
    if character == "%":
        following = name[i + 1 : i + 3]
        escape = len(following) == 2 and all(c in "0123456789abcdefABCDEF" for c in following)
    if not escape:
        return character
    return "".join(f"%{byte:02X}" for byte in os.fsencode(character))


def list_images(
    inputs: Sequence[str | os.PathLike[str]], *, follow_symlinks: bool = False
) -> Listing:
    """List the images that `inputs` name.

    Parameters
    ----------
    inputs : sequence of path-like
        Folders (searched to any depth), files, or patterns with ``*``, ``?``, ``[...]`` and ``**``
        (any number of folders). In folders and patterns, files without an image's extension and
        hidden ones are passed over; a file that is named is always listed. With more than one
        input, every name begins with the name of the input folder it came from.
    follow_symlinks : bool, default=False
        Search linked folders too, each real folder once. Linked files are always listed.

    Returns
    -------
    Listing
        Sorted by the bytes of the relative paths.

    Raises
    ------
    NoInputError
        A path does not exist, or there is no image at all.
    RefusedError
        Two files would have the same name, or a folder cannot be searched.
    """
    found = [file for item in inputs for file in _list_one(item, len(inputs) > 1, follow_symlinks)]
    if not found:
        places = ", ".join(repr(os.fspath(item)) for item in inputs) or "an empty list"
        raise NoInputError(
            f"no images in {places}; looked for files ending in "
            f"{' '.join(sorted(IMAGE_EXTENSIONS))}"
        )
    found.sort(key=lambda file: os.fsencode(file.name))
    for first, second in pairwise(found):
        if first.name == second.name:
            raise RefusedError(
                f"{first.path!r} and {second.path!r} would both be called {first.name!r}; "
                "name a folder that holds both, or give each file once"
            )
    return Listing(tuple(map(_encoded, found)))


def _encoded(file: ImageFile) -> ImageFile:
    name = encode_name(file.name)
    folders = name.split("/")[:-1]
    return replace(file, name=name, label=folders[-1] if folders else None)


def _list_one(
    item: str | os.PathLike[str], several: bool, follow_symlinks: bool
) -> Iterator[ImageFile]:
    """List one input; the names are not encoded yet."""
    text = os.fspath(item)
    pattern: tuple[str, ...] = ()
    if not _exists(text) and glob.has_magic(text):
        parts = Path(text).parts
        split = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        text, pattern = str(Path(*parts[:split])), parts[split:]
    if not _exists(text):
        raise NoInputError(f"{os.fspath(item)!r} does not exist; name a folder, files or a pattern")
    if not Path(text).is_dir():
        yield ImageFile(Path(text).name, text, None)
        return
    own_name = Path(text).name
    if own_name in ("", ".."):
        own_name = Path(text).resolve().name
    prefix = f"{own_name}/" if several else ""
    for relative in _walk(text, pattern, follow_symlinks):
        yield ImageFile(prefix + relative, str(Path(text, relative)), None)


def _exists(path: str) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:  # a NUL in the path
        return False


def _walk(root: str, pattern: tuple[str, ...], follow_symlinks: bool) -> Iterator[str]:
    """Yield the relative paths of the images below `root`.

    Linked folders wait until all others are done, and no folder is entered twice, so that links
    neither rename what can be reached without them nor lead in circles.
    """
    seen: set[tuple[int, int]] = set()
    folders, linked = [""], deque[str]()
    while folders or linked:
        folder = folders.pop() if folders else linked.popleft()
        status = Path(root, folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in _scan(Path(root, folder)):
            relative = f"{folder}{entry.name}"
            parts = tuple(relative.split("/"))
            if entry.name.startswith("."):
                continue
            if not _is_folder(entry):
                if _has_image_extension(entry.name) and _matches(parts, pattern):
                    yield relative
            elif _matches(parts, pattern, partly=True):
                if not entry.is_symlink():
                    folders.append(f"{relative}/")
                elif follow_symlinks:
                    linked.append(f"{relative}/")


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise RefusedError(
            f"the folder {str(folder)!r} cannot be searched ({error.strerror}); make it readable "
            "or leave it out"
        ) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: listed as a file, whose reading will say so
        return False


def _has_image_extension(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_EXTENSIONS


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...], partly: bool = False) -> bool:
    """Tell whether a pattern takes this path or a folder above it; `partly`: or could below it."""
    if not pattern:
        return True
    if not parts:
        return partly
    if pattern[0] == "**":
        return _matches(parts, pattern[1:], partly) or _matches(parts[1:], pattern, partly)
    return fnmatch.fnmatch(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:], partly)
