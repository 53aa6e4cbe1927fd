"""Arrays -> batches of float32 rows on a device: the only border between arrays and tensors.

Rows stay as they were given (uint8 stays uint8, CSR stays CSR) and become float32 one batch at a
time; uint8 means [0, 255] and is scaled to [0, 1].
"""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from sparsecode.device import free_memory
from sparsecode.streams import uploaded

# Values converted at once where the whole array is passed over (moments, transform).
_CHUNK_VALUES = 1 << 20
_RESIDENT_SHARE = 0.5


class Rows(Protocol):
    """A matrix of which batches of rows can be taken."""

    n_rows: int
    n_features: int
    on_device: bool

    def batch(self, index: Tensor) -> Tensor:
        """Rows at ``index`` (b,) as float32 (b, d) on the device."""

    def slice(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` as float32 on the device."""


class DenseRows:
    """Rows of an ndarray, kept on the device in their own dtype."""

    on_device = True

    def __init__(self, X: NDArray, device: torch.device) -> None:
        self.n_rows, self.n_features = X.shape
        # Zero-copy on the CPU, except for a read-only array, which torch does not accept as it is.
        writeable = X if X.flags.writeable else np.array(X)
        self._data = torch.from_numpy(np.ascontiguousarray(writeable)).to(device)

    def batch(self, index: Tensor) -> Tensor:
        """Rows at ``index`` (b,) as float32 (b, d) on the device."""
        return _to_unit_float(self._data.index_select(0, index))

    def slice(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` as float32 on the device."""
        return _to_unit_float(self._data[start:stop])


class HostRows:
    """Rows that stay on the host: of a CSR matrix, a memory map, or passed over but once.

    A batch goes to a GPU from pinned memory, so that the host makes the next one ready meanwhile.
    """

    on_device = False

    def __init__(self, X: sparse.csr_array | NDArray, device: torch.device) -> None:
        self.n_rows, self.n_features = X.shape
        self._data = X
        self.device = device

    def batch(self, index: Tensor) -> Tensor:
        """Rows at ``index`` (b,) as float32 (b, d) on the device."""
        return self._densify(self._data[index.cpu().numpy()])

    def slice(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` as float32 on the device."""
        return self._densify(self._data[start:stop])

    def _densify(self, part: Any) -> Tensor:
        dense = torch.from_numpy(part.toarray() if sparse.issparse(part) else np.array(part))
        if self.device.type == "cuda":
            dense = dense.pin_memory()
        return _to_unit_float(dense.to(self.device, non_blocking=True))


def as_rows(X: NDArray | sparse.csr_array, device: torch.device, in_order: bool = False) -> Rows:
    """Wrap a validated matrix (n, d).

    Parameters
    ----------
    X : ndarray or csr_array of shape (n, d)
        float32, float64 or uint8.
    device : torch.device
        Where batches are wanted. Dense data move there whole; CSR matrices, memory maps and what
        would take more than half of a GPU's free memory stay on the host.
    in_order : bool, default=False
        The rows are passed over once, by `chunks`: they go to a GPU while it works on others.
    """
    streams = in_order and device.type == "cuda"
    if streams or sparse.issparse(X) or _is_mapped(X) or _is_too_large(X, device):
        return HostRows(X, device)
    return DenseRows(X, device)


def _is_too_large(X: NDArray, device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    return X.nbytes > _RESIDENT_SHARE * free_memory(device)


def _is_mapped(X: NDArray) -> bool:
    # Validation hands on a plain view of a memory map.
    base: Any = X
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    return isinstance(base, np.memmap)


def _to_unit_float(rows: Tensor) -> Tensor:
    if rows.dtype == torch.uint8:
        return rows.to(torch.float32).div_(255.0)
    return rows.to(torch.float32)


def chunks(rows: Rows, size: int | None = None) -> Iterator[Tensor]:
    """Pass over all rows in order, as float32 chunks on the device.

    Parameters
    ----------
    rows : Rows
    size : int, optional
        Rows in a chunk; by default as many as keep a chunk at 4 MiB.
    """
    size = size or max(1, _CHUNK_VALUES // rows.n_features)
    starts = range(0, rows.n_rows, size)
    parts = (rows.slice(start, min(start + size, rows.n_rows)) for start in starts)
    return uploaded(parts, rows.device) if isinstance(rows, HostRows) else parts


def moments(rows: Rows, index: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (population) of each feature over the rows at ``index``.

    Returns
    -------
    mean, variance : Tensor of shape (d,), float32
        Accumulated in float64, the variance by the pairwise update of Chan, Golub and LeVeque
        (1979), so that large offsets do not cancel.
    """
    size = max(1, _CHUNK_VALUES // rows.n_features)
    mean = torch.zeros(rows.n_features, dtype=torch.float64, device=index.device)
    count, squares = 0, torch.zeros_like(mean)
    for part in index.split(size):
        x = rows.batch(part).double()
        part_mean = x.mean(0)
        shift = part_mean - mean
        total = count + len(x)
        squares = squares + ((x - part_mean) ** 2).sum(0) + shift**2 * (count * len(x) / total)
        mean += shift * (len(x) / total)
        count = total
    return mean.float(), (squares / count).float()


def values_range(rows: Rows) -> tuple[float, float, bool]:
    """Smallest and largest value of all rows, and whether every value is 0 or 1."""
    low, high, binary = np.inf, -np.inf, True
    for x in chunks(rows):
        low, high = min(low, float(x.min())), max(high, float(x.max()))
        binary = binary and bool(((x == 0) | (x == 1)).all())
    return low, high, binary


def epoch_index(index: Tensor, batch_size: int, generator: torch.Generator) -> Tensor:
    """Shuffle ``index`` (n,) into batches of one shape, (n // batch_size, batch_size).

    The remainder sits out this epoch; another permutation leaves out others.
    """
    order = torch.randperm(len(index), generator=generator, device=index.device)
    n_batches = len(index) // batch_size
    return index[order[: n_batches * batch_size]].view(n_batches, batch_size)
