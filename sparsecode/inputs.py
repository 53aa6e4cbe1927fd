"""Paths in, a frozen and ordered listing of images out."""

import fnmatch
import glob
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from sparsecode.errors import NoInputError, RefusedError
from sparsecode.listing import Listing, Root

# Those of images.FORMATS, which a test compares; kept here because a listing needs no Pillow.
IMAGE_EXTENSIONS = frozenset(
    {".apng", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm"}
    | {".ppm", ".tif", ".tiff", ".webp"}
)


@dataclass(frozen=True)
class Selection:
    """Which files of folders are meant.

    Attributes
    ----------
    include, exclude : tuple of str
        Patterns; with a ``/`` for the whole relative path, else for the file's own name. A file is
        taken if one of ``include`` fits (or there is none) and none of ``exclude``.
    follow_symlinks : bool
        Search linked folders too, each real folder once. Linked files are always listed.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    follow_symlinks: bool = False

    def takes(self, parts: tuple[str, ...]) -> bool:
        """Tell whether a relative path is meant."""
        included = not self.include or any(_fits(parts, pattern) for pattern in self.include)
        return included and not any(_fits(parts, pattern) for pattern in self.exclude)


def list_images(
    inputs: Sequence[str | os.PathLike[str]],
    selection: Selection = Selection(),  # frozen
    listed: Iterable[str] = (),
) -> Listing:
    """List the images that `inputs` name.

    Parameters
    ----------
    inputs : sequence of path-like
        Folders (searched to any depth), files, or patterns with ``*``, ``?``, ``[...]`` and ``**``
        (any number of folders). In folders and patterns, files without an image's extension and
        hidden ones are passed over; a file that is named is always listed. With more than one
        input, every name begins with the name of the input folder it came from.
    selection : Selection, optional
        What of folders and patterns to take.
    listed : iterable of str, optional
        More files (see `read_list`), each called by its path as given; one that is missing will
        fail when it is read.

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
    roots = [Root("", ""), Root("", os.sep)]
    found = [_listed(path) for path in listed]
    for item in inputs:
        names = _list_one(item, len(inputs) > 1, selection, roots)
        found += [_found(name, len(roots) - 1) for name in names]
    return _listing(roots, found, ", ".join(repr(os.fspath(item)) for item in inputs))


def read_list(stream: BinaryIO, null: bool = False) -> list[str]:
    """Read paths, one a line, or ended by NUL as ``find -print0`` does; empty ones are left out."""
    data = stream.read()
    return [
        os.fsdecode(path) for path in (data.split(b"\0") if null else data.splitlines()) if path
    ]


def _listed(path: str) -> bytes:
    if "\0" in path:
        raise RefusedError(f"the listed path {path!r} holds a NUL; -0 reads lists ended by NUL")
    normal = os.path.normpath(path)
    return _found(normal.lstrip(os.sep), int(Path(normal).is_absolute()))


def _found(name: str, root: int) -> bytes:
    # A NUL sorts before all that a name can hold, so the root does not change the order.
    return b"%s\0%d" % (os.fsencode(name), root)


def _listing(roots: list[Root], found: list[bytes], places: str) -> Listing:
    if not found:
        raise NoInputError(
            f"no images in {places or 'an empty list'}; looked for files ending in "
            f"{' '.join(sorted(IMAGE_EXTENSIONS))}"
        )
    found.sort()
    for first, second in pairwise(found):
        if first.partition(b"\0")[0] == second.partition(b"\0")[0]:
            twins = Listing.of(roots, map(_entry, (first, second))).take(range(2))
            raise RefusedError(
                f"{twins[0].path!r} and {twins[1].path!r} would both be called {twins[0].name!r}; "
                "name a folder that holds both, or give each file once"
            )
    return Listing.of(roots, map(_entry, found))


def _entry(found: bytes) -> tuple[bytes, int]:
    name, _, root = found.rpartition(b"\0")
    return name, int(root)


def _list_one(
    item: str | os.PathLike[str], several: bool, selection: Selection, roots: list[Root]
) -> Iterator[str]:
    """List one input, adding its root; the names are not encoded yet."""
    text = os.fspath(item)
    pattern: tuple[str, ...] = ()
    if not _exists(text) and glob.has_magic(text):
        parts = Path(text).parts
        split = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        text, pattern = str(Path(*parts[:split])), parts[split:]
    if not _exists(text):
        raise NoInputError(f"{os.fspath(item)!r} does not exist; name a folder, files or a pattern")
    if not Path(text).is_dir():
        roots.append(Root("", str(Path(text).parent)))
        return iter([Path(text).name])
    own_name = Path(text).name
    if own_name in ("", ".."):
        own_name = Path(text).resolve().name
    prefix = f"{own_name}/" if several else ""
    roots.append(Root(prefix, text))
    found = _walk(text, pattern, selection.follow_symlinks)
    return (prefix + name for name in found if selection.takes(tuple(name.split("/"))))


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
    # Of a million names; hidden ones, which begin with their only dot, are left out before.
    return name[name.rfind(".") :].lower() in IMAGE_EXTENSIONS


def _fits(parts: tuple[str, ...], pattern: str) -> bool:
    if "/" in pattern:
        return _matches(parts, tuple(pattern.strip("/").split("/")))
    return fnmatch.fnmatchcase(parts[-1], pattern)


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...], partly: bool = False) -> bool:
    """Tell whether a pattern takes this path or a folder above it; `partly`: or could below it."""
    if not pattern:
        return True
    if not parts:
        return partly
    if pattern[0] == "**":
        return _matches(parts, pattern[1:], partly) or _matches(parts[1:], pattern, partly)
    return fnmatch.fnmatch(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:], partly)
