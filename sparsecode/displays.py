"""Plots of a fitted estimator, as scikit-learn's Displays: ``from_estimator``, ``plot``.

They need matplotlib: ``pip install 'sparsecode[report]'``. A Display keeps what it draws, so it can
be drawn again; a notebook shows it as a picture.
"""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from sparsecode.companions import picture_shape_of
from sparsecode.diagnostics import diagnose, figures, latent_changes, top_samples
from sparsecode.diagnostics.summary import Diagnostics
from sparsecode.errors import RefusedError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_N_TOP = 8
_COLUMNS = 10


class Display:
    """A plot that can be drawn again.

    Attributes
    ----------
    figure_ : matplotlib.figure.Figure
        After ``plot``.
    axes_ : list of matplotlib.axes.Axes
    """

    figure_: "Figure"
    axes_: list[Any]

    def plot(self) -> Self:
        """Draw.

        Returns
        -------
        self
            With ``figure_`` and ``axes_``.

        Raises
        ------
        RefusedError
            There is no matplotlib.
        """
        self.figure_ = self._draw()
        self.axes_ = list(self.figure_.axes)
        return self

    def _draw(self) -> "Figure":
        raise NotImplementedError

    def _repr_png_(self) -> bytes:
        if not hasattr(self, "figure_"):
            self.plot()
        file = io.BytesIO()
        self.figure_.savefig(file, format="png", dpi=100)
        return file.getvalue()


class LatentDisplay(Display):
    """What latents change in a picture, red up and blue down.

    Parameters
    ----------
    changes : ndarray of shape (n, h, w) or (n, h, w, c)
    latents : ndarray of shape (n,), int64
    frequency : ndarray of shape (n,)
        Share of the rows in which each is on.
    """

    def __init__(
        self, changes: NDArray[Any], latents: NDArray[np.int64], frequency: NDArray[Any]
    ) -> None:
        self.changes = changes
        self.latents = latents
        self.frequency = frequency

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: ArrayLike, *, latents: Sequence[int] | None = None, n: int = 30
    ) -> Self:
        """Draw the mean change that each latent makes to the rows in which it is largest.

        Parameters
        ----------
        estimator : SparseVAETransformer
            Fitted on pictures.
        X : array-like of shape (n_samples, n_features)
            Rows to look for it in.
        latents : sequence of int, optional
            Which; without it the `n` that are on most often.
        n : int, default=30

        Returns
        -------
        LatentDisplay
            Drawn.
        """
        shape = _shape(estimator)
        codes = _codes(estimator, X)
        frequency = np.bincount(codes.indices, minlength=codes.shape[1]) / codes.shape[0]
        chosen = np.argsort(-frequency, kind="stable")[:n] if latents is None else latents
        index = np.asarray(chosen, dtype=np.int64)
        if len(index) and not (index.min() >= 0 and index.max() < codes.shape[1]):
            raise RefusedError(
                f"latents={list(index)} leave the range 0 to {codes.shape[1] - 1} of this model"
            )
        top = top_samples(codes, _N_TOP)[index]
        changes = latent_changes(codes, index, top, estimator.inverse_transform)
        return cls(changes.reshape(-1, *shape), index, frequency[index]).plot()

    def _draw(self) -> "Figure":
        pairs = zip(self.latents, self.frequency, strict=True)
        titles = [f"{latent}: {100 * share:.1f} %" for latent, share in pairs]
        # Each by its own largest change: a faint latent shows its shape as well as a strong one.
        largest = np.abs(self.changes).reshape(len(self.changes), -1).max(axis=1)
        scale = np.where(largest > 0, largest, 1).reshape(-1, *[1] * (self.changes.ndim - 1))
        return figures.pictures(self.changes / scale, _COLUMNS, titles, signed=True)


