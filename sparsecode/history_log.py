"""A log of training as it goes on: JSON Lines, and TensorBoard events where that is installed."""

import json
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sparsecode.errors import OutputError, RefusedError

if TYPE_CHECKING:
    from sparsecode.trainer import EpochRecord

HISTORY = "history.jsonl"
_NOT_DRAWN = {"epoch", "n_samples"}


class HistoryLog:
    """Context manager around a fit; call it with the record of each epoch.

    Parameters
    ----------
    folder : path-like
        Made if it is not there. ``history.jsonl`` gets one line per epoch; TensorBoard's events
        lie beside it.
    overwrite : bool, default=False
        Start an existing history anew.

    Attributes
    ----------
    has_events : bool
        Whether TensorBoard is installed, so that there are events.

    Raises
    ------
    RefusedError
        There is a history already.
    OutputError
        The folder cannot be written.
    """

    def __init__(self, folder: str | PathLike[str], overwrite: bool = False) -> None:
        path = Path(folder) / HISTORY
        if path.exists() and not overwrite:
            raise RefusedError(
                f"{path} exists; give another folder, or --overwrite to start it anew"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("w", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
        self._events = _event_writer(path.parent)
        self.has_events = self._events is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()

    def __call__(self, record: "EpochRecord") -> None:
        """Write one epoch, at once, for whoever watches."""
        figures = asdict(record) | {"rate": record.rate}
        try:
            self._file.write(json.dumps(figures) + "\n")
            self._file.flush()
        except OSError as error:
            raise OutputError(f"cannot write {HISTORY}: {error.strerror or error}") from error
        if self._events is None:
            return
        for name, value in figures.items():
            if name not in _NOT_DRAWN and value is not None:
                self._events.add_scalar(f"training/{name}", value, record.epoch)
        self._events.flush()


def _event_writer(folder: Path) -> Any:
    try:
        from tensorboard.summary import Writer
    except ImportError:
        return None
    return Writer(str(folder))
