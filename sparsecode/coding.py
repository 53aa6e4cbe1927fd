"""Rows -> codes with exact zeros, the same whatever the batch, its order or the thread count."""

import copy

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from sparsecode.device import matmul_precision
from sparsecode.vae import SparseVAE

# Scores are in units of the slab. Two float32 evaluations of one score in different batches differ
# by a few 1e-6 at most; scores this near the threshold are decided in float64.
_TOLERANCE = 1e-4


class Coder:
    """Encodes rows with a trained model.

    A score within rounding of the threshold could fall on either side of it, depending on how a
    matrix product was blocked. Rows that hold such a score are scored again in float64, where two
    evaluations agree to 1e-12: the zeros of a row then depend on nothing but the row.

    Parameters
    ----------
    model : SparseVAE
        In evaluation mode.
    """

    def __init__(self, model: SparseVAE) -> None:
        self.model = model
        self._double: SparseVAE | None = None

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Codes (n, k), float32, of rows x (n, d)."""
        gate = self.model.gate
        with matmul_precision(reduced=False):
            loc = _locations(self.model, x).float()
            scores = gate.scores(loc)
            tolerance = _TOLERANCE * gate.threshold.abs().clamp(min=1.0)
            close = ((scores - gate.threshold).abs() <= tolerance).any(1).nonzero().squeeze(1)
            is_open = scores > gate.threshold
            if len(close):
                exact = _locations(self._in_double(), x[close].double())
                is_open[close] = self._in_double().gate.scores(exact) > gate.threshold
                loc[close] = exact.float()
        return torch.where(is_open, loc, 0.0)

    def _in_double(self) -> SparseVAE:
        if self._double is None:
            self._double = copy.deepcopy(self.model).double()
        return self._double


def _locations(model: SparseVAE, x: Tensor) -> Tensor:
    return model.encoder.mean(model.standardise(x))


def to_csr(codes: Tensor) -> sparse.csr_array:
    """Compress codes (n, k) to a ``csr_array`` without stored zeros, on the codes' device."""
    row, column = codes.nonzero(as_tuple=True)
    counts = torch.bincount(row, minlength=len(codes))
    indptr = np.concatenate([[0], np.cumsum(counts.cpu().numpy())])
    data = codes[row, column].cpu().numpy()
    return sparse.csr_array((data, column.cpu().numpy().astype(np.int32), indptr), codes.shape)
