"""Do one thing in a forked process, which may crash or hang without harm."""

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext
from typing import TypeVar

import torch

T = TypeVar("T")
_FORK: ForkContext = multiprocessing.get_context("fork")


def outcome(work: Callable[[], str], seconds: float) -> str:
    """Return what `work` returns, or "raised ...", "crashed ..." or "hung"."""
    (answer,) = outcomes(lambda _: work(), [None], seconds)
    return answer


def outcomes(work: Callable[[T], str], items: Iterable[T], seconds: float) -> Iterator[str]:
    """Yield what `work` says of each item; a crash or hang costs one process, not the others."""
    waiting = list(items)
    while waiting:
        answers = list(_until_it_ends(work, waiting, seconds))
        yield from answers
        waiting = waiting[len(answers) :]


def _until_it_ends(work: Callable[[T], str], items: list[T], seconds: float) -> Iterator[str]:
    here, there = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_serve, args=(there, work, items), daemon=True)
    process.start()
    there.close()
    try:
        for _ in items:
            if not here.poll(seconds):
                yield "hung"
                return
            try:
                yield here.recv()
            except EOFError:
                process.join()
                code = process.exitcode or 0
                yield f"crashed ({signal.Signals(-code).name if code < 0 else f'exit {code}'})"
                return
    finally:
        process.kill()
        process.join()
        here.close()


def _serve(pipe: Connection, work: Callable[[T], str], items: list[T]) -> None:
    torch.set_num_threads(1)  # a forked process has none of its parent's
    for item in items:
        try:
            answer = work(item)
        except BaseException as error:
            answer = f"raised {error!r}"
        pipe.send(answer)
