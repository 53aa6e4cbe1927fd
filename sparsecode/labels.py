"""Labels of codes: an `obs` column, or a CSV or Parquet file that names the rows."""

import csv
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecode.codes import SparseCodes
from sparsecode.errors import NoInputError, RefusedError

Column = tuple[list[str], list[Any]]
"""Names of rows, and a value for each."""


def read_labels(
    codes: SparseCodes, source: str | PathLike[str] | None = None, column: str | None = None
) -> NDArray[Any]:
    """Find one label for each row of the codes.

    Parameters
    ----------
    codes : SparseCodes
    source : path-like, optional
        A ``.csv`` or ``.parquet`` whose first column, or whose column "name", holds the rows'
        names. Without it, labels come from the codes' own columns.
    column : str, optional
        Which column. Without it: ``label`` of the codes (folder names); of a file, its only
        column besides the names.

    Returns
    -------
    ndarray of shape (n_samples,)
        float64 where every label is a number, else text. A row without a label has None or NaN.

    Raises
    ------
    NoInputError
        There is no such file.
    RefusedError
        There are no labels, or no such column, or the file names none of the rows.
    """
    if source is None:
        return _own_column(codes, column or "label")
    path = Path(source)
    if not path.is_file():
        raise NoInputError(f"the labels {path} do not exist; name a .csv or .parquet file")
    names, values = _read_parquet(path, column) if _is_parquet(path) else _read_csv(path, column)
    of_name = dict(zip(names, values, strict=True))
    if len(of_name) < len(names):
        raise RefusedError(f"{path} names a row twice; one label for each row is needed")
    labels = [of_name.get(str(name)) for name in codes.names]
    if all(label is None for label in labels):
        raise RefusedError(
            f"{path} names none of the {len(codes):,} rows, which are called like "
            f"{codes.names[0]!r}; its first column, or one called 'name', must hold these names"
        )
    return _typed(labels)


def usable_labels(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark the rows that have a label."""
    if labels.dtype.kind == "f":
        return np.isfinite(labels)
    return np.array([label is not None and label != "" for label in labels])


def _own_column(codes: SparseCodes, column: str) -> NDArray[Any]:
    if column not in codes.obs:
        known = ", ".join(codes.obs) or "none"
        raise RefusedError(
            f"the codes have no column {column!r} (they have: {known}); encode images in folders "
            "named by their labels, or give --labels FILE.csv"
        )
    return np.asarray(codes.obs[column])


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() in (".parquet", ".pq")


def _read_csv(path: Path, column: str | None) -> Column:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = csv.reader(file)
    except (ValueError, csv.Error) as error:
        raise RefusedError(f"{path} cannot be read as CSV with a header: {error}") from error
    name, value = _choose(path, header, column)
    rows = [row for row in rows if row]
    if any(len(row) != len(header) for row in rows):
        raise RefusedError(f"{path} has rows without {len(header)} cells, which its header has")
    return [row[name] for row in rows], [row[value] or None for row in rows]


def _read_parquet(path: Path, column: str | None) -> Column:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise RefusedError("Parquet needs pyarrow: pip install 'sparsecode[parquet]'") from error
    try:
        table = parquet.read_table(path)
    except ArrowInvalid as error:
        raise RefusedError(f"{path} cannot be read as Parquet: {error}") from error
    name, value = _choose(path, table.column_names, column)
    return [str(item) for item in table.column(name).to_pylist()], table.column(value).to_pylist()


def _choose(path: Path, header: list[str], column: str | None) -> tuple[int, int]:
    name = header.index("name") if "name" in header else 0
    others = [title for i, title in enumerate(header) if i != name]
    if column is None and len(others) == 1:
        column = others[0]
    if column not in others:
        asked = "which column is the label?" if column is None else f"there is no {column!r}."
        raise RefusedError(f"{path}: {asked} Give --column, one of: {', '.join(others) or 'none'}")
    return name, header.index(column)


def _typed(labels: list[Any]) -> NDArray[Any]:
    try:
        return np.array([np.nan if label is None else float(label) for label in labels])
    except (TypeError, ValueError):
        return np.array([None if label is None else str(label) for label in labels], dtype=object)
