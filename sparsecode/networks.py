"""Encoders and decoders: linear and MLP for flat data, convolutional for images.

An encoder maps (n, d) to the mean and the log standard deviation of the posterior, each (n, k); a
decoder maps (n, k) to the parameters of the likelihood, (n, d). Weights are drawn from a generator
that is passed in, never from the global seed.
"""

import copy
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

ImageShape = tuple[int, int] | tuple[int, int, int]
# ``loc[i, latent[i]]`` (m,) of rows x (m, d), float64, and latents (m,).
MeanAt = Callable[[Tensor, Tensor], Tensor]

# Posterior noise starts small against the slab's unit scale: log sigma² = -6.
INITIAL_LOG_SCALE = -3.0
_CHANNELS = (32, 64)


def initialise_(module: nn.Module, generator: torch.Generator | None) -> None:
    """Fill every linear and convolutional layer in place: uniform weights, zero biases.

    Weights lie within 1 / sqrt(fan-in), as torch's layers do by default: a wider start of the head
    for the means makes the first epochs costly.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _mlp(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers)


def _double(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).double()


def _height_width_channels(image_shape: ImageShape) -> tuple[int, int, int]:
    height, width, *channels = image_shape
    return height, width, channels[0] if channels else 1


class _ToImage(nn.Module):
    """(n, h·w·c) in NumPy's order -> (n, c, h, w)."""

    def __init__(self, image_shape: ImageShape) -> None:
        super().__init__()
        self.shape = _height_width_channels(image_shape)

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, *self.shape).movedim(-1, 1)


class _FromImage(nn.Module):
    """(n, c, h, w), cropped to the image -> (n, h·w·c) in NumPy's order."""

    def __init__(self, image_shape: ImageShape) -> None:
        super().__init__()
        self.height, self.width, _ = _height_width_channels(image_shape)

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : self.height, : self.width].movedim(1, -1).flatten(1)


