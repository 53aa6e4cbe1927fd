"""Rows -> codes with exact zeros, the same whatever the batch, its order or the thread count.

And codes -> rows, by products that skip the zeros.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from sparsecode.codes import csr_of
from sparsecode.device import matmul_precision
from sparsecode.loader import as_rows, chunks
from sparsecode.networks import MeanAt, SparseRows, for_sparse_rows
from sparsecode.streams import downloaded
from sparsecode.vae import SparseVAE

# Scores are in units of the slab. Two float32 evaluations of one score in different batches differ
# by a few 1e-6 at most; scores this near the threshold are decided in float64.
_TOLERANCE = 1e-4
# Values of a chunk, of rows or of scores: several steps pass over them, and find them in the cache
# of a CPU. A GPU wants enough work at once.
_CPU_VALUES, _GPU_VALUES = 1 << 20, 1 << 25
_FEWEST_ROWS, _MOST_ROWS = 256, 1 << 14
# An entry of a sparse product costs as much as three to fifteen of a dense one, and the weights
# are transposed for it, which a hundred rows make up for.
_SPARSE_DENSITY, _SPARSE_ROWS = 1 / 8, 256


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

    def moved(self, move: Callable[[Tensor], Tensor]) -> "Codes":
        """Replace both tensors by what a function makes of them."""
        return Codes(move(self.places), move(self.values), self.shape)

    def to_dense(self) -> Tensor:
        """Return the matrix (n, k)."""
        flat = self.values.new_zeros(self.shape[0] * self.shape[1])
        return flat.index_copy_(0, self.places, self.values).view(self.shape)


def to_csr(parts: Iterable[Codes]) -> sparse.csr_array:
    """Codes of all rows in one ``csr_array`` without stored zeros.

    Each part is let go once it is copied, so that codes are in memory once.

    Parameters
    ----------
    parts : iterable of Codes
        At least one; one below the other.
    """
    values, columns, counts, k = _Growing(np.float32), _Growing(np.int32), _Growing(np.int64), 0
    for part in parts:
        (n, k), places = part.shape, part.places.cpu().numpy()
        ends = np.searchsorted(places, np.arange(n + 1, dtype=np.int64) * k)
        count = np.diff(ends)
        values.append(part.values.cpu().numpy())
        columns.append(places - np.repeat(np.arange(n) * k, count))
        counts.append(count)
    indptr = np.concatenate([[0], counts.finished().cumsum()])
    matrix = csr_of(values.finished(), columns.finished(), indptr, (len(indptr) - 1, k))
    matrix.has_canonical_format = True  # by construction; saves a look
    return matrix


def filled(parts: Iterable[NDArray], n_rows: int) -> NDArray:
    """Put parts, at least one, one below the other in an array of so many rows.

    Each part is let go once it is copied, so that rows are in memory once.
    """
    parts = iter(parts)
    first = next(parts)
    whole, end = np.empty((n_rows, *first.shape[1:]), first.dtype), 0
    for part in chain([first], parts):
        start, end = end, end + len(part)
        whole[start:end] = part
    return whole


class _Growing:
    """An array that is appended to in place: a large one grows without being copied."""

    def __init__(self, dtype: type[np.generic]) -> None:
        self._values = np.empty(0, dtype)
        self._length = 0

    def append(self, values: NDArray) -> None:
        """Put values behind those that are there, in this array's type."""
        end = self._length + len(values)
        if end > len(self._values):
            self._values.resize(end + (end >> 3), refcheck=False)
        self._values[self._length : end] = values
        self._length = end

    def finished(self) -> NDArray:
        """Return the array, cut to what was put into it."""
        self._values.resize(self._length, refcheck=False)
        return self._values


