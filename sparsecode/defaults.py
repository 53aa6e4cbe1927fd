"""What "auto" means: each default that depends on the data, resolved in one place.

``docs/model.md`` shows the measurements behind these numbers.
"""

import math
from collections.abc import Sequence

from sparsecode.distributions import LikelihoodName
from sparsecode.gate import PosteriorName
from sparsecode.loader import Rows, values_range
from sparsecode.networks import ImageShape

# Enough steps for a linear dictionary of some hundred atoms; more epochs overfit few rows, except
# where so few rows make hardly any steps.
_STEPS, _MIN_STEPS = 3000, 1500
_MAX_EPOCHS = 50
# Few rows want small batches: see docs/model.md.
_MIN_BATCH, _BATCH, _MAX_BATCH = 16, 256, 4096
_BATCHES = 40
# Latents that fire less often than this want larger batches, up to a limit.
_DENSE, _RARE_BATCH = 0.05, 1024
# Steps in one epoch above which batches grow: tens of millions of rows take few epochs.
_STEPS_PER_EPOCH = 4000
# Fewer rows than this want a linear decoder.
_MANY_ROWS = 12_000
# With so many rows for each feature beta is 1, the ELBO; more rows want less weight on the rate,
# fewer want more, within limits.
_ROWS_PER_FEATURE, _MIN_BETA, _MAX_BETA = 10, 0.1, 3.0
USAGE_BALANCE = 0.3
# Decoupled, as a multiple of the learning rate: weights of codes that generalise are small. Without
# a gate that trains, the decay counts like so many rows, and the more there are, the less it does.
WEIGHT_DECAY, _DECAY_ROWS = 1.0, 6_000
# Everywhere but in a gated encoder, which has so many units in all, filters and hidden ones: the
# fewer filters, the more hidden units pay.
_HIDDEN = (512,)
_ENCODER_UNITS, _FEWEST_HIDDEN = 640, 128


def resolve_likelihood(likelihood: str, rows: Rows) -> LikelihoodName:
    """Check the data against the likelihood's range, or choose: "bernoulli" for 0/1 data only.

    Raises
    ------
    ValueError
        Data outside [0, 1] for a Bernoulli likelihood.
    """
    low, high, binary = values_range(rows)
    if likelihood == "auto":
        return "bernoulli" if binary and low < high else "gaussian"
    if likelihood != "gaussian" and (low < 0 or high > 1):
        raise ValueError(
            f"likelihood={likelihood!r} needs data in [0, 1], but X ranges from {low:g} to "
            f"{high:g}. Scale X (sklearn.preprocessing.MinMaxScaler), pass images as uint8, or use "
            "likelihood='gaussian'."
        )
    return "gaussian" if likelihood == "gaussian" else _bernoulli_family(likelihood)


def _bernoulli_family(likelihood: str) -> LikelihoodName:
    return "bernoulli" if likelihood == "bernoulli" else "continuous_bernoulli"


def resolve_hidden_sizes(
    hidden_sizes: str | Sequence[int],
    posterior: PosteriorName,
    image_shape: ImageShape | None,
    n_rows: int,
    n_latents: int,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Widths of encoder and decoder: mirrored where given.

    "auto" is linear for the gated posterior, with hidden units beside the linear maps where there
    are rows enough to train them; one hidden layer on both sides for the other posterior; and
    nothing behind convolutions.
    """
    if not isinstance(hidden_sizes, str):
        sizes = tuple(int(size) for size in hidden_sizes)
        return sizes, sizes[::-1]
    if image_shape is not None:
        return (), ()
    if posterior == "gaussian":
        return _HIDDEN, _HIDDEN
    return (beside_filters(n_latents), _HIDDEN) if n_rows >= _MANY_ROWS else ((), ())


def beside_filters(n_latents: int) -> tuple[int, ...]:
    """Widths of the hidden layers beside the filters of a gated encoder.

    With few latents it then costs no more than with 512.
    """
    return (max(_FEWEST_HIDDEN, _ENCODER_UNITS - n_latents),)


def resolve_beta(
    beta: str | float, posterior: PosteriorName, p: float, n_rows: int, n_features: int
) -> float:
    """10 d / n within [.1, 3] for the gated posterior; 1, the ELBO, for everything else."""
    if not isinstance(beta, str):
        return float(beta)
    if posterior == "gaussian" or p == 0:
        return 1.0
    return min(_MAX_BETA, max(_MIN_BETA, _ROWS_PER_FEATURE * n_features / n_rows))


def resolve_batch_size(batch_size: str | int, n_rows: int, density: float) -> int:
    """At most ``n_rows``; a fortieth of few rows, 256 of many or more.

    More where latents fire rarely, so that each learns from a dozen rows in a step, and where an
    epoch is very long.

    Parameters
    ----------
    batch_size : "auto" or int
    n_rows : int
    density : float
        Fraction of latents that are open in training.
    """
    if not isinstance(batch_size, str):
        return min(int(batch_size), n_rows)
    if n_rows > _BATCH * _STEPS_PER_EPOCH:
        return min(_MAX_BATCH, 2 ** int(math.log2(n_rows / _STEPS_PER_EPOCH)))
    wanted = min(_RARE_BATCH, _BATCH * 2 ** max(0, round(math.log2(_DENSE / density))))
    return min(n_rows, max(_MIN_BATCH, min(wanted, n_rows // _BATCHES)))


def resolve_max_iter(max_iter: str | int, n_trained: int, batch_size: int) -> int:
    """As many epochs as make about 3,000 steps, 50 at most, or 100 while steps are below 1,500."""
    if not isinstance(max_iter, str):
        return int(max_iter)
    steps_per_epoch = max(1, n_trained // batch_size)
    most = max(_MAX_EPOCHS, min(2 * _MAX_EPOCHS, _MIN_STEPS // steps_per_epoch))
    return max(1, min(most, round(_STEPS / steps_per_epoch)))


def resolve_learning_rate(learning_rate: str | float, has_linear: bool) -> float:
    """6e-3 for an encoder that is linear or has a linear map beside hidden units; else 2e-3."""
    if not isinstance(learning_rate, str):
        return float(learning_rate)
    return 6e-3 if has_linear else 2e-3


def resolve_weight_decay(posterior: PosteriorName, n_rows: int) -> float:
    """1 for the gated posterior; for the other 6,000 / n_rows, at most 1."""
    if posterior == "spike_slab":
        return WEIGHT_DECAY
    return WEIGHT_DECAY * min(1.0, _DECAY_ROWS / n_rows)
