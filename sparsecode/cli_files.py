"""The commands about files of codes and models: `info`, `verify`, `merge`, `decode`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import sparsecode
from sparsecode.cli_options import (
    EXIT_SOME_FAILED,
    AsJson,
    Compression,
    CompressionOption,
    Device,
    Overwrite,
    ProgressOption,
    Quiet,
    When,
    exit_codes,
    say,
    shows_progress,
)
from sparsecode.errors import CodesFormatError, NoInputError


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


def merge(
    output: Annotated[Path, typer.Argument(help="The .h5 file to write.")],
    shards: Annotated[
        list[Path] | None,
        typer.Argument(help="What `encode --shard` wrote. (default: those beside the output)"),
    ] = None,
    compression: CompressionOption = Compression.gzip,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Put the shards of one job together, after verifying each."""
    with exit_codes():
        described = sparsecode.merging.merge_files(
            output, shards or [], overwrite=overwrite, compression=str(compression),
            report=say(quiet),
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(described, indent=2))
    say(quiet)(f"wrote {output}: {described['n_samples']:,} rows")
    if described["n_failed"]:
        say(quiet)(f"{described['n_failed']:,} inputs had failed (see `sparsecode info`)")
        raise typer.Exit(EXIT_SOME_FAILED)


def decode(
    codes: Annotated[Path, typer.Argument(help="Codes (.h5) from `encode`.")],
    output: Annotated[Path, typer.Argument(help="A folder for images, or a .npy file.")],
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="(default: the one beside the codes)")
    ] = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    progress: ProgressOption = When.auto,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Turn codes back into images (PNG files, named as they were) or an array."""
    with (
        exit_codes(),
        sparsecode.progress.EncodingProgress(
            shows_progress(progress, quiet), "decoding"
        ) as advance,
    ):
        written = sparsecode.decoding.decode_file(
            codes, output, model=model, device=device, overwrite=overwrite, progress=advance
        )
    if as_json:
        typer.echo(json.dumps({"rows": written, "output": str(output)}))
    say(quiet)(f"wrote {written:,} {'rows' if output.suffix == '.npy' else 'images'} to {output}")
