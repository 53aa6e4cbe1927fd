"""Progress for people: one line on stderr, animated only on a terminal."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from sparsecode.errors import plain_lines

if TYPE_CHECKING:  # the command line shows tables without waiting for torch
    from sparsecode.trainer import EpochRecord, ProgressCallback

    EpochListener = Callable[[EpochRecord], None]

_WIDE = 120


class TrainingProgress:
    """Context manager around one ``fit``; hands out callbacks for its stages.

    Parameters
    ----------
    verbose : int
        0 shows nothing; 1 a progress line on a terminal, and a line per tenth of the epochs
        elsewhere.
    console : Console, optional
        Where to write; stderr by default.
    listener : callable, optional
        Called with the record of each epoch of the training, whatever is shown.
    """

    def __init__(
        self,
        verbose: int,
        console: Console | None = None,
        listener: "EpochListener | None" = None,
    ) -> None:
        self.verbose = verbose
        self.listener = listener
        self.console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not verbose or not self.console.is_terminal,
        )

    def __enter__(self) -> "TrainingProgress":
        self._bar.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Print a sentence, unless nothing is to be shown."""
        if self.verbose:
            self.console.print(text, highlight=False, soft_wrap=True)

    def stage(self, name: str, n_epochs: int) -> "ProgressCallback | None":
        """Start a stage ("training", "calibrating 1/4") and return its callback."""
        is_training = name == "training"
        listener = self.listener if is_training else None
        if not self.verbose:
            return _listening(listener)
        task = self._bar.add_task(name, total=None, figures="")
        last_part = 0
        if self._bar.disable:
            self.console.print(f"{name} for {n_epochs} epochs", highlight=False)

        def update(step: int, n_steps: int, record: "EpochRecord | None") -> None:
            nonlocal last_part
            self._bar.update(task, completed=step, total=n_steps)
            if record is None:
                return
            if listener:
                listener(record)
            self._bar.update(task, figures=_figures(record))
            # Elsewhere than on a terminal: ten lines for the training, one for each later stage.
            part = (10 if is_training else 1) * step // n_steps
            if self._bar.disable and part > last_part:
                last_part = part
                line = f"{name}: {_figures(record)}"
                self.console.print(line, highlight=False, soft_wrap=True)

        return update


def _listening(listener: "EpochListener | None") -> "ProgressCallback | None":
    """Pass the epochs' records on, and show nothing."""
    if listener is None:
        return None

    def update(_step: int, _n_steps: int, record: "EpochRecord | None") -> None:
        if record is not None:
            listener(record)

    return update


@dataclass
class EncodingState:
    """How far an encoding (or decoding) is.

    Attributes
    ----------
    listed, done, failed : int
        Inputs of the job; those encoded, and those without a row, earlier runs included.
    encoded : int
        Inputs that this run has been through.
    decode_seconds, encode_seconds, write_seconds : float
        Time that each stage was busy; they overlap.
    """

    listed: int
    done: int = 0
    failed: int = 0
    encoded: int = 0
    decode_seconds: float = 0.0
    encode_seconds: float = 0.0
    write_seconds: float = 0.0

    def rates(self) -> str:
        """Return inputs per second of every stage that was busy."""
        stages = {
            "read": self.decode_seconds,
            "encode": self.encode_seconds,
            "write": self.write_seconds,
        }
        busy = [f"{n} {self.encoded / s:,.0f}/s" for n, s in stages.items() if s and self.encoded]
        return "  ".join(busy)


class EncodingProgress:
    """Context manager around an encoding; call it with its state.

    On a terminal one line moves; elsewhere there is a line for every twentieth part.
    """

    def __init__(self, shown: bool, name: str = "encoding", console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.name = name
        self._shown = shown
        self._bar = Progress(
            TextColumn(name),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            speed_estimate_period=300,
            disable=not shown or not self.console.is_terminal,
        )
        self._task: TaskID | None = None
        self._said = 0

    def __enter__(self) -> "EncodingProgress":
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def __call__(self, state: EncodingState) -> None:
        """Show how far the encoding is."""
        through = state.done + state.failed
        figures = state.rates() + (f"  {state.failed:,} failed" if state.failed else "")
        if self._task is None:  # started late: training has a line of its own before
            self._bar.start()
            self._task = self._bar.add_task("", total=state.listed, figures="")
            # What an earlier run did must not count for the speed of this one.
            self._bar.update(self._task, completed=through - state.encoded)
        self._bar.update(self._task, completed=through, figures=figures)
        if self._shown and self._bar.disable:
            self._say(state, through, figures)

    def _say(self, state: EncodingState, through: int, figures: str) -> None:
        part = 20 * through // max(1, state.listed)
        if part > self._said:
            self._said = part
            line = f"{self.name}: {through:,} of {state.listed:,}  {figures}"
            self.console.print(line, highlight=False, soft_wrap=True)


def _figures(record: "EpochRecord") -> str:
    speed = record.n_samples / max(record.seconds, 1e-9)
    return (
        f"epoch {record.epoch}  loss {record.loss:.1f}  rate {record.rate:.1f}  "
        f"distortion {record.distortion:.1f}  density {record.density:.3f}  "
        f"dead {record.dead}  {speed:,.0f}/s"
    )


def print_rows(rows: Mapping[str, str], stderr: bool = False) -> None:
    """Print names and values as a two-column table, on stdout unless ``stderr``."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(plain_lines(value)))
    Console(stderr=stderr, highlight=False).print(table)


def print_view(view: object) -> None:
    """Print a result that has a rich view on stdout; elsewhere than on a terminal never cut."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=max(console.width, _WIDE))
    console.print(view)
