"""The variants of `benchmarks.ablations`: each differs from `SparseVAETransformer` in one respect.

Where the estimator has a parameter for it, a variant is that parameter. Everything else is no
parameter of the package: it is patched into the package for as long as a model is fitted and used.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias
from unittest.mock import patch

import torch
from torch import Tensor, nn
from typing_extensions import override

from sparsecode import defaults, fitting, trainer, transformer, vae
from sparsecode.distributions import GatedNormal
from sparsecode.gate import Gate
from sparsecode.loader import Rows
from sparsecode.networks import (
    INITIAL_LOG_SCALE,
    Encoder,
    TiedEncoder,
    build_decoder,
    build_encoder,
)
from sparsecode.vae import ModelSpec, SparseVAE

Patch: TypeAlias = Callable[[], AbstractContextManager[object]]

# Width of the rectangle in which a gate has a gradient, in units of the slab.
KERNEL_WIDTH = 0.3
# Share of the features that a denoising encoder does not see in training.
MASKED = 0.2
IMAGE_SHAPE = (28, 28)
# Of an encoder without a linear part.
HIDDEN = (512,)


@dataclass(frozen=True)
class Variant:
    """One respect in which a fit differs.

    Attributes
    ----------
    parameters : dict
        Of the estimator.
    patches : tuple of callables
        Each makes a context manager that changes the package.
    against : str
        The variant that it is compared with, and from which it differs in the one respect.
    """

    parameters: Mapping[str, Any] = field(default_factory=dict)
    patches: tuple[Patch, ...] = ()
    against: str = "default"

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Patch the package; fit and code in here."""
        with ExitStack() as stack:
            for make in self.patches:
                stack.enter_context(make())
            yield


def replaced(owner: object, name: str, value: object) -> Patch:
    """Make a patch of one attribute of a module or class."""
    return partial(patch.object, owner, name, value)


# -- gates ---------------------------------------------------------------------------------------


class GateOfModel(Gate):
    """A gate that knows its model, set by `gate_of`."""

    model: tuple[SparseVAE]  # in a tuple it is not registered as a part


