"""The program that an `ImagePool` runs in its own processes: paths in, pixels or reasons out.

It shares nothing with its parent but two pipes, so whatever a hostile image does to a decoder stays
here. A line of JSON is asked (first the options, then lists of paths); for every path there is one
answer of a fixed head and its payload. It ends when its input does.
"""

import json
import os
import signal
import struct
import sys
from typing import BinaryIO

import numpy as np

from sparsecode.errors import ImageError
from sparsecode.images import DecodedImage, ImageOptions, read_image

HEAD = struct.Struct("<?iiq")
"""Whether the payload is pixels (else a reason), width, height, bytes of the payload."""

START = "import sys; sys.path[:] = sys.argv[1:]; from sparsecode.image_worker import main; main()"
"""What ``python -P -c`` runs, with the parent's `sys.path` as arguments."""


def main() -> None:
    """Answer until the parent is gone; Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints must not be taken for pixels
    try:
        serve(sys.stdin.buffer, answers)
    except BrokenPipeError:
        os._exit(0)


def serve(questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer every path, each at once: the last one without an answer is the one that hangs."""
    head = questions.readline()
    if not head:  # the parent was gone before it said what it wants
        return
    options = ImageOptions.from_dict(json.loads(head))
    for line in questions:
        for path in json.loads(line):
            answers.write(answer(path, options))
            answers.flush()


def answer(path: str, options: ImageOptions) -> bytes:
    """Decode one image."""
    try:
        image = read_image(path, options)
    except ImageError as error:
        reason = str(error).encode("utf-8", "backslashreplace")
        return HEAD.pack(False, 0, 0, len(reason)) + reason
    pixels = image.pixels.tobytes()
    return HEAD.pack(True, image.width, image.height, len(pixels)) + pixels


def understood(head: bytes, payload: bytes, options: ImageOptions) -> DecodedImage | ImageError:
    """Read an answer back."""
    is_image, width, height, _ = HEAD.unpack(head)
    if not is_image:
        return ImageError(payload.decode("utf-8"))
    shape = (options.height, options.width, options.channels)
    return DecodedImage(np.frombuffer(payload, np.uint8).reshape(shape), width, height)
