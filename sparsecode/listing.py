"""`Listing`: files in a fixed order, compressed, so that a million of them take some megabytes."""

import hashlib
import json
import os
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any, Self

_BLOCK = 1024
_MAGIC = b"sparsecode listing 1\n"


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


@dataclass(frozen=True, slots=True)
class Root:
    """Where some files of a listing lie: ``prefix + relative`` is named, ``folder`` holds it."""

    prefix: str
    folder: str


@dataclass(frozen=True, eq=False)
class Listing:
    """Files in a fixed order; read them by iterating, by slices or by `take`.

    Parameters
    ----------
    roots : tuple of Root
    blocks : tuple of bytes
        Compressed, 1,024 files in each but the last: name and number of root, ended by NUL each.
    n_files : int
    has_labels : bool
        Some file lies in a folder.
    sha256 : str
        Hash of the names and their order, as 64 hexadecimal digits.
    """

    roots: tuple[Root, ...]
    blocks: tuple[bytes, ...] = field(repr=False)
    n_files: int
    has_labels: bool
    sha256: str

    @classmethod
    def of(cls, roots: Sequence[Root], entries: Iterable[tuple[bytes, int]]) -> Self:
        """Build from names, as `os.fsencode` gives them, and numbers of roots, in order."""
        digest, blocks, n_files, has_labels = hashlib.sha256(), [], 0, False
        entries = iter(entries)
        while part := list(islice(entries, _BLOCK)):
            for name, _ in part:
                encoded = encode_name(os.fsdecode(name))
                digest.update(encoded.encode("utf-8") + b"\0")
                has_labels = has_labels or "/" in encoded
            data = b"".join(b"%s\0%d\0" % entry for entry in part)
            blocks.append(zlib.compress(data, 1))
            n_files += len(part)
        return cls(tuple(roots), tuple(blocks), n_files, has_labels, digest.hexdigest())

    def __len__(self) -> int:
        return self.n_files

    def __iter__(self) -> Iterator[ImageFile]:
        for block in self.blocks:
            yield from map(self._file, _entries(block))

    def __getitem__(self, index: slice) -> list[ImageFile]:
        start, stop, step = index.indices(self.n_files)
        return self.take(range(start, stop, step))

    def take(self, index: Iterable[int]) -> list[ImageFile]:
        """Return the files at rising places."""
        return [self._file(entry) for entry in self._picked(index)]

    @property
    def names(self) -> list[str]:
        """Names of all files, in order."""
        return [file.name for file in self]

    @property
    def labels(self) -> list[str] | None:
        """Folder names, "" for files without; None when no file has one."""
        return [file.label or "" for file in self] if self.has_labels else None

    def sample(self, index: Iterable[int]) -> "Listing":
        """Return a listing of the files at rising places."""
        return Listing.of(self.roots, self._picked(index))

    def _picked(self, index: Iterable[int]) -> Iterator[tuple[bytes, int]]:
        for i in index:
            yield _entries(self.blocks[i // _BLOCK])[i % _BLOCK]

    def to_bytes(self) -> bytes:
        """Return everything, to be read by `from_bytes`."""
        head: dict[str, Any] = {
            "roots": [[root.prefix, root.folder] for root in self.roots],
            "sizes": [len(block) for block in self.blocks],
            "n_files": self.n_files,
            "has_labels": self.has_labels,
            "sha256": self.sha256,
        }
        return _MAGIC + json.dumps(head).encode("ascii") + b"\n" + b"".join(self.blocks)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` returned; ValueError if it is something else."""
        magic, head, body = data.split(b"\n", 2)
        if magic + b"\n" != _MAGIC:
            raise ValueError("it is not a listing of this version")
        known = json.loads(head)
        blocks, start = [], 0
        for size in known["sizes"]:
            blocks.append(body[start : start + size])
            start += size
        roots = tuple(Root(*root) for root in known["roots"])
        return cls(roots, tuple(blocks), known["n_files"], known["has_labels"], known["sha256"])

    def _file(self, entry: tuple[bytes, int]) -> ImageFile:
        raw, root = os.fsdecode(entry[0]), self.roots[entry[1]]
        name = encode_name(raw)
        folders = name.split("/")[:-1]
        path = os.path.join(root.folder, raw[len(root.prefix) :])  # noqa: PTH118  # keeps bytes
        return ImageFile(name, path, folders[-1] if folders else None)


@lru_cache(maxsize=2)  # places are asked for in order, some tens at a time
def _entries(block: bytes) -> list[tuple[bytes, int]]:
    fields = zlib.decompress(block).split(b"\0")
    return [(name, int(root)) for name, root in zip(fields[::2], fields[1::2], strict=False)]


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