def _conv_body(image_shape: ImageShape) -> tuple[nn.Sequential, int]:
    height, width, channels = _height_width_channels(image_shape)
    first, second = _CHANNELS
    body = nn.Sequential(
        _ToImage(image_shape),
        nn.Conv2d(channels, first, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(first, second, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
    )
    return body, second * (height // 4) * (width // 4)


def _conv_decoder(n_latents: int, image_shape: ImageShape) -> nn.Sequential:
    height, width, channels = _height_width_channels(image_shape)
    first, second = _CHANNELS
    rows, columns = math.ceil(height / 4), math.ceil(width / 4)
    return nn.Sequential(
        nn.Linear(n_latents, second * rows * columns),
        nn.ReLU(),
        nn.Unflatten(1, (second, rows, columns)),
        nn.ConvTranspose2d(second, first, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(first, channels, 4, stride=2, padding=1),
        _FromImage(image_shape),
    )


class SharedLogScale(nn.Module):
    """One log standard deviation for each latent, the same for every row.

    A head on the body would cost as much as the means. ``benchmarks/ablations.py`` compares.

    Parameters
    ----------
    n_latents : int
        k.
    """

    def __init__(self, n_latents: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(n_latents))

    def forward(self, _: Tensor) -> Tensor:
        """Return it (k,), whatever the row is."""
        return self.bias


class HiddenUnits(nn.Module):
    """What hidden units add to a linear map beside them: ``output(mlp(x))``, zero at the start.

    Training starts from the linear map alone. The sum of a dictionary and hidden units has a
    smaller error than a dictionary, and better codes than hidden units by themselves:
    docs/ablations.md.

    Parameters
    ----------
    sizes : sequence of int
        Widths from the input to the output, hidden layers between them.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.mlp = _mlp(sizes[:-1])
        self.output = nn.Linear(sizes[-2], sizes[-1], bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, sizes[0]) to (n, sizes[-1])."""
        return self.output(self.mlp(x))

    def in_double(self) -> MeanAt:
        """Return the function that computes ``self(x)[i, column[i]]`` (m,) in float64."""
        mlp = _double(self.mlp)
        return lambda x, column: (mlp(x) * self.output.weight[column]).sum(1)

    def initialise_(self, generator: torch.Generator | None) -> None:
        """Draw the weights; those of the output are zero."""
        initialise_(self.mlp, generator)
        nn.init.zeros_(self.output.weight)


class Encoder(nn.Module):
    """Body -> mean and log standard deviation.

    Parameters
    ----------
    body : Module
        Maps (n, d) to (n, h); an empty ``nn.Sequential`` makes the encoder linear.
    n_hidden, n_latents : int
        h and k.
    shares_scale : bool
        One standard deviation for each latent instead of one for each row and latent.
    sizes_beside : sequence of int
        Widths of hidden layers that add to the means, beside the linear map; () has none.
    """

    def __init__(
        self,
        body: nn.Module,
        n_hidden: int,
        n_latents: int,
        shares_scale: bool = False,
        sizes_beside: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.body = body
        self.loc = nn.Linear(n_hidden, n_latents)
        self.hidden = HiddenUnits([n_hidden, *sizes_beside, n_latents]) if sizes_beside else None
        self.log_scale = (
            SharedLogScale(n_latents) if shares_scale else nn.Linear(n_hidden, n_latents)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``loc`` (n, k) and ``log_scale`` (n, k) or (k,) for ``x`` (n, d)."""
        hidden = self.body(x)
        return self._mean(hidden), self.log_scale(hidden)

    def mean(self, x: Tensor) -> Tensor:
        """Return ``loc`` (n, k) alone: all that a code needs."""
        return self._mean(self.body(x))

    def _mean(self, hidden: Tensor) -> Tensor:
        loc = self.loc(hidden)
        return loc if self.hidden is None else loc + self.hidden(hidden)

    def in_double(self) -> MeanAt:
        """Return the function that computes single means in float64, of copies made once."""
        body = _double(self.body)
        beside = None if self.hidden is None else self.hidden.in_double()

        def mean_at(x: Tensor, latent: Tensor) -> Tensor:
            hidden = body(x)
            loc = (hidden * self.loc.weight[latent]).sum(1) + self.loc.bias[latent]
            return loc if beside is None else loc + beside(hidden, latent)

        return mean_at

    def initialise_(self, generator: torch.Generator | None) -> None:
        """Draw the weights; the noise starts small and the same for every input."""
        initialise_(self, generator)
        if self.hidden is not None:
            nn.init.zeros_(self.hidden.output.weight)
        if isinstance(self.log_scale, nn.Linear):
            nn.init.zeros_(self.log_scale.weight)
        nn.init.constant_(self.log_scale.bias, INITIAL_LOG_SCALE)


class TiedEncoder(nn.Module):
    """Means from the decoder's own dictionary: ``gain * (atoms @ x) + bias``, plus hidden units.

    Atoms that are filters as well overfit less than filters of their own, and their codes predict
    labels better. The error that this costs a linear decoder, an MLP beside it makes good:
    docs/ablations.md.

    Parameters
    ----------
    dictionary : Linear
        Maps (n, k) to (n, d). It stays the decoder's: its weights are not counted as this module's.
    sizes_beside : sequence of int
        Widths of hidden layers that add to the means; () has none.
    """

    def __init__(self, dictionary: nn.Linear, sizes_beside: Sequence[int] = ()) -> None:
        super().__init__()
        n_features, n_latents = dictionary.out_features, dictionary.in_features
        self._dictionary = (dictionary,)  # in a tuple it is not registered as a part
        self.gain = nn.Parameter(torch.empty(n_latents))
        self.bias = nn.Parameter(torch.empty(n_latents))
        self.log_scale = SharedLogScale(n_latents)
        self.hidden = HiddenUnits([n_features, *sizes_beside, n_latents]) if sizes_beside else None

    @property
    def dictionary(self) -> nn.Linear:
        """The decoder's linear part."""
        return self._dictionary[0]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``loc`` (n, k) and ``log_scale`` (n, k) or (k,) for ``x`` (n, d)."""
        loc = self.mean(x)
        return loc, self.log_scale(loc)

    def mean(self, x: Tensor) -> Tensor:
        """Return ``loc`` (n, k) alone."""
        loc = torch.addcmul(self.bias, x @ self.dictionary.weight, self.gain)
        return loc if self.hidden is None else loc + self.hidden(x)

    def in_double(self) -> MeanAt:
        """Return the function that computes single means in float64, of copies made once."""
        beside = None if self.hidden is None else self.hidden.in_double()

        def mean_at(x: Tensor, latent: Tensor) -> Tensor:
            atoms = self.dictionary.weight.index_select(1, latent).T
            loc = (x * atoms).sum(1) * self.gain[latent] + self.bias[latent]
            return loc if beside is None else loc + beside(x, latent)

        return mean_at

    def initialise_(self, generator: torch.Generator | None) -> None:
        """Start as unit filters, whatever the atoms' length."""
        if self.hidden is not None:
            self.hidden.initialise_(generator)
        self.gain.copy_(1 / self.dictionary.weight.norm(dim=0))
        nn.init.zeros_(self.bias)
        nn.init.constant_(self.log_scale.bias, INITIAL_LOG_SCALE)


class CustomEncoder(nn.Module):
    """Adapter for a user's module that maps (n, d) to (n, 2k): means, then log scales."""

    def __init__(self, module: nn.Module, n_latents: int) -> None:
        super().__init__()
        self.module = module
        self.n_latents = n_latents

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``loc`` (n, k) and ``log_scale`` (n, k) or (k,) for ``x`` (n, d)."""
        output = self.module(x)
        if output.shape != (len(x), 2 * self.n_latents):
            raise ValueError(
                f"encoder must map {tuple(x.shape)} to {(len(x), 2 * self.n_latents)}: "
                f"n_components means followed by as many log standard deviations; got "
                f"{tuple(output.shape)}"
            )
        loc, log_scale = output.chunk(2, dim=1)
        return loc, log_scale

    def mean(self, x: Tensor) -> Tensor:
        """Return ``loc`` (n, k)."""
        return self(x)[0].contiguous()

    def in_double(self) -> MeanAt:
        """Return the function that computes single means in float64, of a copy made once."""
        copied = _double(self)
        return lambda x, latent: copied(x)[0].gather(1, latent[:, None]).squeeze(1)


class SparseRows(NamedTuple):
    """Rows in CSR, on a device.

    Parameters
    ----------
    indptr, indices : Tensor of int32 or int64, shapes (n + 1,) and (m,)
    values : Tensor of shape (m,)
    """

    indptr: Tensor
    indices: Tensor
    values: Tensor


class SparseLinear(nn.Module):
    """A linear layer for `SparseRows`: it costs as much as these have entries.

    Parameters
    ----------
    layer : Linear
        Its weights are copied, transposed.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight = layer.weight.T.contiguous()
        self.bias = layer.bias

    def forward(self, z: SparseRows) -> Tensor:
        """Map n rows to (n, layer.out_features)."""
        sums = nn.functional.embedding_bag(
            z.indices,
            self.weight,
            z.indptr,
            mode="sum",
            per_sample_weights=z.values,
            include_last_offset=True,
        )
        return sums if self.bias is None else sums + self.bias


class DictionaryPlusHidden(nn.Module):
    """A dictionary and hidden units that correct it: ``linear(z) + hidden(z)``.

    Parameters
    ----------
    sizes : sequence of int
        Widths from the input to the output, hidden layers between them.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.linear = nn.Linear(sizes[0], sizes[-1])
        self.hidden = HiddenUnits(sizes)

    def forward(self, z: Tensor) -> Tensor:
        """Map (n, sizes[0]) to (n, sizes[-1])."""
        return self.linear(z) + self.hidden(z)

    def initialise_(self, generator: torch.Generator | None) -> None:
        """Draw the weights; the hidden units add nothing."""
        initialise_(self.linear, generator)
        self.hidden.initialise_(generator)


def for_sparse_rows(decoder: nn.Module) -> Callable[[SparseRows], Tensor] | None:
    """Return the same map for `SparseRows`; None where no linear layer reads the codes."""
    if isinstance(decoder, DictionaryPlusHidden):
        linear, mlp = SparseLinear(decoder.linear), for_sparse_rows(decoder.hidden.mlp)
        return mlp and (lambda z: linear(z) + decoder.hidden.output(mlp(z)))
    # Of these classes themselves: a subclass may do something else.
    if type(decoder) is nn.Sequential and type(decoder[0]) is nn.Linear:
        return nn.Sequential(SparseLinear(decoder[0]), *decoder[1:])
    return None


def build_encoder(
    n_features: int,
    n_latents: int,
    hidden_sizes: Sequence[int],
    image_shape: ImageShape | None,
    is_gated: bool = False,
) -> Encoder:
    """Build an encoder of the given widths, behind convolutions if ``image_shape`` is given.

    That of a gated posterior shares its scales, and keeps a linear map beside the hidden layers;
    convolutions do without.
    """
    body, n_hidden = nn.Sequential(), n_features
    if image_shape is not None:
        body, n_hidden = _conv_body(image_shape)
    elif is_gated:
        return Encoder(body, n_hidden, n_latents, is_gated, hidden_sizes)
    sizes = [n_hidden, *hidden_sizes]
    return Encoder(body.extend(_mlp(sizes)), sizes[-1], n_latents, is_gated)


def build_decoder(
    n_features: int,
    n_latents: int,
    hidden_sizes: Sequence[int],
    image_shape: ImageShape | None,
    is_gated: bool = False,
) -> nn.Sequential | DictionaryPlusHidden:
    """Build a decoder of the given widths, from the latents outwards.

    That of a gated posterior keeps a dictionary beside the hidden layers; convolutions do without.
    """
    sizes = [n_latents, *hidden_sizes]
    if image_shape is not None:
        return _mlp(sizes).extend(_conv_decoder(sizes[-1], image_shape))
    if is_gated and hidden_sizes:
        return DictionaryPlusHidden([*sizes, n_features])
    return _mlp(sizes).append(nn.Linear(sizes[-1], n_features))
