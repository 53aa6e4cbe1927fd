"""What you got: a table, a page and JSON about a file of codes; no torch (the model is a view)."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group
from rich.text import Text

from sparsecode.codes import SparseCodes
from sparsecode.companions import Originals, PictureShape
from sparsecode.diagnostics import Diagnostics, diagnose, drift
from sparsecode.errors import RefusedError
from sparsecode.labels import read_labels, usable_labels
from sparsecode.report.collect import collect
from sparsecode.report.galleries import ModelView
from sparsecode.report.page import render
from sparsecode.storage import read_codes

__all__ = ["ModelView", "Report", "report_file"]

OpenView = Callable[[SparseCodes], tuple[ModelView, PictureShape | None]]
"""Opens the model that made codes: its view, and the shape of its pictures."""

_PICTURES = ("galleries", "sheets")


@dataclass(frozen=True, eq=False)
class Report:
    """A report on a file of codes.

    Attributes
    ----------
    diagnostics : Diagnostics
    data : dict
        All that the page shows, as plain values; see `collect`.
    """

    diagnostics: Diagnostics
    data: dict[str, Any]

    def to_json(self, indent: int | None = None) -> str:
        """JSON with the figures of the page and of the diagnostics, without the pictures."""
        figures = {key: value for key, value in self.data.items() if key not in _PICTURES}
        figures["atlas"] = {k: v for k, v in self.data["atlas"].items() if k not in _PICTURES}
        figures["diagnostics"] = self.diagnostics.to_dict()
        return json.dumps(figures, indent=indent, allow_nan=False)

    def to_html(self) -> str:
        """Return the page, one document that loads nothing."""
        return render(self.data)

    def __rich__(self) -> Group:
        lines = [Text(note, style="dim") for note in self.data["notes"]]
        if self.data["drift"] is not None:
            lines.insert(0, Text(f"drift: {self.data['drift']['sentence']}"))
        return Group(self.diagnostics, *lines)


def report_file(
    path: str | PathLike[str],
    *,
    inputs: Sequence[str | PathLike[str]] = (),
    open_view: OpenView | None = None,
    labels: str | PathLike[str] | None = None,
    column: str | None = None,
    reference: str | PathLike[str] | None = None,
) -> Report:
    """Report on a file of codes.

    Parameters
    ----------
    path : path-like
        An ``.h5`` of codes.
    inputs : sequence of path-like, optional
        What was encoded, for the pictures.
    open_view : callable, optional
        Opens the model; this package does not import torch.
    labels, column
        As for `read_labels`; without either, the folders' names where there are some. Rows
        without a label count as labelled "".
    reference : path-like, optional
        Codes of other data by the same model, such as those it was trained on: did the data
        change?

    Returns
    -------
    Report

    Raises
    ------
    NoInputError, RefusedError, CodesFormatError
    """
    codes = read_codes(path)
    if not len(codes):
        raise RefusedError(f"{path} holds no codes; there is nothing to report")
    diagnostics = diagnose(codes, _labels(codes, labels, column))
    originals = Originals(inputs, codes) if inputs else None
    view, shape = (None, None) if open_view is None else open_view(codes)
    if originals is not None:
        shape = shape or originals.picture_shape
    other = None if reference is None else drift(read_codes(reference).matrix, codes.matrix)
    data = collect(
        codes, diagnostics, title=Path(path).name, view=view, originals=originals,
        picture_shape=shape, drift=other,
    )  # fmt: skip
    return Report(diagnostics, data)


def _labels(
    codes: SparseCodes, labels: str | PathLike[str] | None, column: str | None
) -> np.ndarray | None:
    if labels is None and column is None and codes.labels is None:
        return None
    found = read_labels(codes, labels, column)
    if found.dtype.kind in "f":
        whole = bool(np.all(found[usable_labels(found)] % 1 == 0))
        texts = [f"{value:.0f}" if whole else f"{value:g}" for value in found]
        return np.where(usable_labels(found), texts, "")
    return np.array(["" if label is None else str(label) for label in found])