class ReconstructionDisplay(Display):
    """Rows above what is left of them after encoding and decoding.

    Parameters
    ----------
    originals, decoded : ndarray of shape (n, h, w) or (n, h, w, c)
    l0 : ndarray of shape (n,)
        Non-zeros of each code.
    """

    def __init__(self, originals: NDArray[Any], decoded: NDArray[Any], l0: NDArray[Any]) -> None:
        self.originals = originals
        self.decoded = decoded
        self.l0 = l0

    @classmethod
    def from_estimator(cls, estimator: Any, X: ArrayLike, *, n: int = 10) -> Self:
        """Encode and decode the first `n` rows.

        Parameters
        ----------
        estimator : SparseVAETransformer
            Fitted on pictures.
        X : array-like of shape (n_samples, n_features)
        n : int, default=10

        Returns
        -------
        ReconstructionDisplay
            Drawn.
        """
        shape = _shape(estimator)
        rows = np.asarray(X)[:n]
        codes = _codes(estimator, rows)
        decoded = estimator.inverse_transform(codes)
        unit = rows / np.float32(255) if rows.dtype == np.uint8 else rows
        l0 = np.diff(codes.indptr)
        return cls(unit.reshape(-1, *shape), decoded.reshape(-1, *shape), l0).plot()

    def _draw(self) -> "Figure":
        both = np.concatenate([self.originals, self.decoded])
        titles = [""] * len(self.originals) + [f"{n} latents" for n in self.l0]
        low = min(float(self.originals.min()), 0.0)
        return figures.pictures(both - low, len(self.originals), titles)


class SparsityDisplay(Display):
    """Non-zeros per row, activation frequencies and values.

    Parameters
    ----------
    diagnostics : Diagnostics
    """

    def __init__(self, diagnostics: Diagnostics) -> None:
        self.diagnostics = diagnostics

    @classmethod
    def from_estimator(cls, estimator: Any, X: ArrayLike) -> Self:
        """Encode rows and measure their codes.

        Parameters
        ----------
        estimator : SparseVAETransformer
            Fitted.
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        SparsityDisplay
            Drawn.
        """
        return cls(diagnose(_codes(estimator, X), p=float(estimator.p))).plot()

    def _draw(self) -> "Figure":
        return figures.sparsity(self.diagnostics)


class HistoryDisplay(Display):
    """Training: rate, distortion, density and dead latents by epoch.

    Parameters
    ----------
    history : list of EpochRecord
    """

    def __init__(self, history: Sequence[Any]) -> None:
        self.history = history

    @classmethod
    def from_estimator(cls, estimator: Any) -> Self:
        """Draw an estimator's ``history_``.

        Parameters
        ----------
        estimator : SparseVAETransformer
            Fitted.

        Returns
        -------
        HistoryDisplay
            Drawn.
        """
        return cls(estimator.history_).plot()

    def _draw(self) -> "Figure":
        return figures.training_curves(self.history)


class PlotMixin:
    """Gives an estimator a method for each Display."""

    def plot_latents(self, X: ArrayLike, **options: Any) -> LatentDisplay:
        """Plot what latents change; see :meth:`LatentDisplay.from_estimator`."""
        return LatentDisplay.from_estimator(self, X, **options)

    def plot_reconstructions(self, X: ArrayLike, **options: Any) -> ReconstructionDisplay:
        """Plot rows and reconstructions; see :meth:`ReconstructionDisplay.from_estimator`."""
        return ReconstructionDisplay.from_estimator(self, X, **options)

    def plot_sparsity(self, X: ArrayLike) -> SparsityDisplay:
        """Plot how sparse codes are; see :meth:`SparsityDisplay.from_estimator`."""
        return SparsityDisplay.from_estimator(self, X)

    def plot_history(self) -> HistoryDisplay:
        """Plot the training; see :meth:`HistoryDisplay.from_estimator`."""
        return HistoryDisplay.from_estimator(self)


def _codes(estimator: Any, X: ArrayLike) -> Any:
    return csr_array(estimator.transform(X))


def _shape(estimator: Any) -> tuple[int, int, int]:
    shape = picture_shape_of(estimator)
    if shape is None:
        raise RefusedError(
            f"rows of {estimator.n_features_in_} features are not pictures of a known shape; "
            "set image_shape, or fit on images"
        )
    return shape