@torch.no_grad()
def encode(model: SparseVAE, x: Tensor, in_double: Callable[[], MeanAt] | None = None) -> Codes:
    """Codes (n, k), float32, of rows x (n, d).

    A score within rounding of the threshold could fall on either side of it, depending on how a
    matrix product was blocked. Such a score is computed again in float64, where two evaluations
    agree to 1e-12: the zeros of a row then depend on nothing but the row.

    Parameters
    ----------
    model : SparseVAE
        In evaluation mode.
    x : Tensor of shape (n, d)
    in_double : callable, optional
        The encoder's own, cached: who encodes many batches copies its weights to float64 but once.
    """
    gate = model.gate
    with matmul_precision(reduced=False):
        loc = model.encoder.mean(model.standardise(x)).float().contiguous()
        flat, k = loc.view(-1), loc.shape[1]
        tolerance = _TOLERANCE * gate.threshold.abs().clamp(min=1.0)
        # Only what may be open is looked at again, and that is little.
        places = _above(gate.sized(loc), gate.levels(gate.threshold - tolerance))
        latent, values = places % k, flat.index_select(0, places)
        scores = gate.scores(values, latent)
        is_open = scores > gate.threshold
        close = _nonzero((scores - gate.threshold).abs() <= tolerance)
        if len(close):
            row, latent = places[close] // k, latent[close]
            mean_at = (in_double or model.encoder.in_double)()
            exact = mean_at(model.standardise(x[row].double()), latent)
            values[close] = exact.float()
            is_open[close] = gate.scores(exact, latent) > gate.threshold
    kept = _nonzero(is_open.logical_and_(values != 0))
    return Codes(places.index_select(0, kept), values.index_select(0, kept), (len(x), k))


def encode_parts(model: SparseVAE, parts: Iterable[Tensor]) -> Iterator[Codes]:
    """Codes of each part, in the memory of the CPU, where a GPU has made them, too.

    Parameters
    ----------
    model : SparseVAE
        In evaluation mode.
    parts : iterable of Tensor, each of shape (n, d)
    """
    in_double = cache(model.encoder.in_double)
    made = (encode(model, x, in_double) for x in parts)
    return downloaded(made, Codes.moved, model.scale.device)


@torch.no_grad()
def decode(model: SparseVAE, codes: NDArray[np.float32] | sparse.csr_array) -> NDArray[np.float32]:
    """Means of p(x | code) (n, d), for codes (n, k); few non-zeros make it cheaper.

    Parameters
    ----------
    model : SparseVAE
        In evaluation mode.
    codes : ndarray or csr_array of shape (n, k), float32
    """
    with matmul_precision(reduced=False):
        sparse_decoder = _sparse_decoder(model, codes)
        if sparse_decoder is not None:
            outputs = map(sparse_decoder, _sparse_chunks(codes, model))
            likelihoods = map(model.likelihood, outputs)
        else:
            rows = as_rows(codes, model.scale.device)
            likelihoods = map(model.decode, chunks(rows, rows_at_once(model)))
        return filled((each.mean.cpu().numpy() for each in likelihoods), codes.shape[0])


def _sparse_decoder(
    model: SparseVAE, codes: NDArray[np.float32] | sparse.csr_array
) -> Callable[[SparseRows], Tensor] | None:
    if isinstance(codes, np.ndarray) or codes.shape[0] < _SPARSE_ROWS:
        return None
    is_sparse = codes.nnz <= _SPARSE_DENSITY * np.prod(codes.shape)
    return for_sparse_rows(model.decoder) if is_sparse else None


def _sparse_chunks(codes: sparse.csr_array, model: SparseVAE) -> Iterator[SparseRows]:
    size, device = rows_at_once(model), model.scale.device
    for start in range(0, codes.shape[0], size):
        part = codes[start : start + size]
        indptr, indices = (torch.tensor(x, dtype=torch.int64) for x in (part.indptr, part.indices))
        values = torch.tensor(part.data, device=device)
        yield SparseRows(indptr.to(device), indices.to(device), values)


def rows_at_once(model: SparseVAE) -> int:
    """Count the rows in which to encode or decode many."""
    on_cpu = model.scale.device.type == "cpu"
    width = max(model.spec.n_features, model.spec.n_latents)
    n_rows = (_CPU_VALUES if on_cpu else _GPU_VALUES) // width
    return min(_MOST_ROWS, max(_FEWEST_ROWS, n_rows))


def _above(values: Tensor, levels: Tensor) -> Tensor:
    """Places in values (n, k), flattened, that exceed the level (k,) of their column."""
    # NumPy compares several times faster than torch on a CPU.
    if values.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(values.numpy() > levels.numpy()))
    return _nonzero((values > levels).view(-1))


def _nonzero(values: Tensor) -> Tensor:
    # NumPy searches several times faster than torch on a CPU, too.
    if values.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(values.numpy()))
    return values.nonzero().squeeze(1)
