"""The command line: parse, call one function, print. Data on stdout, all else on stderr.

Heavy modules are reached through ``sparsecode``'s lazy names, so that ``--help`` does not wait for
torch.
"""

import json
import signal
import warnings
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

import sparsecode
from sparsecode.cli_options import (
    EXIT_INTERRUPTED,
    EXIT_REFUSED,
    EXIT_SOME_FAILED,
    EXIT_TERMINATED,
    RUN,
    AsJson,
    BatchSize,
    Beta,
    Channels,
    Convolutional,
    Device,
    EarlyStopping,
    FollowSymlinks,
    HiddenSizes,
    Inputs,
    LearningRate,
    LikelihoodOption,
    MaxIter,
    MaxPixels,
    MaxTime,
    NComponents,
    NoExif,
    OnError,
    OnErrorOption,
    Overwrite,
    P,
    PosteriorOption,
    ProgressOption,
    Quiet,
    Seed,
    Size,
    When,
    exit_codes,
    fail,
    say,
    shows_progress,
)
from sparsecode.cli_reports import probe, report
from sparsecode.errors import (
    CodesFormatError,
    FitInterruptedWarning,
    NoInputError,
)

app = typer.Typer(
    name="sparsecode",
    help="Sparse codes with exact zeros, as many as you ask for.",
    epilog="Exit codes: 0 done; 1 bug; 2 refused; 3 finished, some inputs failed; 4 no input "
    "found; 5 output or disk error; 130 and 143 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, _terminate)
    app()


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(EXIT_TERMINATED)  # through the context managers, which remove partial files


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
    parameters["verbose"] = int(shows_progress(progress, quiet))
    with exit_codes():
        options = sparsecode.encoding.InputOptions(
            size, channels, not no_exif, max_pixels, convolutional, follow_symlinks, str(on_error)
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", FitInterruptedWarning)
            sparsecode.fit_files(
                inputs, model, options=options, parameters=parameters, overwrite=overwrite,
                report=say(quiet), log_dir=log_dir,
            )  # fmt: skip
        if any(issubclass(warning.category, FitInterruptedWarning) for warning in caught):
            fail(f"interrupted; the model so far is in {model}", EXIT_INTERRUPTED)
        say(quiet)(f"wrote {model}")


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
    shows = shows_progress(progress, quiet)
    with exit_codes():
        if model is not None and fixed:
            names = ", ".join("--" + name.replace("_", "-") for name in sorted(fixed))
            fail(f"{names} belong to the model {model} and cannot change now", EXIT_REFUSED)
        parameters |= {"random_state": seed or 0, "device": device, "verbose": int(shows)}
        options = sparsecode.encoding.InputOptions(
            size, channels, not no_exif, max_pixels, convolutional, follow_symlinks, str(on_error)
        )
        with sparsecode.progress.EncodingProgress(shows) as advance:
            summary = sparsecode.encode_files(
                inputs, output, model=model, options=options, parameters=parameters,
                overwrite=overwrite, failures=failures, report=say(quiet), progress=advance,
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


app.command()(report)
app.command()(probe)


@app.command()
def info(
    files: Annotated[list[Path], typer.Argument(help="Codes (.h5) or models (.safetensors).")],
    as_json: AsJson = False,
) -> None:
    """Say what a file holds."""
    described = {}
    with exit_codes():
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
    with exit_codes():
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
