"""`ImagePool`: many images decoded in order, by processes that may hang or die on one of them."""

import json
import os
import queue
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeAlias

from sparsecode.errors import ImageError
from sparsecode.image_worker import HEAD, START, understood
from sparsecode.images import DecodedImage, ImageOptions, read_image

Decoded: TypeAlias = DecodedImage | ImageError

# Enough that asking costs nothing beside decoding, few enough to share among workers.
CHUNK = 32

# glibc gives the memory of every image back to the system and asks for it again, page by page,
# unless told not to; that took a sixth of the time. Other C libraries do not read this.
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}


class ImagePool:
    """Decode images in worker processes; use it in a ``with`` block.

    A worker that takes longer than `time_limit` over one image is replaced, and the image fails.
    One that dies is replaced and tries its image again; the image fails if it dies twice.

    Parameters
    ----------
    options : ImageOptions
        What to make of each image.
    n_workers : int
        Processes; 0 decodes in this one, without a time limit.
    time_limit : float, default=60.0
        Seconds for one image.

    Attributes
    ----------
    busy_seconds : float
        Time that workers spent, summed over them.
    n_replaced : int
        Workers that hung or died.
    """

    def __init__(self, options: ImageOptions, n_workers: int, time_limit: float = 60.0) -> None:
        self.options = options
        self.n_workers = n_workers
        self.time_limit = time_limit
        self.busy_seconds = 0.0
        self.n_replaced = 0
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._workers: set[_Worker] = set()
        self._threads = ThreadPoolExecutor(n_workers or 1, thread_name_prefix="images")
        self._is_closed = False

    def __enter__(self) -> Self:
        for _ in range(self.n_workers):
            self._idle.put(self._new_worker())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # First of all: a thread that lost its worker must not wait for another one.
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._is_closed = True
        for worker in list(self._workers):
            worker.end()
        self._threads.shutdown()
        for worker in list(self._workers):
            worker.end()  # one may have been started meanwhile
            worker.wait()

    def decode(self, chunks: Iterable[Sequence[str]], n_ahead: int) -> Iterator[list[Decoded]]:
        """Decode chunks of paths, in order.

        Parameters
        ----------
        chunks : iterable of sequence of str
            Paths; some tens in each serve best.
        n_ahead : int
            Chunks that may be decoded, or on their way, before they are asked for.

        Yields
        ------
        list of DecodedImage or ImageError
            One entry for each path of a chunk.
        """
        if not self.n_workers:
            yield from ([self._here(path) for path in chunk] for chunk in chunks)
            return
        waiting: deque[Future[list[Decoded]]] = deque()
        for chunk in chunks:
            waiting.append(self._threads.submit(self._decode, chunk))
            if len(waiting) > n_ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _here(self, path: str) -> Decoded:
        start = time.perf_counter()
        try:
            return read_image(path, self.options)
        except ImageError as error:
            return error
        finally:
            self.busy_seconds += time.perf_counter() - start

    def _decode(self, paths: Sequence[str]) -> list[Decoded]:
        start = time.perf_counter()
        worker = self._idle.get()
        results: list[Decoded] = []
        died_on = -1
        while len(results) < len(paths):
            try:
                worker.ask(paths[len(results) :])
                while len(results) < len(paths):
                    results.append(worker.answer(self.time_limit))
            except _LostWorkerError as loss:
                worker = self._replace(worker)
                if loss.is_final or died_on == len(results):
                    results.append(ImageError(str(loss)))
                died_on = len(results)
        self._idle.put(worker)
        self.busy_seconds += time.perf_counter() - start
        return results

    def _new_worker(self) -> "_Worker":
        worker = _Worker(self.options)
        self._workers.add(worker)
        return worker

    def _replace(self, worker: "_Worker") -> "_Worker":
        worker.end()
        worker.wait()
        self._workers.discard(worker)
        if self._is_closed:
            raise ImageError("the pool was closed")
        self.n_replaced += 1
        return self._new_worker()


class _LostWorkerError(Exception):
    """A worker hung (which is final) or died (which may not have been the image's fault)."""

    def __init__(self, reason: str, is_final: bool) -> None:
        super().__init__(reason)
        self.is_final = is_final


class _Worker:
    """One process and its two pipes."""

    def __init__(self, options: ImageOptions) -> None:
        self.options = options
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", START, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=_KEEP_MEMORY | os.environ,
        )
        assert self._process.stdin  # for the type checker: both are pipes
        assert self._process.stdout
        self._questions, self._answers = self._process.stdin, self._process.stdout
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN)
        self._ask(options.to_dict())

    def ask(self, paths: Sequence[str]) -> None:
        """Send paths; there will be an `answer` for each."""
        self._ask(list(paths))

    def answer(self, time_limit: float) -> Decoded:
        """Wait for the next answer."""
        deadline = time.monotonic() + time_limit
        head = self._read(HEAD.size, deadline, time_limit)
        payload = self._read(HEAD.unpack(head)[-1], deadline, time_limit)
        return understood(head, payload, self.options)

    def end(self) -> None:
        """Kill the process."""
        self._process.kill()

    def wait(self) -> None:
        """Wait until it is gone, and close the pipes."""
        self._process.wait()
        self._questions.close()
        self._answers.close()

    def _ask(self, question: object) -> None:
        data = memoryview(json.dumps(question).encode("ascii") + b"\n")
        try:
            while data:
                data = data[self._questions.write(data) :]
        except OSError:
            raise self._death() from None

    def _read(self, size: int, deadline: float, time_limit: float) -> bytes:
        data = bytearray(size)
        view, done = memoryview(data), 0
        while done < size:
            if not self._poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
                raise _LostWorkerError(
                    f"it took longer than {time_limit:g} s to decode (--time-limit)", is_final=True
                )
            count = self._answers.readinto(view[done:])  # type: ignore[attr-defined]  # FileIO
            if not count:
                raise self._death()
            done += count
        return bytes(data)

    def _death(self) -> _LostWorkerError:
        code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return _LostWorkerError(f"the decoder died of it ({how})", is_final=False)
