"""What a method is, and what all methods share: held-out rows, scaling, truncation, one-fit reuse.

The rule about L0 is the same for everybody: the mean L0 on the method's own validation rows, 10 %
of the training rows, is set to the L0 asked for; everything is then measured on test rows. Coders
with a fixed count per row keep it by construction, threshold coders calibrate one threshold,
dense methods keep the largest entries of each row (`Truncated`), beside a row as they are.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from typing_extensions import override

from benchmarks.common import Features, unit_float

Family: TypeAlias = Literal["ours", "autoencoder", "variational", "classical", "baseline"]
Images: TypeAlias = NDArray[np.uint8]
VALIDATION_FRACTION = 0.1


@dataclass(frozen=True)
class Point:
    """Number of latents and of non-zeros asked for."""

    k: int
    l0: int

    @classmethod
    def parse(cls, text: str) -> "Point":
        """Read ``"512,26"``."""
        k, l0 = (int(part) for part in text.split(","))
        return cls(k, l0)

    @property
    def p(self) -> float:
        """Fraction of zeros."""
        return 1 - self.l0 / self.k


@dataclass(frozen=True)
class Task:
    """What a method is asked for.

    Attributes
    ----------
    rows : ndarray of uint8, shape (n, d)
        Training rows, validation rows among them.
    seed : int
    k, l0 : int
        Latents, and non-zeros per row.
    """

    rows: Images
    seed: int
    k: int
    l0: int

    def split(self) -> tuple[Images, Images]:
        """Rows to train on and rows to calibrate and tune on."""
        return split_rows(self.rows, self.seed)


class Fitted(ABC):
    """A trained coder.

    Attributes
    ----------
    seconds : float
        What the fit took, calibration included.
    """

    seconds: float

    @abstractmethod
    def encode(self, rows: Images) -> Features:
        """Code uint8 rows (n, d): CSR or dense, (n, k)."""

    @abstractmethod
    def decode(self, codes: Features) -> NDArray[np.float32]:
        """Reconstruct rows (n, d) in [0, 1] units."""

    def rate(self, rows: Images) -> float | None:  # noqa: B027 -- None is the answer of most
        """Nats per row that the model itself charges for a code; None if it has no such notion."""

    def column_norms(self) -> NDArray[np.floating]:
        """Norm of what each latent adds to the reconstruction, (k,); only dense coders need it."""
        raise NotImplementedError


Fit: TypeAlias = Callable[..., Fitted]
"""``fit(task, **settings)``."""


@dataclass(frozen=True, eq=False)
class Method:
    """One line of the table.

    Attributes
    ----------
    name : str
        In the rows' key and on the command line.
    label : str
        In tables and pictures.
    family : str
        Groups lines and colours.
    fit : callable
        See `Fit`.
    grid : mapping
        Settings that ``tune`` tries, one after the other, the first value being the start.
    tuned_for : str
        What the best trial is best at: the error, or the probe with all labels.
    tuned_as : str
        Name under which settings are kept, where two methods share one fit.
    has_seeds : bool
        Whether a seed changes anything.
    per_point : bool
        Whether k and L0 change anything.
    encoded_rows : int or None
        Training rows to encode for the probes of a slow encoder; None takes all.
    reconstructs : bool
        Whether codes can be decoded.
    is_published : bool
        Whether a paper or library proposes this recipe; False for those of our own making.
    """

    name: str
    label: str
    family: Family
    fit: Fit
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    tuned_for: Literal["error", "probe"] = "error"
    tuned_as: str = ""
    has_seeds: bool = True
    per_point: bool = True
    encoded_rows: int | None = None
    reconstructs: bool = True
    is_published: bool = True

    @property
    def settings_name(self) -> str:
        """Key into the table of settings."""
        return self.tuned_as or self.name


def split_rows(rows: Images, seed: int) -> tuple[Images, Images]:
    """Rows to train on and rows to calibrate and tune on; the same for every method."""
    order = np.random.default_rng(seed).permutation(len(rows))
    n_validation = round(len(rows) * VALIDATION_FRACTION)
    return rows[np.sort(order[n_validation:])], rows[np.sort(order[:n_validation])]


@dataclass(frozen=True)
class Scaling:
    """uint8 rows <-> rows centred by the mean image and divided by one overall SD."""

    mean: NDArray[np.float32]
    sd: np.float32

    @classmethod
    def of(cls, rows: Images) -> "Scaling":
        """Moments of training rows."""
        x = unit_float(rows)
        mean = x.mean(0, dtype=np.float64).astype(np.float32)
        return cls(mean, np.float32(np.sqrt(np.square(x - mean).mean(dtype=np.float64))))

    def __call__(self, rows: Images) -> NDArray[np.float32]:
        """Scale rows."""
        return (unit_float(rows) - self.mean) / self.sd

    def inverse(self, x: NDArray[np.floating]) -> NDArray[np.float32]:
        """Back to [0, 1] units."""
        return (x * self.sd + self.mean).astype(np.float32)


def dense(codes: Features) -> NDArray[np.float32]:
    """Codes as an ndarray."""
    return codes if isinstance(codes, np.ndarray) else codes.toarray()


def keep_largest(codes: NDArray, weights: NDArray, l0: int) -> sparse.csr_array:
    """Keep the ``l0`` entries of each row with the largest abs(code) * weight."""
    kept = np.argpartition(-np.abs(codes) * weights, l0 - 1, axis=1)[:, :l0]
    kept.sort(axis=1)
    values = np.take_along_axis(codes, kept, axis=1).astype(np.float32)
    indptr = np.arange(len(codes) + 1) * l0
    return sparse.csr_array((values.ravel(), kept.ravel(), indptr), shape=codes.shape)


class Truncated(Fitted):
    """A dense coder cut to its ``l0`` largest entries per row, by what they add to the picture."""

    def __init__(self, coder: Fitted, l0: int) -> None:
        self.coder = coder
        self.l0 = l0
        self.seconds = coder.seconds

    @override
    def encode(self, rows: Images) -> sparse.csr_array:
        return keep_largest(dense(self.coder.encode(rows)), self.coder.column_norms(), self.l0)

    @override
    def decode(self, codes: Features) -> NDArray[np.float32]:
        return self.coder.decode(codes)


def truncated(fit: Fit) -> Fit:
    """Make of a fit that returns a dense coder one that returns it truncated."""

    def fit_truncated(task: Task, **settings: Any) -> Fitted:
        return Truncated(fit(task, **settings), task.l0)

    return fit_truncated


def remember_last(fit: Callable[..., Any]) -> Callable[..., Any]:
    """Keep the last fit, so that methods which read one model train it once."""
    last: dict[str, Any] = {}

    @wraps(fit)
    def remembered(task: Task, **settings: Any) -> Any:
        key = (task.seed, task.k, task.l0, tuple(sorted(settings.items())))
        if last.get("key") != key or last.get("rows") is not task.rows:
            last.clear()
            last.update(fitted=fit(task, **settings), key=key, rows=task.rows)
        return last["fitted"]

    return remembered
