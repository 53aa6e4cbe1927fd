"""Pixels come back in order and the same as without workers; hangs and deaths cost one image."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparsecode import image_pool
from sparsecode.errors import ImageError
from sparsecode.image_pool import CHUNK, ImagePool
from sparsecode.images import ImageOptions, read_image

OPTIONS = ImageOptions(6, 5, 3)


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    names = []
    for i in range(70):
        path = folder / f"{i}.png"
        if i % 10 == 3:
            path.write_bytes(b"no image")
        else:
            Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)).save(path)
        names.append(str(path))
    return names


def chunked(paths):
    return [paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK)]


def decoded(paths, **settings):
    with ImagePool(OPTIONS, **settings) as pool:
        return [image for part in pool.decode(chunked(paths), 2) for image in part], pool


@pytest.mark.parametrize("n_workers", [0, 1, 3])
def test_all_in_order_whatever_the_workers(paths, n_workers):
    images, pool = decoded(paths, n_workers=n_workers)
    assert len(images) == len(paths)
    for path, image in zip(paths, images, strict=True):
        if isinstance(image, ImageError):
            with pytest.raises(ImageError, match=re.escape(str(image))):
                read_image(path, OPTIONS)
        else:
            assert np.array_equal(image.pixels, read_image(path, OPTIONS).pixels)
            assert (image.width, image.height) == (9, 7)
    assert pool.n_replaced == 0
    assert pool.busy_seconds > 0


@pytest.fixture
def saboteur(tmp_path, monkeypatch):
    """Let workers run code when they decode a file of a certain name."""

    def install(code: str) -> None:
        (tmp_path / "sitecustomize_worker.py").write_text(
            "import os, signal, time, pathlib\n"
            "from sparsecode import image_worker, images\n"
            "real = images.read_image\n"
            "def read(path, options):\n"
            "    if path.endswith('13.png'):\n"
            f"        {code}\n"
            "    return real(path, options)\n"
            "image_worker.read_image = read\n"
        )
        monkeypatch.setattr(
            "sparsecode.image_pool.START",
            "import sys; sys.path[:] = sys.argv[1:]; "
            f"sys.path.insert(0, {str(tmp_path)!r}); import sitecustomize_worker; "
            "from sparsecode.image_worker import main; main()",
        )

    return install


def test_an_image_that_hangs_fails_alone(paths, saboteur):
    saboteur("time.sleep(1000)")
    images, pool = decoded([*paths[:13], "x13.png", *paths[14:]], n_workers=1, time_limit=3.0)
    assert str(images[13]) == "it took longer than 3 s to decode (--time-limit)"
    assert pool.n_replaced == 1
    whole, _ = decoded(paths, n_workers=0)
    for i, (image, alone) in enumerate(zip(images, whole, strict=True)):
        if i != 13 and not isinstance(alone, ImageError):
            assert np.array_equal(image.pixels, alone.pixels)


def test_an_image_that_kills_its_decoder_twice_fails_alone(paths, saboteur):
    saboteur("os.kill(os.getpid(), signal.SIGSEGV)")
    images, pool = decoded([*paths[:13], "x13.png", *paths[14:]], n_workers=2)
    assert str(images[13]) == "the decoder died of it (SIGSEGV)"
    assert pool.n_replaced == 2
    assert sum(isinstance(image, ImageError) for image in images) == 1 + 6


def test_a_worker_that_dies_once_costs_nothing(paths, tmp_path, saboteur):
    mark = tmp_path / "died"
    saboteur(f"p = pathlib.Path({str(mark)!r}); p.exists() or (p.touch(), os._exit(7))")
    (tmp_path / "x13.png").write_bytes(Path(paths[0]).read_bytes())
    images, pool = decoded([str(tmp_path / "x13.png"), *paths[1:]], n_workers=1)
    assert mark.exists()
    assert np.array_equal(images[0].pixels, read_image(paths[0], OPTIONS).pixels)
    assert pool.n_replaced == 1


def test_what_a_decoder_prints_is_not_taken_for_pixels(paths, saboteur, capfd):
    saboteur("print('noise', flush=True)")
    images, _ = decoded([*paths[:12], paths[12].replace("12.png", "13.png")], n_workers=1)
    assert isinstance(images[12], ImageError)
    assert not isinstance(images[11], ImageError)
    assert "noise" in capfd.readouterr().err


def test_leaving_early_ends_the_workers(paths):
    with ImagePool(OPTIONS, 2) as pool:
        next(pool.decode(chunked(paths * 20), 4))
        workers = [worker._process.pid for worker in pool._workers]
    assert len(workers) == 2
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_leaving_ends_though_more_is_asked_for(paths, monkeypatch):
    kill = image_pool._Worker.end

    def end(worker):
        kill(worker)
        if threading.current_thread() is threading.main_thread():
            time.sleep(0.3)  # so that whoever waits for its answer sees that it is gone

    monkeypatch.setattr(image_pool._Worker, "end", end)
    with ImagePool(OPTIONS, 1) as pool:
        next(pool.decode([[path] for path in paths * 20], 1000))
    assert pool.n_replaced == 0


def test_workers_end_with_a_killed_parent(paths, tmp_path):
    script = (
        "import sys, time; from sparsecode.image_pool import ImagePool; "
        "from sparsecode.images import ImageOptions; "
        "pool = ImagePool(ImageOptions(2, 2, 1), 2).__enter__(); "
        "print(*[worker._process.pid for worker in pool._workers], flush=True); time.sleep(100)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 60
    while any(_runs(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_runs(pid) for pid in workers)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
