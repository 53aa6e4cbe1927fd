"""Rows -> codes with exact zeros, the same whatever the batch, its order or the thread count."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from sparsecode.device import matmul_precision
from sparsecode.vae import SparseVAE

# Scores are in units of the slab. Two float32 evaluations of one score in different batches differ
# by a few 1e-6 at most; scores this near the threshold are decided in float64.
_TOLERANCE = 1e-4
# Values of a chunk, of rows or of scores: several steps pass over them, and find them in the cache
# of a CPU. A GPU wants enough work at once.
_CPU_VALUES, _GPU_VALUES = 1 << 19, 1 << 25
_FEWEST_ROWS, _MOST_ROWS = 64, 1 << 14


@dataclass(frozen=True)
class Codes:
    """Codes (n, k) by their entries that are not zero.

    Attributes
    ----------
    places : Tensor of int64, shape (m,)
        row * k + latent, rising.
    values : Tensor of shape (m,)
    shape : (int, int)
    """

    places: Tensor
    values: Tensor
    shape: tuple[int, int]

    @classmethod
    def of_dense(cls, codes: Tensor) -> "Codes":
        """Find the entries of a dense matrix."""
        n, k = codes.shape
        flat = codes.reshape(-1)
        places = _nonzero(flat)
        return cls(places, flat[places], (n, k))

    def to_dense(self) -> Tensor:
        """Return the matrix (n, k)."""
        flat = self.values.new_zeros(self.shape[0] * self.shape[1])
        return flat.index_copy_(0, self.places, self.values).view(self.shape)

    def to_csr(self) -> sparse.csr_array:
        """Return a ``csr_array`` without stored zeros."""
        (n, k), places = self.shape, self.places.cpu().numpy()
        indptr = np.searchsorted(places, np.arange(n + 1, dtype=np.int64) * k)
        columns = (places - np.repeat(np.arange(n) * k, np.diff(indptr))).astype(np.int32)
        matrix = sparse.csr_array((self.values.cpu().numpy(), columns, indptr), (n, k))
        matrix.has_canonical_format = True  # by construction; saves a look
        return matrix


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
    def __call__(self, x: Tensor) -> Codes:
        """Codes (n, k), float32, of rows x (n, d)."""
        gate = self.model.gate
        with matmul_precision(reduced=False):
            loc = _locations(self.model, x).float().contiguous()
            scores = gate.scores(loc)
            tolerance = _TOLERANCE * gate.threshold.abs().clamp(min=1.0)
            # Only what may be open is looked at again, and that is little.
            places = _nonzero((scores > gate.threshold - tolerance).view(-1))
            values, some = loc.view(-1)[places], scores.view(-1)[places]
            is_open = some > gate.threshold
            close = places[some <= gate.threshold + tolerance]
            if len(close):
                rows = torch.unique_consecutive(close.div(loc.shape[1], rounding_mode="floor"))
                self._score_again(x, rows, places, values, is_open)
        is_open &= values != 0
        return Codes(places[is_open], values[is_open], (len(x), loc.shape[1]))

    def _score_again(
        self, x: Tensor, rows: Tensor, places: Tensor, values: Tensor, is_open: Tensor
    ) -> None:
        """Replace values and gates of the entries in ``rows`` by those of float64."""
        model = self._in_double()
        exact = _locations(model, x[rows].double()).contiguous()
        k = exact.shape[1]
        rank = torch.full((len(x),), -1, device=x.device).index_copy_(
            0, rows, torch.arange(len(rows), device=x.device)
        )
        of_place = rank[places.div(k, rounding_mode="floor")]
        again = (of_place >= 0).nonzero().squeeze(1)
        there = of_place[again] * k + places[again] % k
        values[again] = exact.view(-1)[there].float()
        is_open[again] = model.gate.scores(exact).view(-1)[there] > self.model.gate.threshold

    def _in_double(self) -> SparseVAE:
        if self._double is None:
            self._double = copy.deepcopy(self.model).double()
        return self._double


def rows_at_once(model: SparseVAE) -> int:
    """Count the rows in which to encode or decode many."""
    on_cpu = model.scale.device.type == "cpu"
    width = max(model.spec.n_features, model.spec.n_latents)
    n_rows = (_CPU_VALUES if on_cpu else _GPU_VALUES) // width
    return min(_MOST_ROWS, max(_FEWEST_ROWS, n_rows))


def _locations(model: SparseVAE, x: Tensor) -> Tensor:
    return model.encoder.mean(model.standardise(x))


def _nonzero(values: Tensor) -> Tensor:
    # NumPy's search is several times faster than torch's on a CPU.
    if values.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(values.numpy()))
    return values.nonzero().squeeze(1)
