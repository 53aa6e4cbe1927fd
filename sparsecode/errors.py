"""Exceptions and warnings: one class for each thing that a caller would handle differently.

The command line turns each into an exit code (see ``sparsecode.cli_options``), so a new class
belongs here only when it calls for a different answer.
"""


class SparsecodeError(Exception):
    """Base class of every error that sparsecode raises on purpose."""


class NoInputError(SparsecodeError, FileNotFoundError):
    """Nothing to read: a missing path, an empty folder, a folder without images."""


class RefusedError(SparsecodeError, ValueError):
    """The request contradicts itself, its inputs or a file that exists; nothing was written."""


class ImageError(SparsecodeError, ValueError):
    """One file is not an image that can be encoded; the message is the reason."""


class CodesFormatError(SparsecodeError, ValueError):
    """A file is not a sparsecode ``.h5``, or is damaged."""


class ModelFormatError(SparsecodeError, ValueError):
    """A file is not a sparsecode model, or is damaged, or was made by an unknown version."""


class OutputError(SparsecodeError, OSError):
    """The output could not be written; the final file is absent or as it was before."""


class TrainingDivergedError(SparsecodeError, ArithmeticError):
    """Training produced NaN or infinity; the message names the step and the last good epoch."""


class FitInterruptedWarning(UserWarning):
    """``fit`` was interrupted (Ctrl-C) and kept the model trained so far."""


class UnscaledFeatureWarning(UserWarning):
    """One feature holds nearly all variance, so codes will tell of little else."""


class StoppedError(SparsecodeError):
    """A signal asked a long job to stop; what is done is kept, and the same call goes on.

    Attributes
    ----------
    signal : int
        Its number.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


_MAX_TEXT = 500


def plain_text(value: object) -> str:
    """Return text that may come from a foreign file as one line, shortened, for a message."""
    text = str(value)
    return _escaped(text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}...")


def plain_lines(text: str) -> str:
    """Return text that may come from a foreign file without what would command a terminal."""
    return "\n".join(map(_escaped, text.split("\n")))


def _escaped(line: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
