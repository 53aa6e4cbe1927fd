"""Better values, and a better support, for codes that an encoder gave: same decoder, same L0.

An encoder answers in one pass; what it leaves on the table can be had by a few steps on the
decoder's own objective, the negative log joint density of the row and the open latents,

    -log p(x | z) + sum over open latents of z_j² / 2.
"""

import torch
from torch import Tensor

from sparsecode.vae import SparseVAE

# Steps in units of the slab's scale, shrinking linearly to zero.
_STEP = 0.2
_MOMENTUM, _SMOOTHING = 0.8, 0.95
_TINY = 1e-12
# Rows solved at once: their systems are padded to the longest of them.
_BLOCK = 256


def refine(model: SparseVAE, x: Tensor, codes: Tensor, n_steps: int, n_swaps: int) -> Tensor:
    """Improve codes row by row at fixed L0; a row that did not improve stays as it was.

    Parameters
    ----------
    model : SparseVAE
        In evaluation mode.
    x : Tensor of shape (n, d)
    codes : Tensor of shape (n, k)
        Zero where closed.
    n_steps : int
        Descent steps for the values. A linear decoder under a Gaussian likelihood takes none: its
        least squares have a closed form.
    n_swaps : int
        Latents to exchange in each row, in rounds of ``n_swaps``, half of that and so on down to
        1; 0 keeps the support.

    Returns
    -------
    Tensor of shape (n, k)
    """
    values = _Values(model, x, n_steps)
    z = values.better(codes, values.best(codes, codes != 0))
    while n_swaps:
        z = values.better(z, _swapped(values, z, n_swaps))
        n_swaps //= 2
    return z


def _swapped(values: "_Values", z: Tensor, n_swaps: int) -> Tensor:
    # Open the latents that the objective asks for most, settle the values, close those that then
    # matter least, settle again. D. Needell and J. A. Tropp (2009), "CoSaMP", with n_swaps for 2s.
    gate = z != 0
    wanted = (values.gradient(z).abs() / values.column_norms).masked_fill(gate, -torch.inf)
    n = min(n_swaps, z.shape[1])
    opened = torch.zeros_like(gate).scatter_(1, wanted.topk(n, dim=1).indices, value=True) & ~gate
    wider = values.best(z, gate | opened)
    size = (wider.abs() * values.column_norms).masked_fill(~(gate | opened), torch.inf)
    order = size.sort(dim=1).indices
    # As many are closed as were opened, so that the row keeps its L0.
    rank = torch.arange(z.shape[1], device=z.device).expand_as(order)
    closed = torch.zeros_like(gate).scatter_(1, order, rank < opened.sum(1, keepdim=True))
    narrow = (gate | opened) & ~closed
    return values.best(wider * narrow, narrow)


class _Values:
    """The objective of given rows, and its minimum over the values on a given support."""

    def __init__(self, model: SparseVAE, x: Tensor, n_steps: int) -> None:
        self.model = model
        self.x = x
        self.n_steps = n_steps
        self.column_norms = _column_norms(model)
        linear = model.linear_decoder
        self.is_least_squares = linear is not None and model.spec.likelihood == "gaussian"
        if linear is not None and self.is_least_squares:
            target = model.standardise(x)
            if linear.bias is not None:
                target = target - linear.bias
            self.correlation = target @ linear.weight
            self.gram = linear.weight.T @ linear.weight

    def objective(self, z: Tensor) -> Tensor:
        """Negative log joint density (n,), up to a constant."""
        return -self.model.decode(z).log_prob(self.x) + 0.5 * z.square().sum(1)

    def gradient(self, z: Tensor) -> Tensor:
        """Gradient of the objective, (n, k)."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            return torch.autograd.grad(self.objective(z).sum(), z)[0]

    def better(self, old: Tensor, new: Tensor) -> Tensor:
        """Take the better of two codes, row by row."""
        is_better = self.objective(new) < self.objective(old)
        return torch.where(is_better[:, None], new, old)

    def best(self, start: Tensor, gate: Tensor) -> Tensor:
        """Minimise over the values where ``gate`` (n, k) is true."""
        return self._least_squares(gate) if self.is_least_squares else self._descend(start, gate)

    def _descend(self, z: Tensor, gate: Tensor) -> Tensor:
        # Adam's steps: each latent of each row at its own pace, whatever the likelihood.
        mean, square = torch.zeros_like(z), torch.zeros_like(z)
        for i in range(self.n_steps):
            gradient = self.gradient(z) * gate
            mean = mean.lerp(gradient, 1 - _MOMENTUM)
            square = square.lerp(gradient.square(), 1 - _SMOOTHING)
            pace = (square / (1 - _SMOOTHING ** (i + 1))).sqrt() + _TINY
            step = _STEP * (1 - i / self.n_steps)
            z = z - step / (1 - _MOMENTUM ** (i + 1)) * mean / pace
        return z

    def _least_squares(self, gate: Tensor) -> Tensor:
        z = torch.zeros_like(self.correlation)
        order = gate.sum(1).argsort()
        for rows in order.split(_BLOCK):
            self._solve(z, rows, gate[rows])
        return z

    def _solve(self, z: Tensor, rows: Tensor, gate: Tensor) -> None:
        longest = int(gate.sum(1).max())
        if longest == 0:
            return
        is_open, column = gate.to(torch.uint8).topk(longest, dim=1)
        is_open = is_open.to(z.dtype)
        pairs = is_open[:, :, None] * is_open[:, None, :]
        gram = self.gram[column[:, :, None], column[:, None, :]] * pairs
        # The prior's precision, in units of the likelihood's; 1 for the padding.
        precision = self.model.scale.square()
        gram = gram + torch.diag_embed(torch.where(is_open > 0, precision, 1.0))
        right = self.correlation[rows[:, None], column] * is_open
        solution = torch.cholesky_solve(right[:, :, None], torch.linalg.cholesky(gram))
        z[rows[:, None], column] = solution.squeeze(2) * is_open


def _column_norms(model: SparseVAE) -> Tensor:
    """Size of what a unit of each latent adds, (k,); 1 where the decoder has no linear part."""
    if model.dictionary is None:
        return torch.ones(model.spec.n_latents, dtype=model.scale.dtype, device=model.scale.device)
    return model.dictionary.weight.norm(dim=0).clamp(min=_TINY)
