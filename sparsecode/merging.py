"""Several files of codes, row after row, in one."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsecode.codes_writer import CodesWriter
from sparsecode.errors import CodesFormatError, NoInputError, RefusedError
from sparsecode.files import check_output, check_space
from sparsecode.parts import locked
from sparsecode.storage import describe_codes, iterate_codes, read_failures, verify_codes

Report = Callable[[str], None]
_SPARE_BYTES = 1 << 20


def shard_path(output: str | os.PathLike[str], index: int, of: int) -> Path:
    """Return where ``encode --shard INDEX/OF`` writes its share of an output."""
    output = Path(output)
    return output.with_name(f"{output.stem}.shard-{index}-of-{of}{output.suffix}")


def find_shards(output: str | os.PathLike[str]) -> list[Path]:
    """Find the shards of an output beside it, whole or not."""
    output = Path(output)
    return sorted(output.parent.glob(f"{output.stem}.shard-*-of-*{output.suffix}"))


def concatenate(
    paths: Sequence[Path],
    output: Path,
    metadata: Mapping[str, Any],
    *,
    n_latents: int,
    overwrite: bool = False,
    compression: str = "gzip",
) -> None:
    """Write the rows of several files of codes, in order, to one.

    Parameters
    ----------
    paths : sequence of Path
        With the same latents and columns.
    output : Path
    metadata : mapping
        Of the new file; the failed inputs are those of all the files.
    n_latents : int
    overwrite, compression
        See `CodesWriter`.

    Raises
    ------
    OutputError
        The disk is full, or will be; checked before anything is written.
    """
    check_space(output.absolute().parent, _SPARE_BYTES + sum(path.stat().st_size for path in paths))
    failed: list[tuple[str, str]] = []
    with CodesWriter(
        output, n_latents=n_latents, overwrite=overwrite, compression=compression
    ) as writer:
        for path in paths:
            for codes in filter(len, iterate_codes(path)):
                writer.append(codes.matrix, codes.names, codes.obs)
            failed += read_failures(path)
        writer.finish(
            metadata={
                **metadata,
                "failed_path": [path for path, _ in failed],
                "failed_reason": [reason for _, reason in failed],
            }
        )


def merge_files(
    output: str | os.PathLike[str],
    shards: Sequence[str | os.PathLike[str]] = (),
    *,
    overwrite: bool = False,
    compression: str = "gzip",
    report: Report | None = None,
) -> dict[str, Any]:
    """Put the shards of one job together; the result is the file that one job would have written.

    Parameters
    ----------
    output : path-like
    shards : sequence of path-like, optional
        In any order; by default those that lie beside the output (see `shard_path`).
    overwrite : bool, default=False
        Replace an existing output.
    compression : str, default="gzip"
    report : callable, optional

    Returns
    -------
    dict
        What the output holds, as `describe_codes` says it.

    Raises
    ------
    NoInputError
        There are no shards.
    RefusedError
        One is missing, given twice, or of another job.
    CodesFormatError
        One is damaged; every shard is verified before anything is written.
    OutputError
        The output cannot be written.
    """
    output = Path(output)
    paths = [Path(path) for path in shards] or find_shards(output)
    if not paths:
        raise NoInputError(
            f"there are no shards of {output} beside it ({shard_path(output.name, 1, 2)}, ...); "
            "make them with encode --shard, or name them"
        )
    with locked(output):
        check_output(output, overwrite)
        found = [(path, describe_codes(path)) for path in paths]
        ordered, metadata = _ordered(found)
        for path in ordered:
            if problems := verify_codes(path):
                raise CodesFormatError(f"{path} is damaged: {problems[0]}; make that shard again")
        if report:
            report(f"merging {len(ordered)} shards")
        if not any(described["n_samples"] for _, described in found):
            raise NoInputError(f"none of the shards of {output} has a row")
        concatenate(
            ordered,
            output,
            metadata,
            n_latents=found[0][1]["n_latents"],
            overwrite=overwrite,
            compression=compression,
        )
    return describe_codes(output)


def _ordered(found: list[tuple[Path, dict[str, Any]]]) -> tuple[list[Path], dict[str, Any]]:
    """Return the shards' paths in order, and the metadata of the whole."""
    first = _job(*found[0])
    by_index: dict[int, Path] = {}
    for path, described in found:
        if _job(path, described) != first:
            raise RefusedError(f"{path} is of another job than {found[0][0]}; merge one job's")
        index = described["config"]["shard"][0]
        if index in by_index:
            raise RefusedError(f"{path} and {by_index[index]} are both shard {index}")
        by_index[index] = path
    of = found[0][1]["config"]["shard"][1]
    if missing := sorted(set(range(1, of + 1)) - by_index.keys()):
        raise RefusedError(f"of {of} shards, {missing} are missing; encode them first")
    config, model, listing = first
    return [by_index[i] for i in range(1, of + 1)], {
        "config": config,
        "model_sha256": model,
        "listing_sha256": listing,
    }


def _job(path: Path, described: Mapping[str, Any]) -> tuple[dict[str, Any], str, str]:
    """Return what the shards of one job have in common."""
    config = dict(described["config"])
    shard = config.pop("shard", None)
    if not (isinstance(shard, list) and len(shard) == 2 and all(type(i) is int for i in shard)):
        raise RefusedError(f"{path} is not a shard; merge what encode --shard wrote")
    return config, described["model_sha256"], described["listing_sha256"]
