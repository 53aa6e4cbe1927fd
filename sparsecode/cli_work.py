"""The commands that do the work: `fit` and `encode`."""

import json
import sys
import warnings
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

import sparsecode
from sparsecode.cli_options import (
    EXIT_INTERRUPTED,
    EXIT_REFUSED,
    EXIT_SOME_FAILED,
    RUN,
    AsJson,
    BatchSize,
    Beta,
    Channels,
    Compression,
    CompressionOption,
    Convolutional,
    Device,
    DryRun,
    EarlyStopping,
    Exclude,
    FilesFrom,
    FollowSymlinks,
    HiddenSizes,
    Include,
    Inputs,
    LearningRate,
    LikelihoodOption,
    MaxErrors,
    MaxIter,
    MaxPixels,
    MaxTime,
    NComponents,
    NoExif,
    NoResume,
    Null,
    OnError,
    OnErrorOption,
    Overwrite,
    P,
    PartSize,
    PosteriorOption,
    ProgressOption,
    Quiet,
    Seed,
    Shard,
    Size,
    TimeLimit,
    Verbose,
    When,
    Workers,
    exit_codes,
    fail,
    say,
    shows_progress,
)
from sparsecode.errors import FitInterruptedWarning, NoInputError

_STOPPING = b"\nfinishing the part in hand; again to stop at once\n"


def _given(**parameters: Any) -> dict[str, Any]:
    """Parameters that were given on the command line; the estimator has the defaults."""
    return {
        name: str(value) if isinstance(value, StrEnum) else value
        for name, value in parameters.items()
        if value is not None and value is not False
    }


def _cannot_change(names: Iterable[str], model: Path) -> str:
    options = ", ".join("--" + name.replace("_", "-") for name in sorted(names))
    return f"{options} belong to the model {model} and cannot change now"


