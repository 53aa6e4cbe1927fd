"""What a report asks of a model."""

import copy
from dataclasses import asdict
from os import PathLike
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor
from torch.distributions import Bernoulli, Distribution

from sparsecode.codes import SparseCodes
from sparsecode.companions import PictureShape, picture_shape_of
from sparsecode.distributions import IsotropicNormal
from sparsecode.elbo import elbo_terms
from sparsecode.errors import RefusedError
from sparsecode.gate import exact_threshold
from sparsecode.transformer import SparseVAETransformer

_SEED = 0


class ModelView:
    """A trained model as a report sees it.

    Parameters
    ----------
    transformer : SparseVAETransformer
        Fitted.

    Attributes
    ----------
    p : float
        Fraction of zeros it was trained for.
    """

    def __init__(self, transformer: SparseVAETransformer) -> None:
        self.transformer = copy.copy(transformer).set_params(sparse_output=True)
        self.p = float(transformer.model_.spec.spike_weight)

    @property
    def picture_shape(self) -> PictureShape | None:
        """(h, w, c) of a row, if the model knows that it is a picture."""
        return picture_shape_of(self.transformer)

    def decode(self, codes: csr_array) -> NDArray[Any]:
        """Codes (n, k) to rows (n, d)."""
        return self.transformer.inverse_transform(codes)

    def codes_at(self, X: NDArray[Any], p: float) -> csr_array:
        """Codes (n, k) of rows, with the threshold at which a share `p` of them is zero."""
        other = copy.deepcopy(self.transformer)
        gate = other.model_.gate
        if p == self.p or other.model_.spec.spike_weight == 0:
            return other.transform(X)
        gate.threshold.fill_(-torch.inf)
        with torch.no_grad():
            loc = torch.as_tensor(other.transform(X).toarray(), device=gate.threshold.device)
            scores = gate.scores(loc).cpu().numpy().astype(np.float64)
        gate.threshold.fill_(exact_threshold(scores, p))
        return other.transform(X)

    def sample(self, n: int) -> NDArray[Any]:
        """Draw from the prior and decode, (n, d); the same every time."""
        return self.transformer.sample(n, random_state=_SEED)

    @torch.no_grad()
    def costs(self, X: NDArray[Any]) -> dict[str, float]:
        """Mean rate and distortion of rows, from one draw of the posterior, nats per row."""
        model = self.transformer.model_
        rows = self.transformer._rows(X)
        x = rows.batch(torch.arange(rows.n_rows, device=model.scale.device))
        q = model.encode(x)
        generator = torch.Generator(x.device).manual_seed(_SEED)
        terms = elbo_terms(model, x, q, model.decode(q.rsample(generator=generator)))
        return {
            "rate_slab": float(terms.rate_slab.mean()),
            "rate_spike": float(terms.rate_spike.mean()),
            "distortion": float(terms.distortion.mean()),
            "elbo": float(terms.elbo.mean()),
        }

    @torch.no_grad()
    def recovery(self, codes: csr_array) -> tuple[NDArray[Any], NDArray[Any]]:
        """Draw rows from codes and ask which latents were on.

        Real data do not tell which latents made them; rows drawn from the decoder's likelihood at
        known codes do. A calibrated ``inclusion_proba`` of .7 is right in 70 % of such cases.

        Returns
        -------
        probability : ndarray of shape (n, k)
            ``inclusion_proba`` of the drawn rows.
        is_on : ndarray of bool of shape (n, k)
            Of the codes.
        """
        model = self.transformer.model_
        z = torch.as_tensor(codes.toarray(), dtype=torch.float32, device=model.scale.device)
        x = _draw(model.decode(z), torch.Generator(z.device).manual_seed(_SEED))
        return model.inclusion_proba(x).cpu().numpy(), codes.toarray() != 0

    def history(self) -> list[dict[str, Any]]:
        """Figures of each epoch, as plain values."""
        return [asdict(record) for record in self.transformer.history_]


def _draw(likelihood: Distribution, generator: torch.Generator) -> Tensor:
    """Draw rows by a generator of our own; torch's distributions use the global one."""
    family = getattr(likelihood, "base_dist", likelihood)
    mean = family.mean
    if isinstance(family, IsotropicNormal):
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return mean + family.scale * noise
    if isinstance(family, Bernoulli):
        return torch.bernoulli(mean, generator=generator)
    return family.icdf(torch.rand(mean.shape, generator=generator, device=mean.device))


def open_view(path: str | PathLike[str], codes: SparseCodes) -> ModelView:
    """Load the model of some codes.

    Raises
    ------
    ModelFormatError
        The file is no model.
    RefusedError
        It has another number of latents than the codes.
    """
    transformer = SparseVAETransformer.load(path)
    n_latents = transformer.model_.spec.n_latents
    if n_latents != codes.n_latents:
        raise RefusedError(
            f"{path} has {n_latents} latents, but the codes have {codes.n_latents}; give the model "
            "that made them"
        )
    return ModelView(transformer)
