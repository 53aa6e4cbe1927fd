"""The command line: parse, call one function, print. Data on stdout, all else on stderr.

Heavy modules are reached through ``sparsecode``'s lazy names, so that ``--help`` does not wait for
torch.
"""

import json
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NamedTuple

import typer

import sparsecode
from sparsecode.errors import (
    CodesFormatError,
    FitInterruptedWarning,
    NoInputError,
    OutputError,
    SparsecodeError,
)

EXIT_REFUSED, EXIT_SOME_FAILED, EXIT_NO_INPUT, EXIT_OUTPUT = 2, 3, 4, 5
EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143

app = typer.Typer(
    name="sparsecode",
    help="Sparse codes with exact zeros, as many as you ask for.",
    epilog="Exit codes: 0 done; 1 bug; 2 refused; 3 finished, some inputs failed; 4 no input "
    "found; 5 output or disk error; 130 and 143 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


class ImageSize(NamedTuple):
    """Value of ``--size``."""

    height: int
    width: int


class Widths(tuple[int, ...]):
    """Value of ``--hidden-sizes``."""


def _size(text: str) -> ImageSize:
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"{text!r} is not a size: use 28, or WIDTHxHEIGHT such as 64x48")
    return ImageSize(height=int(parts[-1]), width=int(parts[0]))


def _widths(text: str) -> Widths:
    if text in ("linear", ""):
        return Widths()
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise typer.BadParameter(f"{text!r} is not a list of widths: use 512,256, or linear")
    return Widths(int(part) for part in text.split(","))


MODEL, IMAGES, RUN = "Model", "Images", "Running"
Inputs = Annotated[
    list[str], typer.Argument(help="Folders, images, globs, or one array file.", show_default=False)
]
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
    typer.Option("--follow-symlinks", help="Walk into linked folders.", rich_help_panel=IMAGES),
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


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, _terminate)
    app()


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(EXIT_TERMINATED)  # through the context managers, which remove partial files


@contextmanager
def _exit_codes() -> Iterator[None]:
    """Turn the package's errors into one line on stderr and an exit code."""
    try:
        yield
    except KeyboardInterrupt:
        _fail("interrupted", EXIT_INTERRUPTED)
    except (NoInputError, FileNotFoundError) as error:
        _fail(str(error), EXIT_NO_INPUT)
    except OutputError as error:
        _fail(str(error), EXIT_OUTPUT)
    except (SparsecodeError, ValueError, ImportError) as error:
        _fail(str(error), EXIT_REFUSED)
    except OSError as error:
        _fail(str(error), EXIT_OUTPUT)


