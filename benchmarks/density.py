"""Density of dynamically binarised MNIST: bounds beside published ones, and what exact zeros cost.

    python -m benchmarks.density --data-dir ../shared/data --seeds 5
    python -m benchmarks.density --data-dir ../shared/data --pictures docs/images

Every model has one stochastic layer, between encoders and decoders of two hidden layers of 200
units, as Y. Burda, R. Grosse and R. Salakhutdinov (2016), "Importance weighted autoencoders",
table 1, from which the published figures are. Pixels are drawn anew from their grey levels in
every batch; the test rows are drawn once. Finished fits are kept in benchmarks/results/.
"""

import argparse
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Bernoulli, Normal

from benchmarks.codes.table import markdown
from benchmarks.common import (
    RESULTS,
    DataSet,
    Row,
    RowFile,
    export,
    load_mnist,
    mean_sd,
    measured_on,
    parser,
    print_notes,
    print_table,
    unit_float,
)
from benchmarks.gate_prior import N_COMPONENTS, GateMixture, GatePrior, own_p
from sparsecode import SparseVAETransformer, defaults, transformer
from sparsecode.elbo import elbo_terms, iwae_bound, rate_spike
from sparsecode.loader import DenseRows
from sparsecode.vae import SparseVAE

PUBLISHED = {
    "published: VAE, 50 latents, one draw in training": 86.76,
    "published: IWAE, 50 latents, 50 draws in training": 84.78,
}
HIDDEN = (200, 200)
DRAWS = 1000
_N_SAMPLES = 64
_ROWS = 10  # rows whose draws are decoded at once
# Spread of a gate's noise, in units of the latent's own, for the stochastic gate.
GATE_NOISE = (1e-3, 0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class Density:
    """One line: parameters of the estimator, and what else is not its default."""

    label: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    weight_decay: float = defaults.WEIGHT_DECAY
    usage_balance: float = defaults.USAGE_BALANCE


def _lines() -> Iterator[Density]:
    gaussian = {"posterior": "gaussian", "learning_rate": 5e-3}
    yield Density("gaussian, 50 latents, p = 0", {**gaussian, "p": 0.0})
    yield Density("gaussian, 50 latents, p = .8", gaussian)
    yield Density("spike_slab, 50 latents, p = .5", {"p": 0.5})
    yield Density("spike_slab, 50 latents, p = .8", {})
    yield Density("spike_slab, 50 latents, p = .8, decay .1", {}, weight_decay=0.1)
    yield Density(
        "spike_slab, 50 latents, p = .8, decay .1, no balance",
        {},
        weight_decay=0.1,
        usage_balance=0.0,
    )
    yield Density("spike_slab, 250 latents, p = .95", {"n_components": 250, "p": 0.95})


LINES = {line.label: line for line in _lines()}


# -- fitting -------------------------------------------------------------------------------------


@contextmanager
def binarised(seed: int) -> Iterator[None]:
    """Draw every batch of training rows from its grey levels."""
    generator = torch.Generator().manual_seed(seed)
    batch = DenseRows.batch

    def drawn(self: DenseRows, index: Tensor) -> Tensor:
        return torch.bernoulli(batch(self, index), generator=generator)

    with patch.object(DenseRows, "batch", drawn):
        yield


def fit(line: Density, data: DataSet, seed: int, epochs: int) -> SparseVAETransformer:
    """Fit on rows binarised anew in every batch."""
    chosen = {"n_components": 50, "p": 0.8, "hidden_sizes": HIDDEN, "beta": 1.0, **line.parameters}
    estimator = SparseVAETransformer(
        likelihood="bernoulli", max_iter=epochs, random_state=seed, device="cpu", **chosen
    )
    with (
        binarised(seed),
        patch.object(defaults, "WEIGHT_DECAY", line.weight_decay),
        patch.object(transformer, "USAGE_BALANCE", line.usage_balance),
    ):
        return estimator.fit(data.train)


def drawn_train_rows(data: DataSet, generator: torch.Generator) -> Tensor:
    """Training rows, binarised once more."""
    return torch.bernoulli(torch.from_numpy(unit_float(data.train)), generator=generator)


def drawn_test_rows(data: DataSet) -> NDArray[np.float32]:
    """Test rows, binarised once."""
    generator = torch.Generator().manual_seed(0)
    return torch.bernoulli(torch.from_numpy(unit_float(data.test)), generator=generator).numpy()


# -- bounds --------------------------------------------------------------------------------------


@torch.no_grad()
def parts(model: SparseVAE, x: Tensor, generator: torch.Generator) -> Row:
    """Mean rate and distortion of rows, nats, from one draw each."""
    q = model.encode(x)
    terms = elbo_terms(model, x, q, model.decode(q.rsample(generator=generator)))
    names = ("rate_slab", "rate_spike", "distortion")
    return {name: float(getattr(terms, name).mean()) for name in names}


@torch.no_grad()
def gates_of(model: SparseVAE, x: Tensor) -> Tensor:
    """Gates (n, k) of rows: 1 where the code is not zero."""
    return torch.cat([model.encode(part).gate for part in x.split(4096)])


def saved(prior: GatePrior, gates: Tensor, spike_weight: float) -> float:
    """Nats per row by which gates (n, k) are cheaper by a prior than by one p for all."""
    return float((rate_spike(gates, spike_weight) + prior.log_prob(gates)).mean())


@torch.no_grad()
def stochastic_gate_bound(
    model: SparseVAE, x: Tensor, draws: int, spread: float, prior: GatePrior, seed: int = 0
) -> float:
    r"""Importance-weighted bound (nats) if gates are drawn instead of computed.

    q(m_j = 1 | x) is the probability that the score of a latent exceeds the threshold when noise of
    ``spread`` times the latent's own is added; its entropy comes off the cost of the gate.
    """
    generator = torch.Generator().manual_seed(seed)
    slab = Normal(0.0, 1.0)
    total = 0.0
    for rows in x.split(_ROWS):
        loc, scale = model.heads(rows)
        distance = model.gate.scores(loc) - model.gate.threshold
        on = torch.special.ndtr(distance / (spread * scale * model.gate.gain))
        q_gate, q = Bernoulli(on.clamp(1e-6, 1 - 1e-6)), Normal(loc, scale)
        shape = (draws, *loc.shape)
        gate = torch.bernoulli(q_gate.probs.expand(shape), generator=generator)
        z = loc + scale * torch.randn(shape, generator=generator)
        log_ratio = gate * (slab.log_prob(z) - q.log_prob(z)) - q_gate.log_prob(gate)
        likelihood = model.decode((gate * z).flatten(0, 1))
        log_lik = likelihood.log_prob(rows.repeat(draws, 1)).view(draws, -1)
        log_weight = log_lik + log_ratio.sum(-1) + prior.log_prob(gate)
        total += float((log_weight.logsumexp(0) - math.log(draws)).sum())
    return total / len(x)


def measure(line: Density, data: DataSet, seed: int, epochs: int, n_test: int) -> Row:
    """Fit and bound."""
    begin = time.perf_counter()
    model = fit(line, data, seed, epochs).model_
    seconds = time.perf_counter() - begin
    x = torch.from_numpy(drawn_test_rows(data)[:n_test])
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, DRAWS, model.spec.n_latents, generator=generator)
    row = {
        "bound": -float(iwae_bound(model, x, noise).double().mean()),
        **parts(model, x, generator),
        "fit_seconds": seconds,
    }
    if not model.spec.is_gated:
        return row
    few = x[: n_test // 10]
    train_gates, gates = gates_of(model, drawn_train_rows(data, generator)), gates_of(model, x)
    alone, together = own_p(train_gates), GateMixture.fit(train_gates)
    return {
        **row,
        "own_p": saved(alone, gates, model.spec.spike_weight),
        "mixture": saved(together, gates, model.spec.spike_weight),
        **{
            f"bound_drawn_{spread:g}": -stochastic_gate_bound(model, few, DRAWS, spread, alone)
            for spread in GATE_NOISE
        },
        "bound_mixture": -stochastic_gate_bound(model, few, DRAWS, 1.0, together),
    }


# -- tables --------------------------------------------------------------------------------------

COLUMNS = {
    "-log p(x) ≤": "bound",
    "rate, slab": "rate_slab",
    "rate, spike": "rate_spike",
    "distortion": "distortion",
    "own p saves": "own_p",
    "mixture saves": "mixture",
    "fit, s": "fit_seconds",
}


def table(rows: list[Row]) -> list[dict[str, str]]:
    """List published figures, then ours, mean ± SD over seeds."""
    result = [
        {"model": label, **dict.fromkeys(COLUMNS, "–"), "-log p(x) ≤": f"{value:.2f}"}
        for label, value in PUBLISHED.items()
    ]
    for label in LINES:
        of_line = [row for row in rows if row["model"] == label]
        if of_line:
            cells = {
                title: mean_sd([row.get(name) for row in of_line], 0 if "fit" in title else 2)
                for title, name in COLUMNS.items()
            }
            result.append({"model": label, **cells})
    return result


def gate_table(rows: list[Row]) -> list[dict[str, str]]:
    """Show what drawing the gates would save."""
    result = []
    for label in LINES:
        of_line = [row for row in rows if row["model"] == label and "own_p" in row]
        if of_line:
            drawn = {
                f"spread {spread:g}": mean_sd(
                    [row[f"bound_drawn_{spread:g}"] for row in of_line], 2
                )
                for spread in GATE_NOISE
            }
            together = mean_sd([row["bound_mixture"] for row in of_line], 2)
            result.append({"model": label, **drawn, "spread 1, mixture": together})
    return result


def notes(epochs: int, n_test: int) -> list[str]:
    """Say what a reader must know."""
    return [
        f"Nats per image, {n_test:,} test images, {epochs} epochs; mean ± SD over seeds. Bounds "
        f"from {DRAWS:,} draws (published: 5,000), rates and distortion from one. rate, spike is "
        "the cost of the gate at one p for all latents; own p saves: what it would cost less if "
        "each latent had its frequency on training rows for a prior; mixture saves: the same of a "
        f"mixture of {N_COMPONENTS} such priors, fitted to the gates of the training rows. The "
        "published models were trained for 3,280 epochs.",
        f"Second table: the first {n_test // 10:,} test images; gates drawn with the probability "
        "that the score plus noise exceeds the threshold, the noise so many times the latent's "
        "own (1: inclusion_proba, as in score_samples; .001: gates as good as computed); each "
        "latent with its own p; the last column has the mixture instead.",
    ]


# -- pictures ------------------------------------------------------------------------------------


def pictures(folder: Path, data: DataSet, epochs: int) -> None:
    """Draw samples of models, and what single latents do in the default estimator."""
    from benchmarks import density_pictures

    names = (
        "gaussian, 50 latents, p = 0",
        "gaussian, 50 latents, p = .8",
        "spike_slab, 50 latents, p = .8",
    )
    models = {name: fit(LINES[name], data, 0, epochs) for name in names}
    drawn = {name: model.sample(_N_SAMPLES, random_state=0) for name, model in models.items()}
    drawn["the last, gates of a mixture"] = samples_of_mixture(models[names[-1]], data)
    density_pictures.samples(folder / "density-samples.png", drawn)
    coder = SparseVAETransformer(512, 1 - 26 / 512, random_state=0).fit(data.train)
    density_pictures.traversals(folder / "density-traversals.png", coder, data.test)


def samples_of_mixture(estimator: SparseVAETransformer, data: DataSet) -> NDArray[np.float32]:
    """Decode values of the slab behind gates of a mixture fitted to the training rows'."""
    generator = torch.Generator().manual_seed(0)
    gates = gates_of(estimator.model_, drawn_train_rows(data, generator))
    gate = GateMixture.fit(gates).sample(_N_SAMPLES, generator)
    z = gate * torch.randn(gate.shape, generator=generator)
    return estimator.inverse_transform(z.numpy())


def main() -> None:
    options = parser(__doc__, "density")
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--epochs", type=int, default=100)
    options.add_argument("--n-test", type=int, default=10_000)
    options.add_argument("--only", nargs="+", metavar="LINE", choices=LINES, default=list(LINES))
    options.add_argument("--pictures", type=Path, metavar="FOLDER", help="draw there, measure not")
    args = options.parse_args()
    data = load_mnist(args.data_dir)
    if args.pictures:
        pictures(args.pictures, data, args.epochs)
        return
    rows = run(args, data, RowFile(args.rows, args.fresh))
    show(args, rows)


def run(args: argparse.Namespace, data: DataSet, file: RowFile) -> list[Row]:
    """Measure what is missing, seed by seed."""
    keys = [
        {"model": label, "epochs": args.epochs, "n_test": args.n_test, "seed": seed}
        for seed in range(args.seeds)
        for label in args.only
    ]
    return [
        file.get(
            key,
            partial(measure, LINES[key["model"]], data, key["seed"], args.epochs, args.n_test),
        )
        for key in keys
    ]


def show(args: argparse.Namespace, rows: list[Row]) -> None:
    """Print and write the tables."""
    tables = {
        "Dynamically binarised MNIST": table(rows),
        "-log p(x) ≤, by how gates are drawn": gate_table(rows),
    }
    tables = {title: cells for title, cells in tables.items() if cells}
    for title, cells in tables.items():
        print_table(title, cells)
    said = notes(args.epochs, args.n_test)
    print_notes(said, rows)
    text = [f"### {title}\n\n{markdown(cells)}" for title, cells in tables.items()]
    (RESULTS / "density.md").write_text("\n\n".join([*text, *said, *measured_on(rows)]) + "\n")
    export(args.out, table(rows))


if __name__ == "__main__":
    main()
