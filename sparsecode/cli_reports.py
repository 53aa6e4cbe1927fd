"""The commands that show what you got: `report` and `probe`."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

import sparsecode
from sparsecode.cli_options import AsJson, Device, Overwrite, Quiet, Task, exit_codes, say
from sparsecode.errors import NoInputError


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
    with exit_codes():
        if not codes.is_file():
            raise NoInputError(f"{codes} does not exist; name an .h5 file of codes")
        sparsecode.files.check_output(output, overwrite)
        found = sparsecode.report_file(
            codes, inputs=inputs or [], open_view=None if no_model else _view_opener(codes, model),
            labels=labels, column=column, reference=reference,
        )  # fmt: skip
        sparsecode.files.write_whole(output, found.to_html())
    if as_json:
        typer.echo(found.to_json(indent=2))
    elif not quiet:
        sparsecode.progress.print_view(found)
    say(quiet)(f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB)")


def _view_opener(codes: Path, model: Path | None) -> Any:
    """Open the model that was named, or the one beside the codes; None where there is none."""
    path = _model_path(codes, model)
    if path is None:
        return None

    def open_view(read: Any) -> Any:
        view = sparsecode.model_view.open_view(path, read)
        return view, view.picture_shape

    return open_view


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
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Score how well labels can be read off codes, beside baselines."""
    os.environ.setdefault("SCIPY_ARRAY_API", "1")  # which SciPy reads once; a GPU needs it

    def learn(X: Any, n_components: int, names: list[str]) -> Any:
        path = _model_path(codes, model)
        return sparsecode.baseline_models.learned_baselines(X, n_components, names, path, seed)

    with exit_codes():
        if picture is not None:
            sparsecode.files.check_output(picture, overwrite=True)
            sparsecode.diagnostics.figures.check_path(picture)
        result = sparsecode.probe_file(
            codes, labels=labels, column=column, inputs=inputs or [],
            baselines=_names(baselines), learn=learn, task=task.value, seed=seed,
            solve=sparsecode.probe_device.solver(device),
        )  # fmt: skip
        if picture is not None:
            sparsecode.diagnostics.figures.save(
                sparsecode.diagnostics.figures.probe_scores(result), picture
            )
    if as_json:
        typer.echo(result.to_json(indent=2))
    else:
        sparsecode.progress.print_view(result)


def _model_path(codes: Path, model: Path | None) -> Path | None:
    """Find the model that was named, or the one beside the codes."""
    if model is None:
        return sparsecode.companions.model_beside(
            codes, sparsecode.storage.describe_codes(codes)["config"]
        )
    if not model.is_file():
        raise NoInputError(f"the model {model} does not exist")
    return model


def _names(text: str) -> list[str]:
    if text == "all":
        return ["raw", "pca", "untrained", "dense", "dictionary"]
    return [] if text == "none" else [name.strip() for name in text.split(",")]