def gate_of(kind: type[Gate]) -> Patch:
    """Give every model a gate of this kind."""
    build, posterior = SparseVAE.__init__, SparseVAE.posterior

    def build_and_tell(self: SparseVAE, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        if isinstance(self.gate, GateOfModel):
            self.gate.model = (self,)

    def with_gradient(
        self: SparseVAE, loc: Tensor, scale: Tensor, gate: Tensor | None = None
    ) -> GatedNormal:
        # The gate that training hands over has none.
        return posterior(self, loc, scale, None if issubclass(kind, SmoothGate) else gate)

    @contextmanager
    def patched() -> Iterator[None]:
        with (
            patch.object(vae, "Gate", kind),
            patch.object(SparseVAE, "__init__", build_and_tell),
            patch.object(SparseVAE, "posterior", with_gradient),
        ):
            yield

    return patched


class UnlikeGate(GateOfModel):
    """A gate whose score of a latent depends on more than its mean: it is asked for all of them."""

    @override
    def levels(self, score: Tensor) -> Tensor:
        return torch.full_like(self.usage, -torch.inf)

    @override
    def scores(self, loc: Tensor, latent: Tensor | None = None) -> Tensor:
        if latent is None:
            return self.all_scores(loc)
        distance = self.all_scores(loc.view(-1, len(self.usage))).view(-1) - self.threshold
        # So far from the threshold that none is looked at again.
        return self.threshold + distance + torch.where(distance > 0, 1.0, -1.0)

    def all_scores(self, loc: Tensor) -> Tensor:
        """Scores (n, k)."""
        raise NotImplementedError


class NormGate(GateOfModel):
    """Scores are what a code moves in the reconstruction: loc times the length of its atom."""

    @property
    @override
    def gain(self) -> Tensor:
        dictionary = self.model[0].dictionary
        assert dictionary is not None
        return super().gain * dictionary.weight.detach().norm(dim=0)


class SignedGate(Gate):
    """Scores are abs(loc), so that negative codes pass."""

    @property
    @override
    def is_signed(self) -> bool:
        return True


class RowGate(UnlikeGate):
    """Open exactly the top L0 of each row, in training and afterwards.

    Scores are taken relative to the row's own threshold, and moved away from it by 1 on either
    side: the threshold shared by all is then 0, and calibration finds it there.
    """

    target: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("target", torch.zeros(()))

    @override
    def all_scores(self, loc: Tensor) -> Tensor:
        scores = Gate.scores(self, loc)
        n_latents = loc.shape[1]
        n_open = min(n_latents - 1, round(n_latents * (1 - float(self.target))))
        edges = scores.topk(n_open + 1, dim=1).values[:, n_open - 1 :]
        relative = scores - edges.mean(1, keepdim=True)
        return relative + relative.sign()

    @override
    def track(self, scores: Tensor, target: Tensor, is_first: bool = False) -> None:
        self.target.copy_(target)  # of the steps that follow: p is annealed here, too


class SmoothGate(GateOfModel):
    """0 and 1 forward; backward, the gradient of `surrogate`."""

    @override
    def forward(self, scores: Tensor) -> Tensor:
        soft = self.surrogate(scores - self.threshold)
        return super().forward(scores) + (soft - soft.detach())

    def surrogate(self, distance: Tensor) -> Tensor:
        """Slope 1 everywhere: straight-through."""
        return distance


class RectangleGate(SmoothGate):
    """The kernel of S. Rajamanoharan et al. (2024), "Jumping ahead", at our own width."""

    @override
    def surrogate(self, distance: Tensor) -> Tensor:
        return (distance / KERNEL_WIDTH).clamp(-0.5, 0.5)


class OwnHeadGate(UnlikeGate, SmoothGate):
    """Scores are the logits of `TwoHeads`, which learn through a sigmoid."""

    @override
    def all_scores(self, loc: Tensor) -> Tensor:
        encoder = self.model[0].encoder
        assert isinstance(encoder, TwoHeads)
        return Gate.scores(self, encoder.logits).to(loc.dtype)

    @override
    def surrogate(self, distance: Tensor) -> Tensor:
        return torch.sigmoid(distance)


# -- networks ------------------------------------------------------------------------------------


class TwoHeads(TiedEncoder):
    """Means by the atoms; what is open, by filters of their own that start at the atoms."""

    logits: Tensor

    def __init__(self, dictionary: nn.Linear, sizes_beside: Sequence[int]) -> None:
        super().__init__(dictionary, sizes_beside)
        self.filters = nn.Linear(dictionary.out_features, dictionary.in_features)

    @override
    def mean(self, x: Tensor) -> Tensor:
        self.logits = self.filters(x)  # `OwnHeadGate.scores` is always asked next
        return super().mean(x)

    @override
    def initialise_(self, generator: torch.Generator | None) -> None:
        super().initialise_(generator)
        self.filters.weight.copy_(nn.functional.normalize(self.dictionary.weight, dim=0).T)
        nn.init.zeros_(self.filters.bias)


class ScalePerRow(TiedEncoder):
    """A head for the standard deviations instead of one for each latent."""

    def __init__(self, dictionary: nn.Linear, sizes_beside: Sequence[int]) -> None:
        super().__init__(dictionary, sizes_beside)
        self.row_scale = nn.Linear(dictionary.out_features, dictionary.in_features)

    @override
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean(x), self.row_scale(x)

    @override
    def initialise_(self, generator: torch.Generator | None) -> None:
        super().initialise_(generator)
        nn.init.zeros_(self.row_scale.weight)
        nn.init.constant_(self.row_scale.bias, INITIAL_LOG_SCALE)


def _hidden_alone(spec: ModelSpec, _: nn.Module) -> Encoder:
    body = build_encoder(spec.n_features, spec.n_latents, HIDDEN, None).body
    return Encoder(body, HIDDEN[-1], spec.n_latents, shares_scale=True)


def _tied_to_linear(spec: ModelSpec, decoder: nn.Module) -> TiedEncoder:
    assert isinstance(decoder, nn.Sequential)
    assert isinstance(decoder[0], nn.Linear)
    return TiedEncoder(decoder[0], spec.encoder_sizes)


def _mlp_alone(spec: ModelSpec) -> nn.Module:
    return build_decoder(spec.n_features, spec.n_latents, spec.decoder_sizes, None)


def _convolutional(spec: ModelSpec) -> nn.Module:
    return build_decoder(spec.n_features, spec.n_latents, (), IMAGE_SHAPE)


# -- start ---------------------------------------------------------------------------------------

_start_dictionary_ = SparseVAE._start_dictionary_
_new_model = fitting.new_model


def _start_filters_anew(
    self: SparseVAE, dictionary: nn.Linear, generator: torch.Generator | None
) -> None:
    """Keep the filters that were drawn, at unit length, instead of the transposed dictionary."""
    assert isinstance(self.encoder, Encoder)
    drawn = nn.functional.normalize(self.encoder.loc.weight, dim=1)
    _start_dictionary_(self, dictionary, generator)
    self.encoder.loc.weight.copy_(drawn)


@torch.no_grad()
def _start_at_rows(plan: fitting.FitPlan, rows: Rows, train: Tensor) -> SparseVAE:
    """Take training rows, centred, as directions of the dictionary; lengths stay."""
    model = _new_model(plan, rows, train)
    assert model.dictionary is not None
    atoms, n_latents = model.dictionary.weight, plan.spec.n_latents
    drawn = model.standardise(rows.batch(train[torch.arange(n_latents) % len(train)]))
    atoms.copy_(nn.functional.normalize(drawn, dim=1).T * atoms.norm(dim=0))
    return model


# -- training ------------------------------------------------------------------------------------

_heads = SparseVAE.heads
_warm_up_cosine = trainer._warm_up_cosine


def _mean(self: GatedNormal, *_: Any, **__: Any) -> Tensor:
    return self.mean


def _p_at_once(_: float) -> float:
    return 1.0


def _heads_of_noisy_rows(self: SparseVAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """Encode training rows of which a fifth of the features are replaced by their means."""
    if self.training:
        seen = nn.functional.dropout(self.standardise(x), MASKED)
        x = self.input_mean + self.input_scale * seen
    return _heads(self, x)


def _constant_after_warm_up(done: float) -> float:
    return _warm_up_cosine(min(done, trainer._WARM_UP))


def steps(factor: float) -> Variant:
    """Train for so many times the number of steps that is in force."""
    return Variant({}, (lambda: n_steps(round(factor * defaults._STEPS)),))


def n_steps(count: int) -> AbstractContextManager[object]:
    """Train for about so many steps."""
    return patch.object(defaults, "_STEPS", count)


def learning_rate(factor: float) -> Variant:
    """Train at so many times the default rate."""
    rate = defaults.resolve_learning_rate("auto", has_linear=True)
    return Variant({"learning_rate": factor * rate})


def hidden(
    encoder: tuple[int, ...] | None = None,
    decoder: tuple[int, ...] | None = None,
    against: str = "default",
) -> Variant:
    """Lay other hidden units beside a linear map."""
    patches = []
    if encoder is not None:
        patches.append(replaced(defaults, "beside_filters", lambda _: encoder))
    if decoder is not None:
        patches.append(replaced(defaults, "_HIDDEN", decoder))
    return Variant({}, tuple(patches), against)


# -- all -----------------------------------------------------------------------------------------

_UNTIED = replaced(ModelSpec, "is_tied", False)
_NO_NOISE = replaced(GatedNormal, "rsample", _mean)
_BETA = defaults.resolve_beta("auto", "spike_slab", 0.5, 60_000, 784)


def _values(label: str, values: tuple[float, ...], now: float, make: Any) -> dict[str, Variant]:
    """One variant for each value that is not the default."""
    return {f"{label} {value:g}": make(value) for value in values if value != now}


def _constant(module: object, name: str) -> Callable[[float], Variant]:
    return lambda value: Variant({}, (replaced(module, name, value),))


VARIANTS: dict[str, Variant] = {
    "default": Variant(),
    "score: loc times atom length": Variant({}, (gate_of(NormGate),)),
    "score: abs(loc), signed codes": Variant({}, (gate_of(SignedGate),)),
    "score: a head of its own": Variant(
        {}, (gate_of(OwnHeadGate), replaced(vae, "TiedEncoder", TwoHeads))
    ),
    "gate: top L0 of each row": Variant({}, (gate_of(RowGate),)),
    "gate gradient: straight-through": Variant({}, (gate_of(SmoothGate),)),
    f"gate gradient: rectangle, width {KERNEL_WIDTH:g}": Variant({}, (gate_of(RectangleGate),)),
    "encoder: untied": Variant({}, (_UNTIED,)),
    "encoder: dictionary alone": hidden(encoder=()),
    # The default has 128 from 512 latents on.
    **{f"encoder: {n} hidden units": hidden(encoder=(n,)) for n in (32, 128, 256, 512)},
    "encoder: hidden units alone": Variant(
        {"learning_rate": defaults.resolve_learning_rate("auto", has_linear=False)},
        (replaced(vae, "_encoder", _hidden_alone),),
    ),
    "encoder: a fifth of the pixels masked": Variant(
        {}, (replaced(SparseVAE, "heads", _heads_of_noisy_rows),)
    ),
    "encoder: scale for each row": Variant({}, (replaced(vae, "TiedEncoder", ScalePerRow),)),
    "decoder: linear, tied": Variant(
        {}, (replaced(defaults, "_HIDDEN", ()), replaced(vae, "_encoder", _tied_to_linear))
    ),
    "decoder: linear": hidden(decoder=(), against="encoder: untied"),
    "decoder: 128 hidden units": hidden(decoder=(128,)),
    "decoder: 1,024 hidden units": hidden(decoder=(1024,)),
    "encoder and decoder: linear": Variant({"hidden_sizes": ()}, against="encoder: untied"),
    "decoder: MLP alone": Variant(
        {}, (replaced(vae, "_decoder", _mlp_alone),), against="encoder: untied"
    ),
    "decoder: convolutional": Variant(
        {}, (replaced(vae, "_decoder", _convolutional),), against="encoder: untied"
    ),
    "encoder and decoder: convolutional": Variant({"image_shape": IMAGE_SHAPE}),
    "likelihood: Bernoulli": Variant({"likelihood": "bernoulli"}),
    "likelihood: continuous Bernoulli": Variant({"likelihood": "continuous_bernoulli"}),
    "beta 0, no noise: autoencoder": Variant({"beta": 0.0}, (_NO_NOISE,)),
    **_values("beta", (0.03, 0.4, 1, 3), _BETA, lambda beta: Variant({"beta": float(beta)})),
    "no noise": Variant({}, (_NO_NOISE,)),
    "p annealed: not": Variant({}, (replaced(trainer, "_annealed", _p_at_once),)),
    "p annealed: over half of training": Variant({}, (replaced(trainer, "_ANNEAL", 0.5),)),
    "start: filters on their own": Variant(
        {},
        (_UNTIED, replaced(SparseVAE, "_start_dictionary_", _start_filters_anew)),
        against="encoder: untied",
    ),
    "start: atoms at training rows": Variant({}, (replaced(fitting, "new_model", _start_at_rows),)),
    **_values(
        "usage balance",
        (0, 0.2, 0.4, 0.6, 1),
        transformer.USAGE_BALANCE,
        _constant(transformer, "USAGE_BALANCE"),
    ),
    **_values(
        "auxiliary loss",
        (0, 0.25),
        trainer._AUXILIARY_WEIGHT,
        _constant(trainer, "_AUXILIARY_WEIGHT"),
    ),
    **_values(
        "weight decay", (0, 0.5, 3), defaults.WEIGHT_DECAY, _constant(defaults, "WEIGHT_DECAY")
    ),
    "learning rate / 3": learning_rate(1 / 3),
    "learning rate x 3": learning_rate(3),
    "learning rate constant after warm-up": Variant(
        {}, (replaced(trainer, "_warm_up_cosine", _constant_after_warm_up),)
    ),
    "steps / 3": steps(1 / 3),
    "steps x 2": steps(2),
    "batch 128": Variant({"batch_size": 128}),
    "batch 512": Variant({"batch_size": 512}),
}
