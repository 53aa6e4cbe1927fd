"""The images that Pillow is tested with, from its source distribution, if that can be had."""

import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import PIL

from benchmarks.reliability.decoding import Case

_FOLDER = "/Tests/images/"


class UnavailableError(Exception):
    """The source distribution cannot be downloaded; the message is the reason."""


def fetch(folder: Path, seconds: float = 120) -> Path:
    """Return the archive in a folder, downloaded with pip unless it is there.

    Only Pillow itself is asked for as source: what pip needs to read its metadata comes built.
    """
    archive = folder / f"pillow-{PIL.__version__}.tar.gz"
    if archive.exists():
        return archive
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--retries", "0"]
    command += ["--disable-pip-version-check", "--no-binary", "pillow", "--no-deps"]
    command += ["--dest", str(folder), f"pillow=={PIL.__version__}"]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"pip did not finish in {seconds:g} s") from error
    except (OSError, subprocess.CalledProcessError) as error:
        output = getattr(error, "stderr", b"").decode(errors="replace").strip()
        raise UnavailableError(output.splitlines()[-1] if output else str(error)) from error
    if not archive.exists():
        raise UnavailableError(f"pip brought no {archive.name}")
    return archive


def cases(archive: Path, largest: int = 2**30) -> Iterator[Case]:
    """Yield every file beside Pillow's test images, some of them broken on purpose."""
    with tarfile.open(archive) as file:
        for member in file:
            if member.isfile() and _FOLDER in member.name and member.size <= largest:
                content = file.extractfile(member)
                assert content is not None
                yield Case(member.name.split(_FOLDER)[1], content.read(), "either")
