"""`ContentHash`: one hash of what a reader of codes sees (see docs/file-format.md)."""

import hashlib
from typing import Any

import numpy as np


class ContentHash:
    """SHA-256 of everything that a reader sees, whatever the chunks and the compression.

    Each element is hashed by itself, in pieces as they come; docs/file-format.md defines the rest.
    """

    def __init__(self) -> None:
        self._elements: dict[str, tuple[str, Any]] = {}

    def update(self, path: str, values: np.ndarray) -> None:
        """Add the next values of the element at `path`; an empty array registers an element."""
        text = values.dtype == object
        kind = "text" if text else values.dtype.newbyteorder("<").str
        _, digest = self._elements.setdefault(path, (kind, hashlib.sha256()))
        if text:
            for value in values:
                encoded = value.encode("utf-8")
                digest.update(len(encoded).to_bytes(8, "little") + encoded)
        else:
            digest.update(values.astype(kind, copy=False).tobytes())

    def hexdigest(self) -> str:
        """Return the hash over all elements in the order of their paths' bytes."""
        lines = [
            f"{digest.hexdigest()} {kind} {path}\n"
            for path, (kind, digest) in sorted(
                self._elements.items(), key=lambda item: item[0].encode("utf-8")
            )
        ]
        return hashlib.sha256("".join(lines).encode("utf-8")).hexdigest()


def as_array(value: str | int) -> np.ndarray:
    """Return a scalar as the array of one element that the content hash is defined on."""
    return np.array([value], dtype=object if isinstance(value, str) else np.int64)
