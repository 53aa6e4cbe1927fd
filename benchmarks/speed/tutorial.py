"""The rival of `fit`: the loop that tutorials print, around the package's own network.

A ``DataLoader`` of batches of 128, ``torch.distributions`` for the loss, Adam, ``loss.item()``
after each step, ten epochs. It starts from the same weights, and what it minimises is the package's
objective: -log p(x | z) with a learned scale, and the KL of the open latents to the slab. Left to
the package are its schedules, balance and revival of latents.
"""

from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms.functional import to_tensor

from sparsecode.calibration import calibrate
from sparsecode.fitting import FitPlan, Seeds, new_model
from sparsecode.loader import as_rows
from sparsecode.trainer import Trainer, TrainingOptions
from sparsecode.transformer import USAGE_BALANCE
from sparsecode.vae import ModelSpec, SparseVAE

BATCH = 128
EPOCHS = 10
# Chosen among 5e-4, 1e-3, 2e-3 and 4e-3 by the objective on test rows: in the rival's favour.
LEARNING_RATE = 1e-3
_CALIBRATION_ROWS = 6_000
CPU = torch.device("cpu")

Source: TypeAlias = Literal["pictures", "tensors"]
"""Rows as torchvision's data sets give them, a picture at a time, or as floats in one tensor."""


class Pictures(Dataset):
    """What ``torchvision.datasets.MNIST(transform=ToTensor())`` does, from an array."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return to_tensor(Image.fromarray(self.images[i], mode="L")), 0


def loader(rows: NDArray[np.uint8], source: Source, batch: int = BATCH) -> DataLoader:
    """Shuffled batches of uint8 rows (n, d)."""
    if source == "tensors":
        x = torch.from_numpy(rows).float() / 255
        return DataLoader(TensorDataset(x, torch.zeros(len(x))), batch, shuffle=True)
    side = int(np.sqrt(rows.shape[1]))
    return DataLoader(Pictures(rows.reshape(len(rows), side, side)), batch, shuffle=True)


def training_options(batch: int, beta: float = 1.0) -> TrainingOptions:
    """One epoch of the package's trainer, with its own learning rate."""
    return TrainingOptions(batch, 1, learning_rate=6e-3, weight_decay=1.0, beta=beta)


def network(
    rows: NDArray[np.uint8],
    k: int,
    p: float,
    encoder_hidden: tuple[int, ...],
    decoder_hidden: tuple[int, ...],
) -> SparseVAE:
    """Untrained network of the estimator."""
    spec = ModelSpec(
        n_features=rows.shape[1],
        n_latents=k,
        spike_weight=p,
        posterior="spike_slab",
        prior="spike_slab",
        likelihood="gaussian",
        spike_scale=0.05**0.5,
        encoder_sizes=encoder_hidden,
        decoder_sizes=decoder_hidden,
        image_shape=None,
        usage_balance=USAGE_BALANCE,
    )
    plan = FitPlan(spec, training_options(BATCH), 0.1, False, Seeds(0, 0, 0), CPU)
    return new_model(plan, as_rows(rows, CPU), torch.arange(len(rows)))


class Loop:
    """The loop.

    Parameters
    ----------
    model : SparseVAE
        Trained in place.
    learning_rate : float
    """

    def __init__(self, model: SparseVAE, learning_rate: float = LEARNING_RATE) -> None:
        self.model = model
        self.log_sigma = nn.Parameter(torch.zeros((), device=model.scale.device))
        parameters = [*model.parameters(), self.log_sigma]
        self.optimizer = torch.optim.Adam(parameters, lr=learning_rate)

    def loss(self, x: Tensor) -> Tensor:
        """-ELBO of a batch (n, d), per row, up to the constant cost of the gate."""
        x = self.model.standardise(x)
        loc, log_scale = self.model.encoder(x)
        q = Normal(loc, log_scale.exp())
        threshold = torch.quantile(loc.detach(), self.model.spec.spike_weight)
        gate = (loc > threshold).float()
        kl = (gate * kl_divergence(q, Normal(0.0, 1.0))).sum(1)
        likelihood = Normal(self.model.decoder(gate * q.rsample()), self.log_sigma.exp())
        return (kl - likelihood.log_prob(x).sum(1)).mean()

    def epoch(self, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
        """Pass over batches; return the mean of their losses."""
        losses = []
        for x, _ in batches:
            self.optimizer.zero_grad()
            loss = self.loss(x.flatten(1))
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return float(np.mean(losses))

    def finish(self, rows: NDArray[np.uint8]) -> SparseVAE:
        """Hand the scale and a calibrated threshold over to the model."""
        self.model.scale.copy_(self.log_sigma.detach().exp())
        some = as_rows(rows[:_CALIBRATION_ROWS], CPU)
        calibrate(self.model, some, torch.arange(some.n_rows), self.model.spec.spike_weight)
        return self.model.eval()


def held_out_objective(model: SparseVAE, rows: NDArray[np.uint8]) -> float:
    """Distortion + rate_slab of rows (n, d), nats per row, with the same noise for every model."""
    trainer = Trainer(model, torch.Generator().manual_seed(0))
    loss = trainer.validation_loss(as_rows(rows, CPU), torch.arange(len(rows)), training_options(1))
    model.eval()
    return loss


def shortest(fit: Callable[[int], float], goal: float, longest: int) -> int | None:
    """Fewest epochs for which ``fit(epochs)`` gives an objective of at most ``goal``."""
    return next((epochs for epochs in range(1, longest + 1) if fit(epochs) <= goal), None)
