"""What the commands share: their options, exit codes, and how they talk to people."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

import typer

from sparsecode.errors import (
    NoInputError,
    OutputError,
    SparsecodeError,
    StoppedError,
    plain_lines,
)

EXIT_REFUSED, EXIT_SOME_FAILED, EXIT_NO_INPUT, EXIT_OUTPUT = 2, 3, 4, 5
EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143


class Posterior(StrEnum):
    """Choices of ``--posterior``."""

    spike_slab = "spike_slab"
    gaussian = "gaussian"


class Likelihood(StrEnum):
    """Choices of ``--likelihood``."""

    auto = "auto"
    bernoulli = "bernoulli"
    continuous_bernoulli = "continuous_bernoulli"
    gaussian = "gaussian"


class When(StrEnum):
    """Choices of ``--progress``."""

    auto = "auto"
    on = "on"
    off = "off"


class OnError(StrEnum):
    """Choices of ``--on-error``."""

    skip = "skip"
    fail = "fail"


class Task(StrEnum):
    """Choices of ``--task``."""

    auto = "auto"
    classify = "classify"
    regress = "regress"


class Compression(StrEnum):
    """Choices of ``--compression``."""

    gzip = "gzip"
    gzip9 = "gzip9"
    lzf = "lzf"
    none = "none"


class ImageSize(NamedTuple):
    """Value of ``--size``."""

    height: int
    width: int


class Share(NamedTuple):
    """Value of ``--shard``."""

    number: int
    of: int


class Widths(tuple[int, ...]):
    """Value of ``--hidden-sizes``."""


def _size(text: str) -> ImageSize:
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"{text!r} is not a size: use 28, or WIDTHxHEIGHT such as 64x48")
    return ImageSize(height=int(parts[-1]), width=int(parts[0]))


def _share(text: str) -> Share:
    index, _, of = text.partition("/")
    if not (index.isdigit() and of.isdigit()) or not 1 <= int(index) <= int(of):
        raise typer.BadParameter(f"{text!r} is not a share: use I/N with 1 <= I <= N, such as 2/8")
    return Share(int(index), int(of))


def _widths(text: str) -> Widths:
    if text in ("linear", ""):
        return Widths()
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise typer.BadParameter(f"{text!r} is not a list of widths: use 512,256, or linear")
    return Widths(int(part) for part in text.split(","))


INPUTS, MODEL, IMAGES, RUN = "Inputs", "Model", "Images", "Running"
Inputs = Annotated[
    list[str] | None,
    typer.Argument(
        help="Folders, images, globs, or one array file.", show_default=False, metavar="INPUT..."
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option("--include", help="Take only names that fit; repeatable.", rich_help_panel=INPUTS),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", help="Leave out names that fit; repeatable.", rich_help_panel=INPUTS),
]
FilesFrom = Annotated[
    str | None,
    typer.Option(
        "--files-from", help="File of more paths, a line each; - is stdin.", rich_help_panel=INPUTS
    ),
]
Null = Annotated[
    bool, typer.Option("--null", "-0", help="Paths end with NUL.", rich_help_panel=INPUTS)
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=0,
        help="Processes that decode images; 0: none. (default: one for each CPU)",
        rich_help_panel=RUN,
    ),
]
TimeLimit = Annotated[
    float,
    typer.Option("--time-limit", help="Seconds for one image.", rich_help_panel=IMAGES, min=0.001),
]
PartSize = Annotated[
    int | None,
    typer.Option(
        "--part-size",
        min=1,
        help="Inputs in a part. (default: 2048 images, 16384 rows)",
        rich_help_panel=RUN,
    ),
]
CompressionOption = Annotated[
    Compression, typer.Option("--compression", help="Of the output.", rich_help_panel=RUN)
]
MaxErrors = Annotated[
    int | None,
    typer.Option("--max-errors", min=0, help="Give up when more inputs fail.", rich_help_panel=RUN),
]
NoResume = Annotated[
    bool,
    typer.Option("--no-resume", help="Remove what an interrupted run left.", rich_help_panel=RUN),
]
Shard = Annotated[
    Share | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        parser=_share,
        help="Encode one share; `merge` puts them together.",
        rich_help_panel=RUN,
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done.", rich_help_panel=RUN)
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more.", rich_help_panel=RUN)]
P = Annotated[
    float | None,
    typer.Option("--p", help="Fraction of exact zeros. (default: 0.8)", rich_help_panel=MODEL),
]
NComponents = Annotated[
    int | None,
    typer.Option(
        "--n-components", "-k", help="Number of latents. (default: 256)", rich_help_panel=MODEL
    ),
]
PosteriorOption = Annotated[
    Posterior | None,
    typer.Option("--posterior", help="(default: spike_slab)", rich_help_panel=MODEL),
]
LikelihoodOption = Annotated[
    Likelihood | None, typer.Option("--likelihood", help="(default: auto)", rich_help_panel=MODEL)
]
Beta = Annotated[
    float | None,
    typer.Option("--beta", help="Weight of the rate. (default: auto)", rich_help_panel=MODEL),
]
HiddenSizes = Annotated[
    Widths | None,
    typer.Option(
        "--hidden-sizes",
        metavar="W,W,...",
        parser=_widths,
        rich_help_panel=MODEL,
        help="Widths of hidden layers, or 'linear'. (default: auto)",
    ),
]
Convolutional = Annotated[
    bool, typer.Option("--convolutional", help="Convolutional networks.", rich_help_panel=MODEL)
]
MaxIter = Annotated[
    int | None, typer.Option("--max-iter", help="Epochs. (default: auto)", rich_help_panel=MODEL)
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size", help="Rows in a training step. (default: auto)", rich_help_panel=MODEL
    ),
]
LearningRate = Annotated[
    float | None,
    typer.Option("--learning-rate", help="(default: auto)", rich_help_panel=MODEL),
]
MaxTime = Annotated[
    float | None,
    typer.Option("--max-time", help="Seconds of training at most.", rich_help_panel=MODEL),
]
EarlyStopping = Annotated[
    bool,
    typer.Option(
        "--early-stopping", help="Stop when held-out loss stops falling.", rich_help_panel=MODEL
    ),
]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Random state. (default: 0)", rich_help_panel=MODEL)
]
Size = Annotated[
    ImageSize | None,
    typer.Option(
        "--size",
        metavar="N|WxH",
        parser=_size,
        rich_help_panel=IMAGES,
        help="Resize images. (default: the commonest size, at most 64)",
    ),
]
Channels = Annotated[
    int | None,
    typer.Option(
        "--channels",
        help="1 grey, 3 colour. (default: as the images)",
        min=1,
        max=3,
        rich_help_panel=IMAGES,
    ),
]
NoExif = Annotated[
    bool, typer.Option("--no-exif", help="Ignore EXIF orientation.", rich_help_panel=IMAGES)
]
MaxPixels = Annotated[
    int, typer.Option("--max-pixels", help="Larger images fail.", min=1, rich_help_panel=IMAGES)
]
FollowSymlinks = Annotated[
    bool,
    typer.Option("--follow-symlinks", help="Walk into linked folders.", rich_help_panel=INPUTS),
]
OnErrorOption = Annotated[
    OnError, typer.Option("--on-error", help="What a broken image does.", rich_help_panel=IMAGES)
]
Device = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda, cuda:1.", rich_help_panel=RUN)
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace existing outputs.", rich_help_panel=RUN)
]
ProgressOption = Annotated[
    When, typer.Option("--progress", help="Show progress.", rich_help_panel=RUN)
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Nothing but errors.", rich_help_panel=RUN)
]
AsJson = Annotated[
    bool, typer.Option("--json", help="JSON on stdout instead of a table.", rich_help_panel=RUN)
]


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn the package's errors into one line on stderr and an exit code."""
    try:
        yield
    except KeyboardInterrupt:
        fail("interrupted", EXIT_INTERRUPTED)
    except StoppedError as error:
        fail(f"stopped; {error}", 128 + error.signal)
    except (NoInputError, FileNotFoundError) as error:
        fail(str(error), EXIT_NO_INPUT)
    except OutputError as error:
        fail(str(error), EXIT_OUTPUT)
    except (SparsecodeError, ValueError, ImportError) as error:
        fail(str(error), EXIT_REFUSED)
    except OSError as error:
        fail(str(error), EXIT_OUTPUT)


def fail(message: str, code: int) -> None:
    """Say one line on stderr and leave with an exit code."""
    typer.echo(f"sparsecode: {plain_lines(message)}", err=True)
    raise typer.Exit(code) from None


def shows_progress(progress: When, quiet: bool) -> bool:
    """Whether progress is wanted."""
    return progress is When.on or (progress is When.auto and not quiet)


def say(quiet: bool) -> Any:
    """Return a function that prints a sentence on stderr, unless `quiet`."""
    return lambda sentence: None if quiet else typer.echo(plain_lines(sentence), err=True)
