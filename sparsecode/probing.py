"""`probe_file`: a file of codes -> labels, inputs, baselines -> scores."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecode.codes import SparseCodes
from sparsecode.companions import Originals
from sparsecode.diagnostics import l0
from sparsecode.errors import RefusedError
from sparsecode.labels import read_labels, usable_labels
from sparsecode.probe import ProbeResult, probe, simple_baselines
from sparsecode.probe.baselines import SIMPLE
from sparsecode.probe.linear import Features, Solve, solve_on_cpu
from sparsecode.probe.run import Task
from sparsecode.storage import read_codes

LEARNED = ("untrained", "dense")
DEFAULT = ("raw", "pca", "untrained", "dense")
BASELINES = (*SIMPLE, *LEARNED)
_NEEDS_INPUTS = "needs the inputs (--inputs)"
_TITLES = {
    "raw": "raw inputs",
    "pca": "PCA",
    "untrained": "same network, untrained",
    "dense": "dense VAE mean",
    "dictionary": "dictionary learning",
}

Learn = Callable[[NDArray[Any], int, list[str]], tuple[dict[str, Features], dict[str, str]]]
"""Features by networks, of rows, latents and names; and what is missing, and why."""


def probe_file(
    path: str | PathLike[str],
    *,
    labels: str | PathLike[str] | None = None,
    column: str | None = None,
    inputs: Sequence[str | PathLike[str]] = (),
    baselines: Sequence[str] = DEFAULT,
    learn: Learn | None = None,
    task: Task = "auto",
    seed: int = 0,
    solve: Solve = solve_on_cpu,
) -> ProbeResult:
    """Probe a file of codes; rows without a label are left out.

    Parameters
    ----------
    path : path-like
        An ``.h5`` of codes.
    labels : path-like, optional
        CSV or Parquet file that names the rows; see `read_labels`.
    column : str, optional
        Column of the codes, or of that file.
    inputs : sequence of path-like, optional
        What was encoded, for the baselines.
    baselines : sequence of str, default=("raw", "pca", "untrained", "dense")
        And "dictionary", which is slow.
    learn : callable, optional
        Computes "untrained" and "dense": this module does not import torch.
    task : {"auto", "classify", "regress"}, default="auto"
    seed : int, default=0
    solve : callable, optional
        Fits the linear probes: see `sparsecode.probe.probe`.

    Returns
    -------
    ProbeResult

    Raises
    ------
    NoInputError, RefusedError, CodesFormatError
    """
    if unknown := sorted(set(baselines) - set(BASELINES)):
        raise RefusedError(f"unknown baselines {unknown}; known are {', '.join(BASELINES)}")
    codes = read_codes(path)
    y = read_labels(codes, labels, column)
    rows = np.flatnonzero(usable_labels(y))
    if not len(rows):
        raise RefusedError("no row has a label")
    features, missing = _baselines(codes, rows, inputs, baselines, learn, seed)
    y = y[rows] if y.dtype.kind == "f" else y[rows].astype(str)
    return probe(
        codes.matrix[rows], y, baselines=features, missing=missing, task=task, seed=seed,
        solve=solve,
    )  # fmt: skip


def _baselines(
    codes: SparseCodes,
    rows: NDArray[np.int64],
    inputs: Sequence[str | PathLike[str]],
    names: Sequence[str],
    learn: Learn | None,
    seed: int,
) -> tuple[dict[str, Features], dict[str, str]]:
    if not inputs:
        return {}, {_TITLES[name]: _NEEDS_INPUTS for name in names}
    X = Originals(inputs, codes).rows(rows)
    simple = [name for name in names if name in SIMPLE]
    features = simple_baselines(X, codes.n_latents, l0(codes.matrix), simple, seed)
    missing: dict[str, str] = {}
    learned = [name for name in names if name in LEARNED]
    if learn is not None and learned:
        more, missing = learn(X, codes.n_latents, learned)
        features |= more
    if "dictionary" not in names:
        missing[_TITLES["dictionary"]] = "slow, so only with --baselines all"
    return features, missing
