"""What an encoding did, from sums over its parts."""

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sparsecode.sources import Failure, Matrix
from sparsecode.storage import describe_codes, iterate_codes, read_failures


@dataclass(frozen=True)
class EncodeSummary:
    """What a job did.

    Attributes
    ----------
    listed, encoded, failed : int
        Inputs; ``encoded + failed == listed``.
    n_latents : int
        k.
    l0_mean, l0_sd : float
        Non-zeros per row.
    zeros_asked, zeros_got : float
        p, and the fraction of zeros.
    zeros_held_out : float or None
        The fraction on the rows that set the threshold, when a model was trained on these inputs:
        the rows that trained it have a few more zeros.
    dead_latents : int
        Latents that are zero in every row.
    explained_variance : float or None
        1 - (squared error of the reconstruction / squared deviation from the mean), on these rows
        or, of very many, on 512 or more of them, evenly chosen; None when nothing was encoded
        because all was done.
    seconds : float
        Training included.
    is_images : bool
        Inputs were images, not rows of an array.
    files : list of str
        Written, the codes first.
    failures : list of Failure
        Inputs without a row.
    was_done : bool
        The output was there before, and nothing was written.
    resumed : int
        Inputs that an interrupted run had done.
    """

    listed: int
    encoded: int
    failed: int
    n_latents: int
    l0_mean: float
    l0_sd: float
    zeros_asked: float
    zeros_got: float
    zeros_held_out: float | None
    dead_latents: int
    explained_variance: float | None
    seconds: float
    is_images: bool
    files: list[str]
    failures: list[Failure]
    was_done: bool = False
    resumed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def summarise(output: Path, is_images: bool, **known: Any) -> EncodeSummary:
    """Read a finished file of codes and say what is in it.

    Parameters
    ----------
    output : Path
    is_images : bool
    **known
        Fields that the file does not know.
    """
    n_rows, l0, l0_squares = 0, 0, 0
    for codes in iterate_codes(output):
        counts = np.diff(codes.matrix.indptr).astype(np.int64)
        n_rows, l0, l0_squares = (
            n_rows + len(codes),
            l0 + counts.sum(),
            l0_squares + counts @ counts,
        )
    found = describe_codes(output)
    failures = [Failure(path, reason) for path, reason in read_failures(output)]
    mean = float(l0 / max(1, n_rows))
    return EncodeSummary(
        listed=n_rows + len(failures),
        encoded=n_rows,
        failed=len(failures),
        n_latents=found["n_latents"],
        l0_mean=mean,
        l0_sd=float(max(0.0, l0_squares / max(1, n_rows) - mean**2) ** 0.5),
        zeros_asked=float(found["config"]["p"]),
        zeros_got=1 - mean / found["n_latents"],
        dead_latents=found["n_dead"],
        is_images=is_images,
        failures=failures,
        **known,
    )


@dataclass
class PartFigures:
    """Sums over rows that were decoded again; those of parts add up to those of the job.

    Attributes
    ----------
    n_rows : int
    squares, error : float
        Of the rows' values, and of their reconstructions' errors.
    sums : ndarray of shape (n_features,)
    """

    n_rows: int
    squares: float
    error: float
    sums: NDArray[np.float64]

    @classmethod
    def empty(cls, n_features: int) -> Self:
        """Return sums over no rows."""
        return cls(0, 0.0, 0.0, np.zeros(n_features))

    def add(self, X: Matrix, decoded: NDArray[Any]) -> None:
        """Add rows (uint8 means [0, 255]) and their reconstructions."""
        rows = _dense(X)
        self.n_rows += len(rows)
        self.sums += rows.sum(0, dtype=np.float64)
        self.squares += _sum_of_squares(rows)
        rows -= decoded
        self.error += _sum_of_squares(rows)

    def __add__(self, other: "PartFigures") -> "PartFigures":
        return PartFigures(
            self.n_rows + other.n_rows,
            self.squares + other.squares,
            self.error + other.error,
            self.sums + other.sums,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object that keeps every bit."""
        sums = base64.b64encode(self.sums.astype("<f8").tobytes()).decode("ascii")
        return {**self.__dict__, "sums": sums}

    @classmethod
    def from_dict(cls, figures: Mapping[str, Any]) -> Self:
        """Read what `to_dict` returned."""
        sums = np.frombuffer(base64.b64decode(figures["sums"]), "<f8").copy()
        return cls(**{**figures, "sums": sums})

    @property
    def explained_variance(self) -> float:
        """1 - error / deviation from the mean; NaN where rows do not deviate."""
        variation = self.squares - float((self.sums**2).sum()) / max(1, self.n_rows)
        return 1 - self.error / variation if variation > 0 else float("nan")


def _sum_of_squares(rows: NDArray[np.float64]) -> float:
    # A dot product would wake the threads of the BLAS, which then wait for more in a busy loop.
    return float(np.einsum("ij,ij->", rows, rows))


def _dense(X: Matrix) -> NDArray[np.float64]:
    rows: Any = X
    rows = rows.toarray() if sparse.issparse(rows) else np.asarray(rows)
    return rows / 255.0 if rows.dtype == np.uint8 else rows.astype(np.float64)