def fit(
    inputs: Inputs = None,
    *,
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
    time_limit: TimeLimit = 60.0,
    on_error: OnErrorOption = OnError.skip,
    include: Include = None,
    exclude: Exclude = None,
    follow_symlinks: FollowSymlinks = False,
    files_from: FilesFrom = None,
    null: Null = False,
    workers: Workers = None,
    device: Device = "auto",
    log_dir: Annotated[
        Path | None,
        typer.Option(
            "--log-dir", help="Folder for history.jsonl and TensorBoard.", rich_help_panel=RUN
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with MODEL, for the epochs it has not had.", rich_help_panel=RUN
        ),
    ] = False,
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
    of_inputs = _given(size=size, channels=channels, no_exif=no_exif, convolutional=convolutional)
    fixed = (parameters.keys() | of_inputs.keys()) - {"max_iter", "max_time"}
    parameters |= {"random_state": seed or 0, "device": device}
    parameters["verbose"] = int(shows_progress(progress, quiet))
    with exit_codes():
        if resume and fixed:
            fail(_cannot_change(fixed, model), EXIT_REFUSED)
        options = _input_options(
            inputs, files_from, null, include, exclude, follow_symlinks,
            size=size, channels=channels, exif=not no_exif, max_pixels=max_pixels,
            convolutional=convolutional, on_error=str(on_error), n_workers=workers,
            time_limit=time_limit,
        )  # fmt: skip
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", FitInterruptedWarning)
            sparsecode.fit_files(
                inputs or [], model, options=options, parameters=parameters, overwrite=overwrite,
                resume=resume, report=say(quiet), log_dir=log_dir,
            )  # fmt: skip
        if any(issubclass(warning.category, FitInterruptedWarning) for warning in caught):
            fail(f"interrupted; the model so far is in {model}", EXIT_INTERRUPTED)
        say(quiet)(f"wrote {model}")


def encode(
    inputs: Inputs = None,
    *,
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
    time_limit: TimeLimit = 60.0,
    on_error: OnErrorOption = OnError.skip,
    include: Include = None,
    exclude: Exclude = None,
    follow_symlinks: FollowSymlinks = False,
    files_from: FilesFrom = None,
    null: Null = False,
    workers: Workers = None,
    device: Device = "auto",
    part_size: PartSize = None,
    compression: CompressionOption = Compression.gzip,
    max_errors: MaxErrors = None,
    shard: Shard = None,
    overwrite: Overwrite = False,
    no_resume: NoResume = False,
    dry_run: DryRun = False,
    progress: ProgressOption = When.auto,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> None:
    """Encode images or an array to sparse codes in one HDF5 file.

    Without a model, one is trained on the inputs first and saved beside the output. Whatever
    interrupts it, the same command goes on where it was.
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
            fail(_cannot_change(fixed, model), EXIT_REFUSED)
        parameters |= {"random_state": seed or 0, "device": device, "verbose": int(shows)}
        options = _input_options(
            inputs, files_from, null, include, exclude, follow_symlinks,
            size=size, channels=channels, exif=not no_exif, max_pixels=max_pixels,
            convolutional=convolutional, on_error=str(on_error), n_workers=workers,
            time_limit=time_limit,
        )  # fmt: skip
        run = sparsecode.encoding_job.EncodeOptions(
            part_size,
            str(compression),
            (shard.number, shard.of) if shard else (1, 1),
            not no_resume,
            max_errors,
        )
        if dry_run:
            _print_forecast(inputs or [], output, model, options, parameters, run, as_json)
            return
        with sparsecode.progress.EncodingProgress(shows) as advance:
            summary = sparsecode.encode_files(
                inputs or [], output, model=model, options=options, parameters=parameters, run=run,
                overwrite=overwrite, failures=failures, report=say(quiet),
                detail=say(quiet or not verbose), progress=advance,
                stop=sparsecode.stopping.StopRequest(b"" if quiet else _STOPPING),
            )  # fmt: skip
    _print_summary(summary, as_json, quiet)
    if summary.failed:
        raise typer.Exit(EXIT_SOME_FAILED)


def _input_options(
    inputs: list[str] | None,
    files_from: str | None,
    null: bool,
    include: list[str] | None,
    exclude: list[str] | None,
    follow_symlinks: bool,
    **others: Any,
) -> Any:
    if not inputs and files_from is None:
        raise NoInputError("no input; name folders, images, globs or an array, or --files-from")
    listed: list[str] = []
    if files_from == "-":
        listed = sparsecode.inputs.read_list(sys.stdin.buffer, null)
    elif files_from is not None:
        with Path(files_from).open("rb") as stream:
            listed = sparsecode.inputs.read_list(stream, null)
    selection = sparsecode.inputs.Selection(
        tuple(include or ()), tuple(exclude or ()), follow_symlinks
    )
    return sparsecode.file_fitting.InputOptions(selection=selection, listed=tuple(listed), **others)


def _print_forecast(
    inputs: list[str], output: Path, model: Path | None, options: Any, parameters: Any, run: Any,
    as_json: bool,
) -> None:  # fmt: skip
    job = sparsecode.encoding_job.prepare(inputs, output, model, options, parameters, run)
    forecast = sparsecode.encoding_job.forecast(job, parameters)
    if as_json:
        typer.echo(json.dumps(forecast, indent=2))
        return
    shown = {
        name: f"{value:,}" if type(value) is int else str(value) for name, value in forecast.items()
    }
    sparsecode.progress.print_rows(shown)


def _print_summary(summary: Any, as_json: bool, quiet: bool) -> None:
    if as_json:
        typer.echo(json.dumps(summary.to_dict(), indent=2))
    if quiet:
        return
    if summary.was_done:
        typer.echo(f"{summary.files[0]} is complete: nothing to do", err=True)
    if not as_json:
        rows = {
            "images" if summary.is_images else "rows": f"{summary.listed:,}",
            "failed": f"{summary.failed:,}",
            "latents": f"{summary.n_latents:,}",
            "non-zeros per code (L0)": f"{summary.l0_mean:.1f} ± {summary.l0_sd:.1f}",
            "zeros asked": f"{summary.zeros_asked:.3f}",
            "zeros got": _zeros(summary),
            "dead latents": f"{summary.dead_latents:,}",
            "explained variance": _figure(summary.explained_variance),
            "seconds": f"{summary.seconds:.1f}",
            "files": "\n".join(summary.files),
        }
        sparsecode.progress.print_rows(
            {name: text for name, text in rows.items() if text}, stderr=True
        )
    for failure in summary.failures[:5]:
        typer.echo(f"failed: {failure.path}: {failure.reason}", err=True)
    if summary.failed > 5:
        typer.echo(f"and {summary.failed - 5:,} more (see --failures)", err=True)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _zeros(summary: Any) -> str:
    if summary.zeros_held_out is None:
        return f"{summary.zeros_got:.3f}"
    return f"{summary.zeros_got:.3f}; {summary.zeros_held_out:.3f} on rows held out of training"
