"""`SparseCodes`: the codes of many samples, with the names of rows and what is known about them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.sparse import csr_array


def csr_of(
    data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, shape: tuple[int, int]
) -> csr_array:
    """Put a CSR matrix together, with indices of 32 bits wherever they fit.

    scikit-learn's estimators on libsvm and liblinear take no others.
    """
    fits = max(int(indptr[-1]), *shape) <= np.iinfo(np.int32).max
    index = np.int32 if fits else np.int64
    indices, indptr = (x.astype(index, copy=False) for x in (indices, indptr))
    return csr_array((data, indices, indptr), shape)


@dataclass(frozen=True, eq=False, repr=False)
class SparseCodes:
    """Sparse codes with exact zeros, one row per sample.

    Parameters
    ----------
    matrix : csr_array of shape (n_samples, n_latents), float32
        The codes; everything that is not stored is exactly zero.
    names : ndarray of shape (n_samples,), object
        One text per row: the path relative to the input folder, or ``row_0000000``.
    obs : mapping of str to ndarray of shape (n_samples,)
        Columns about the rows: ``width`` and ``height`` in pixels, ``label``.
    var : mapping of str to ndarray of shape (n_latents,)
        Columns about the latents: ``activation_frequency`` (share of samples), ``dead``.
    metadata : mapping
        ``config``, ``model_sha256``, ``listing_sha256``, ``failed_path``, ``failed_reason``; from a
        file also ``format_version`` and ``content_sha256``.

    Raises
    ------
    ValueError
        A column or the names do not have one entry per row (or per latent).
    """

    matrix: csr_array
    names: np.ndarray
    obs: Mapping[str, np.ndarray] = field(default_factory=dict)
    var: Mapping[str, np.ndarray] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n_samples, n_latents = self.matrix.shape
        lengths = [("names", self.names, n_samples)]
        lengths += [(f"obs[{key!r}]", column, n_samples) for key, column in self.obs.items()]
        lengths += [(f"var[{key!r}]", column, n_latents) for key, column in self.var.items()]
        for what, column, needed in lengths:
            if len(column) != needed:
                raise ValueError(
                    f"{what} has {len(column)} entries, but the matrix has shape "
                    f"{self.matrix.shape}; {needed} are needed"
                )

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of samples and of latents."""
        return self.matrix.shape

    @property
    def n_latents(self) -> int:
        """Number of latents."""
        return self.matrix.shape[1]

    @property
    def labels(self) -> np.ndarray | None:
        """The ``label`` column of shape (n_samples,), or None where there is none."""
        return self.obs.get("label")

    def __len__(self) -> int:
        return self.matrix.shape[0]

    def active_indices(self, i: int) -> np.ndarray:
        """Return which latents are not zero in row `i`.

        Parameters
        ----------
        i : int
            Row; negative counts from the end.

        Returns
        -------
        ndarray of int
            Indices of latents, in the order in which the matrix stores them.

        Raises
        ------
        IndexError
            There is no such row.
        """
        if not -len(self) <= i < len(self):
            raise IndexError(f"row {i} is out of range: there are {len(self)} rows")
        start, stop = self.matrix.indptr[i % len(self) :][:2]
        return self.matrix.indices[start:stop][self.matrix.data[start:stop] != 0]

    def __repr__(self) -> str:
        n_samples, n_latents = self.shape
        density = self.matrix.nnz / max(n_samples * n_latents, 1)
        columns = ", ".join(self.obs) or "none"
        return (
            f"SparseCodes: {n_samples} samples x {n_latents} latents, "
            f"{density:.2%} non-zero; obs columns: {columns}"
        )
