"""Stopping a long job: the first signal asks it to finish what is in hand, the second insists."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """While it is entered (in the main thread), Ctrl-C and SIGTERM set `signal` and do no more.

    A second one does what it did before.

    Parameters
    ----------
    message : bytes, optional
        Written to stderr at the first one.

    Attributes
    ----------
    signal : int or None
        The signal that asked to stop.
    """

    def __init__(self, message: bytes = b"") -> None:
        self.message = message
        self.signal: int | None = None
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        self._restore()
        if self.message:
            os.write(2, self.message)  # nothing buffered may be touched in a signal handler

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