def _fail(message: str, code: int) -> None:
    typer.echo(f"sparsecode: {message}", err=True)
    raise typer.Exit(code) from None


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sparsecode {sparsecode.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def _given(**parameters: Any) -> dict[str, Any]:
    """Parameters that were given on the command line; the estimator has the defaults."""
    return {
        name: str(value) if isinstance(value, StrEnum) else value
        for name, value in parameters.items()
        if value is not None and value is not False
    }


def _shows(progress: When, quiet: bool) -> bool:
    return progress is When.on or (progress is When.auto and not quiet)


def _say(quiet: bool) -> Any:
    return lambda sentence: None if quiet else typer.echo(sentence, err=True)


@app.command()
def fit(
    inputs: Inputs,
    model: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    p: P = None,
    n_components: NComponents = None,
    posterior: PosteriorOption = None,
    likelihood: LikelihoodOption = None,
    beta: Beta = None,
    hidden_sizes: HiddenSizes = None,
    convolutional: Convolutional = False,
    max_iter: MaxIter = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    max_time: MaxTime = None,
    early_stopping: EarlyStopping = False,
    seed: Seed = None,
    size: Size = None,
    channels: Channels = None,
    no_exif: NoExif = False,
    max_pixels: MaxPixels = 100_000_000,
    follow_symlinks: FollowSymlinks = False,
    on_error: OnErrorOption = OnError.skip,
    device: Device = "auto",
    log_dir: Annotated[
        Path | None,
        typer.Option(
            "--log-dir", help="Folder for history.jsonl and TensorBoard.", rich_help_panel=RUN
        ),
    ] = None,
    overwrite: Overwrite = False,
    progress: ProgressOption = When.auto,
    quiet: Quiet = False,
) -> None:
    """Train a model on images or an array, and save it."""
    parameters = _given(
        p=p, n_components=n_components, posterior=posterior, likelihood=likelihood, beta=beta,
        hidden_sizes=hidden_sizes, max_iter=max_iter, batch_size=batch_size,
        learning_rate=learning_rate, max_time=max_time, early_stopping=early_stopping,
    )  # fmt: skip
    parameters |= {"random_state": seed or 0, "device": device}
    parameters["verbose"] = int(_shows(progress, quiet))
    with _exit_codes():
        options = sparsecode.encoding.InputOptions(
            size, channels, not no_exif, max_pixels, convolutional, follow_symlinks, str(on_error)
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", FitInterruptedWarning)
            sparsecode.fit_files(
                inputs, model, options=options, parameters=parameters, overwrite=overwrite,
                report=_say(quiet), log_dir=log_dir,
            )  # fmt: skip
        if any(issubclass(warning.category, FitInterruptedWarning) for warning in caught):
            _fail(f"interrupted; the model so far is in {model}", EXIT_INTERRUPTED)
        _say(quiet)(f"wrote {model}")


@app.command()
def encode(
    inputs: Inputs,
    output: Annotated[Path, typer.Argument(help="The .h5 file to write.")],
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", help="A model from `fit`; without it one is trained first."),
    ] = None,
    failures: Annotated[
        Path | None, typer.Option("--failures", help="JSON Lines file for inputs that failed.")
    ] = None,
    p: P = None,
    n_components: NComponents = None,
    posterior: PosteriorOption = None,
    likelihood: LikelihoodOption = None,
    beta: Beta = None,
    hidden_sizes: HiddenSizes = None,
    convolutional: Convolutional = False,
    max_iter: MaxIter = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    max_time: MaxTime = None,
    early_stopping: EarlyStopping = False,
    seed: Seed = None,
    size: Size = None,
    channels: Channels = None,
    no_exif: NoExif = False,
    max_pixels: MaxPixels = 100_000_000,
    follow_symlinks: FollowSymlinks = False,
    on_error: OnErrorOption = OnError.skip,
    device: Device = "auto",
    overwrite: Overwrite = False,
    progress: ProgressOption = When.auto,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Encode images or an array to sparse codes in one HDF5 file.

    Without a model, one is trained on the inputs first and saved beside the output.
    """
    parameters = _given(
        p=p, n_components=n_components, posterior=posterior, likelihood=likelihood, beta=beta,
        hidden_sizes=hidden_sizes, max_iter=max_iter, batch_size=batch_size,
        learning_rate=learning_rate, max_time=max_time, early_stopping=early_stopping,
        random_state=seed,
    )  # fmt: skip
    fixed = parameters | _given(
        size=size, channels=channels, no_exif=no_exif, convolutional=convolutional
    )
    shows = _shows(progress, quiet)
    with _exit_codes():
        if model is not None and fixed:
            names = ", ".join("--" + name.replace("_", "-") for name in sorted(fixed))
            _fail(f"{names} belong to the model {model} and cannot change now", EXIT_REFUSED)
        parameters |= {"random_state": seed or 0, "device": device, "verbose": int(shows)}
        options = sparsecode.encoding.InputOptions(
            size, channels, not no_exif, max_pixels, convolutional, follow_symlinks, str(on_error)
        )
        with sparsecode.progress.EncodingProgress(shows) as advance:
            summary = sparsecode.encode_files(
                inputs, output, model=model, options=options, parameters=parameters,
                overwrite=overwrite, failures=failures, report=_say(quiet), progress=advance,
            )  # fmt: skip
    _print_summary(summary, as_json, quiet)
    if summary.failed:
        raise typer.Exit(EXIT_SOME_FAILED)


def _print_summary(summary: Any, as_json: bool, quiet: bool) -> None:
    if as_json:
        typer.echo(json.dumps(summary.to_dict(), indent=2))
    if quiet:
        return
    if not as_json:
        rows = {
            "images" if summary.is_images else "rows": f"{summary.listed:,}",
            "failed": f"{summary.failed:,}",
            "latents": f"{summary.n_latents:,}",
            "non-zeros per code (L0)": f"{summary.l0_mean:.1f} ± {summary.l0_sd:.1f}",
            "zeros asked": f"{summary.zeros_asked:.3f}",
            "zeros got": _zeros(summary),
            "dead latents": f"{summary.dead_latents:,}",
            "explained variance": f"{summary.explained_variance:.3f}",
            "seconds": f"{summary.seconds:.1f}",
            "files": "\n".join(summary.files),
        }
        sparsecode.progress.print_rows(rows, stderr=True)
    for failure in summary.failures[:5]:
        typer.echo(f"failed: {failure.path}: {failure.reason}", err=True)
    if summary.failed > 5:
        typer.echo(f"and {summary.failed - 5:,} more (see --failures)", err=True)


def _zeros(summary: Any) -> str:
    if summary.zeros_held_out is None:
        return f"{summary.zeros_got:.3f}"
    return f"{summary.zeros_got:.3f}; {summary.zeros_held_out:.3f} on rows held out of training"


@app.command()
def report(
    codes: Annotated[Path, typer.Argument(help="Codes (.h5) from `encode`.")],
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="(default: the one beside the codes)")
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--inputs", "-i", help="What was encoded, for the pictures."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page. (default: CODES.html)")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="CSV or Parquet with the rows' names and their labels."),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option("--column", help="Which column. (default: label, the folders' names)"),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", help="Codes of other data: did the data change?"),
    ] = None,
    no_model: Annotated[bool, typer.Option("--no-model", help="Codes alone.")] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Show what you got: a table here, and a page with figures and an atlas of latents."""
    output = output or codes.with_suffix(".html")
    with _exit_codes():
        if not codes.is_file():
            raise NoInputError(f"{codes} does not exist; name an .h5 file of codes")
        sparsecode.outputs.check_output(output, overwrite)
        found = sparsecode.report_file(
            codes, inputs=inputs or [], open_view=None if no_model else _view_opener(codes, model),
            labels=labels, column=column, reference=reference,
        )  # fmt: skip
        sparsecode.outputs.write_text(output, found.to_html())
    if as_json:
        typer.echo(found.to_json(indent=2))
    elif not quiet:
        sparsecode.progress.print_view(found)
    _say(quiet)(f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB)")


def _view_opener(codes: Path, model: Path | None) -> Any:
    """Open the model that was named, or the one beside the codes; None where there is none."""
    if model is None:
        model = sparsecode.companions.model_beside(codes, sparsecode.read_codes(codes))
    elif not model.is_file():
        raise NoInputError(f"the model {model} does not exist")
    if model is None:
        return None

    def open_view(read: Any) -> Any:
        view = sparsecode.model_view.open_view(model, read)
        return view, view.picture_shape

    return open_view


@app.command()
def probe(
    codes: Annotated[Path, typer.Argument(help="Codes (.h5) from `encode`.")],
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="CSV or Parquet with the rows' names and their labels."),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option("--column", help="Which column. (default: label, the folders' names)"),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--inputs", "-i", help="What was encoded, for the baselines."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="(default: the one beside the codes)")
    ] = None,
    baselines: Annotated[
        str,
        typer.Option(
            "--baselines", help="Of raw, pca, untrained, dense, dictionary (slow); all; none."
        ),
    ] = "raw,pca,untrained,dense",
    task: Annotated[Task, typer.Option("--task", help="Classes or numbers.")] = Task.auto,
    seed: Annotated[int, typer.Option("--seed", help="Of the splits.", min=0)] = 0,
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Draw the scores (.png, .svg, .pdf).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score how well labels can be read off codes, beside baselines."""

    def learn(X: Any, n_components: int, names: list[str]) -> Any:
        path = model or sparsecode.companions.model_beside(codes, sparsecode.read_codes(codes))
        return sparsecode.baseline_models.learned_baselines(X, n_components, names, path, seed)

    with _exit_codes():
        result = sparsecode.probe_file(
            codes, labels=labels, column=column, inputs=inputs or [],
            baselines=_names(baselines), learn=learn, task=task.value, seed=seed,
        )  # fmt: skip
        if picture is not None:
            sparsecode.diagnostics.figures.save(
                sparsecode.diagnostics.figures.probe_scores(result), picture
            )
    if as_json:
        typer.echo(result.to_json(indent=2))
    else:
        sparsecode.progress.print_view(result)


def _names(text: str) -> list[str]:
    if text == "all":
        return ["raw", "pca", "untrained", "dense", "dictionary"]
    return [] if text == "none" else [name.strip() for name in text.split(",")]


@app.command()
def info(
    files: Annotated[list[Path], typer.Argument(help="Codes (.h5) or models (.safetensors).")],
    as_json: AsJson = False,
) -> None:
    """Say what a file holds."""
    described = {}
    with _exit_codes():
        for path in files:
            described[str(path)] = _describe(path)
    if as_json:
        typer.echo(json.dumps(described if len(files) > 1 else described[str(files[0])], indent=2))
        return
    for name, values in described.items():
        rows = {key: _short(value) for key, value in values.items()}
        sparsecode.progress.print_rows({"file": name, **rows})


def _describe(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise NoInputError(f"{path} does not exist")
    with path.open("rb") as file:
        is_codes = file.read(8) == b"\x89HDF\r\n\x1a\n"
    if is_codes:
        return sparsecode.storage.describe_codes(path)
    return sparsecode.persistence.describe_model(path)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key} = {_short(item)}" for key, item in value.items())
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if type(value) is int else str(value)


@app.command()
def verify(
    files: Annotated[list[Path], typer.Argument(help="Codes (.h5) or models (.safetensors).")],
) -> None:
    """Check that files are whole and unchanged since they were written."""
    n_bad = 0
    with _exit_codes():
        for path in files:
            problems = _problems(path)
            n_bad += bool(problems)
            typer.echo(f"{path}: {'; '.join(problems) or 'ok'}")
    if n_bad:
        typer.echo(f"sparsecode: {n_bad} of {len(files)} files are damaged", err=True)
        raise typer.Exit(EXIT_SOME_FAILED)


def _problems(path: Path) -> list[str]:
    if not path.is_file():
        raise NoInputError(f"{path} does not exist")
    if path.suffix == ".safetensors":
        return sparsecode.persistence.verify_model(path)
    try:
        return sparsecode.verify_codes(path)
    except CodesFormatError as error:
        return [str(error)]


if __name__ == "__main__":
    main()
