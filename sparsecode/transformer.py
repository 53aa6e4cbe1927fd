"""`SparseVAETransformer`: the spike-and-slab VAE as a scikit-learn transformer."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from math import sqrt
from numbers import Integral, Real
from os import PathLike
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.utils import Tags, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import Tensor, nn

from sparsecode import persistence
from sparsecode.calibration import n_held_out
from sparsecode.coding import Codes, decode, encode_parts, filled, rows_at_once, to_csr
from sparsecode.defaults import (
    USAGE_BALANCE,
    resolve_batch_size,
    resolve_beta,
    resolve_hidden_sizes,
    resolve_learning_rate,
    resolve_likelihood,
    resolve_max_iter,
    resolve_weight_decay,
)
from sparsecode.device import matmul_precision, resolve_device
from sparsecode.displays import PlotMixin
from sparsecode.distributions import sample_prior
from sparsecode.elbo import iwae_bound
from sparsecode.fitting import FitPlan, Seeds, fit_model, new_model, new_trainer
from sparsecode.loader import Rows, as_rows, chunks
from sparsecode.networks import ImageShape
from sparsecode.progress import TrainingProgress
from sparsecode.refinement import Refinement
from sparsecode.sources import Matrix
from sparsecode.trainer import EpochRecord, Trainer, TrainingOptions
from sparsecode.vae import ModelSpec, SparseVAE

_IMPORTANCE_SAMPLES = 64
_BOUND_SEED = 0
# Values in [0, 1] may be noisy; beyond this they are not pixels scaled to [0, 1].
_FAR_ABOVE_ONE = 2.0
# Fields of ModelSpec that users know by another name.
_PARAMETER = {
    "n_latents": "n_components",
    "spike_weight": "p",
    "encoder_sizes": "hidden_sizes",
    "decoder_sizes": "hidden_sizes",
}


class SparseVAETransformer(
    PlotMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    r"""Sparse codes with exact zeros, by a spike-and-slab variational autoencoder.

    Each latent is zero with prior probability ``p`` (the spike) and standard normal otherwise (the
    slab). The default posterior carries the zeros through training: a deterministic gate closes
    the latents with low scores and the decoder sees exact zeros. The gate's threshold is calibrated
    on held-out rows, so that a fraction ``p`` of the codes of *unseen* rows is zero.

    Parameters
    ----------
    n_components : int, default=256
        Number of latents, k.
    p : float, default=0.8
        Prior probability of the spike, which is the fraction of exact zeros in the codes, in
        [0, 1). A row has ``n_components * (1 - p)`` non-zeros on average; 0 is a dense VAE.
    posterior : {"spike_slab", "gaussian"}, default="spike_slab"
        "spike_slab" trains with exact zeros. "gaussian" is the dense normal posterior under a
        mixture prior; its codes are cut to zero after training.
    likelihood : {"auto", "bernoulli", "continuous_bernoulli", "gaussian"}, default="auto"
        Distribution of the data given a code. "auto" is "bernoulli" for data that are only 0 and
        1, else "gaussian" (with a learned scale). The Bernoulli ones need data in [0, 1].
    prior : {"spike_slab", "normal", "laplace"}, default="spike_slab"
        Prior of ``posterior="gaussian"``; the other two are baselines.
    spike_scale : float, default=sqrt(0.05)
        Standard deviation of the spike for ``posterior="gaussian"``, in (0, 1).
    kl : {"exact", "monte_carlo"}, default="exact"
        How ``posterior="gaussian"`` evaluates the KL: by quadrature, or from ``kl_samples`` draws.
    kl_samples : int, default=10
        Draws of the Monte Carlo KL.
    beta : "auto" or float, default="auto"
        Weight of the rate in the loss. 1 maximises the ELBO: take it for densities and samples.
        "auto" is for codes: 10 n_features / n_samples within [.1, 3] for the gated posterior with
        p > 0, and 1 otherwise.
    image_shape : tuple of int, default=None
        (H, W) or (H, W, C): rows are images of this shape, flattened in NumPy's order, and the
        networks are convolutional.
    encoder, decoder : torch.nn.Module, default=None
        Own networks, given together: (n, d) -> (n, 2k) (means, then log standard deviations) and
        (n, k) -> (n, d). They are copied, not changed.
    hidden_sizes : "auto" or sequence of int, default="auto"
        Widths of the hidden layers of the encoder, and of the decoder in reverse; () is linear.
        With "spike_slab" both keep a linear map beside their hidden layers; "auto" is () below
        12,000 rows, and from there on 512 units in the decoder and ``640 - n_components``, at
        least 128, in the encoder. For "gaussian" it is (512,).
    max_iter : "auto" or int, default="auto"
        Epochs. "auto" makes about 3,000 steps, in 1 to 50 epochs.
    batch_size : "auto" or int, default="auto"
        Rows in a step.
    learning_rate : "auto" or float, default="auto"
        Peak of the step size of AdamW, reached after a warm-up and followed by a cosine decay.
    max_time : float, default=None
        Seconds after which training ends; the learning rate decays in time for it.
    early_stopping : bool, default=False
        Hold out rows, stop when their loss no longer falls, and keep the best epoch.
    validation_fraction : float, default=0.1
        Fraction of rows held out, for the threshold and for early stopping; raised to 500 rows or
        a quarter of them, whichever is less. Below 400 rows none are spared: the threshold is
        cross-fitted on all rows (five further fits).
    n_iter_no_change : int, default=10
        Patience of early stopping, in epochs.
    tol : float, default=1e-4
        Smallest fall of the validation loss that counts, in nats per sample.
    sparse_output : bool, default=True
        ``transform`` returns a ``scipy.sparse.csr_array``; False returns an ndarray, as
        ``set_output`` needs.
    warm_start : bool, default=False
        ``fit`` goes on from the weights of the last ``fit``.
    random_state : int, RandomState or None, default=None
        Seed of the weights, the batches and the noise. The global seed of torch is not touched.
    verbose : int, default=0
        1 shows the progress of training on stderr.
    device : str, default="auto"
        "auto" takes a GPU when there is one; or "cpu", "cuda", "cuda:1".

    Attributes
    ----------
    model_ : SparseVAE
        The trained network.
    threshold_ : float
        Scores above it are not zero.
    density_ : float
        Fraction of non-zeros on the rows that calibrated the threshold.
    history_ : list of EpochRecord
        One record per epoch: loss, rate_slab, rate_spike, distortion (nats per sample), density,
        dead, seconds.
    n_iter_ : int
        Epochs trained.
    n_samples_seen_ : int
        Rows of the last ``fit``, and of every ``partial_fit`` since.
    likelihood_ : str
        The likelihood in use.
    components_ : ndarray of shape (n_components, n_features_in_)
        What each latent adds to the decoder's output, in the units of X (logits for the Bernoulli
        likelihoods). Only with a linear decoder.
    mean_ : ndarray of shape (n_features_in_,)
        Mean of the training rows.
    image_options_ : dict or None
        How the command line read the images that it trained on; None for arrays.
    n_features_in_ : int
        d.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, when X had string names.

    See Also
    --------
    sklearn.decomposition.MiniBatchDictionaryLearning : Sparse codes by alternating optimisation.

    Notes
    -----
    uint8 rows are images: [0, 255] is scaled to [0, 1], and ``inverse_transform``, ``sample`` and
    ``score_samples`` speak of the scaled values.

    References
    ----------
    .. [1] "Sparse Bayesian priors + VAE's" (2023): the mixture prior.
    .. [2] F. Tonolini, B. S. Jensen and R. Murray-Smith (2019), "Variational sparse coding", UAI.
    .. [3] D. P. Kingma and M. Welling (2014), "Auto-encoding variational Bayes", ICLR.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sparsecode import SparseVAETransformer
    >>> X, _ = load_digits(return_X_y=True)
    >>> coder = SparseVAETransformer(n_components=64, p=0.8, max_iter=20, random_state=0)
    >>> codes = coder.fit_transform(X)
    >>> codes.shape, codes.dtype
    ((1797, 64), dtype('float32'))
    >>> zeros = 1 - codes.nnz / (1797 * 64)
    >>> abs(zeros - 0.8) < 0.02
    True
    """

    _parameter_constraints: dict = {  # noqa: RUF012  (scikit-learn's declaration)
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "p": [Interval(Real, 0, 1, closed="left")],
        "posterior": [StrOptions({"spike_slab", "gaussian"})],
        "likelihood": [StrOptions({"auto", "bernoulli", "continuous_bernoulli", "gaussian"})],
        "prior": [StrOptions({"spike_slab", "normal", "laplace"})],
        "spike_scale": [Interval(Real, 0, 1, closed="neither")],
        "kl": [StrOptions({"exact", "monte_carlo"})],
        "kl_samples": [Interval(Integral, 1, None, closed="left")],
        "beta": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "image_shape": [None, tuple, list],
        "encoder": [None, nn.Module],
        "decoder": [None, nn.Module],
        "hidden_sizes": [StrOptions({"auto"}), "array-like"],
        "max_iter": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "max_time": [None, Interval(Real, 0, None, closed="neither")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "sparse_output": ["boolean"],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "device": [str],
    }

    model_: SparseVAE
    history_: list[EpochRecord]
    n_samples_seen_: int
    image_options_: dict[str, Any] | None
    _trainer: Trainer | None
    _epoch_listener: Callable[[EpochRecord], None] | None

    def __init__(
        self,
        n_components: int = 256,
        p: float = 0.8,
        *,
        posterior: Literal["spike_slab", "gaussian"] = "spike_slab",
        likelihood: Literal["auto", "bernoulli", "continuous_bernoulli", "gaussian"] = "auto",
        prior: Literal["spike_slab", "normal", "laplace"] = "spike_slab",
        spike_scale: float = sqrt(0.05),
        kl: Literal["exact", "monte_carlo"] = "exact",
        kl_samples: int = 10,
        beta: Literal["auto"] | float = "auto",
        image_shape: Sequence[int] | None = None,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        hidden_sizes: Literal["auto"] | Sequence[int] = "auto",
        max_iter: Literal["auto"] | int = "auto",
        batch_size: Literal["auto"] | int = "auto",
        learning_rate: Literal["auto"] | float = "auto",
        max_time: float | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        sparse_output: bool = True,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
        device: str = "auto",
    ) -> None:
        self.n_components = n_components
        self.p = p
        self.posterior = posterior
        self.likelihood = likelihood
        self.prior = prior
        self.spike_scale = spike_scale
        self.kl = kl
        self.kl_samples = kl_samples
        self.beta = beta
        self.image_shape = image_shape
        self.encoder = encoder
        self.decoder = decoder
        self.hidden_sizes = hidden_sizes
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.max_time = max_time
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.sparse_output = sparse_output
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose
        self.device = device

    # -- training ------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike | Matrix, y: Any = None) -> Self:
        """Train on rows and calibrate the threshold on held-out ones.

        Parameters
        ----------
        X : array-like, CSR matrix or DataFrame of shape (n_samples, n_features)
            At least two rows, float or uint8. The data stay as they are and are not copied to
            float.
        y : None
            Ignored.

        Returns
        -------
        self : SparseVAETransformer

        Raises
        ------
        ValueError
            A parameter or value of X out of range.
        TrainingDivergedError
            The loss became NaN or infinite.

        Warns
        -----
        FitInterruptedWarning
            Ctrl-C ended training early; the model so far is kept.
        UnscaledFeatureWarning
            One feature holds nearly all variance of X.
        """
        start = self.model_ if self.warm_start and hasattr(self, "model_") else None
        rows = self._fit_rows(X, reset=start is None, ensure_min_samples=2)
        plan = self._plan(rows, start, rows.n_rows)
        self.image_options_ = None
        listener = getattr(self, "_epoch_listener", None)
        with TrainingProgress(self.verbose, listener=listener) as progress:
            result = fit_model(plan, rows, start, progress)
        self.model_, self.history_, self.density_ = result.model, result.history, result.density
        self.n_iter_, self.n_samples_seen_ = len(self.history_), rows.n_rows
        self._trainer = None
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: ArrayLike | Matrix, y: Any = None) -> Self:
        """Pass once over a chunk of a stream, at a constant learning rate.

        The first chunk sets the input scaling. The threshold follows the scores of each batch
        before the step that learns from it, so they are scores of unseen rows.

        Parameters
        ----------
        X : array-like, CSR matrix or DataFrame of shape (n_samples, n_features)
        y : None
            Ignored.

        Returns
        -------
        self : SparseVAETransformer
        """
        is_first = not hasattr(self, "model_")
        rows = self._fit_rows(X, reset=is_first, ensure_min_samples=2 if is_first else 1)
        if is_first:
            self.n_samples_seen_ = 0
        n_seen = self.n_samples_seen_ + rows.n_rows
        plan = self._plan(rows, None if is_first else self.model_, n_seen)
        index = torch.arange(rows.n_rows, device=plan.device)
        if is_first:
            self.model_ = new_model(plan, rows, index)
            self.history_, self.n_iter_, self.image_options_ = [], 0, None
            self.density_ = 1.0 - self.p
        elif self.model_.scale.device != index.device:  # a copy is on the CPU, or `device` changed
            self.model_, self._trainer = self.model_.to(index.device), None
        trainer = getattr(self, "_trainer", None) or new_trainer(plan, self.model_)
        options = replace(plan.options, n_epochs=1, constant=True, n_iter_no_change=None)
        self.history_ = self.history_ + trainer.fit(rows, index, None, options)
        self._trainer, self.n_samples_seen_ = trainer, n_seen
        if self.history_:  # empty after Ctrl-C in the first chunk
            self.density_ = self.history_[-1].density
        self.n_iter_ = len(self.history_)
        return self

    def _fit_rows(self, X: ArrayLike | Matrix, reset: bool, ensure_min_samples: int) -> Rows:
        self._check_combinations()
        X = self._validate(X, reset=reset, ensure_min_samples=ensure_min_samples)
        rows = as_rows(X, self._device())
        if reset:
            self.likelihood_ = resolve_likelihood(self.likelihood, rows)
            self._unit_interval = X.dtype == np.uint8
        else:
            self._check_scaling(X)
            resolve_likelihood(self.likelihood_, rows)  # refuses values out of its range
        return rows

    def _device(self) -> torch.device:
        return resolve_device(self.device)

    def _check_combinations(self) -> None:
        if self.prior != "spike_slab" and self.posterior == "spike_slab":
            raise ValueError(
                f"prior={self.prior!r} needs posterior='gaussian': the gated posterior has a spike "
                "and a slab of its own"
            )
        if (self.encoder is None) != (self.decoder is None):
            missing = "decoder" if self.decoder is None else "encoder"
            raise ValueError(f"encoder and decoder go together, but {missing} is None; give both")
        if not isinstance(self.hidden_sizes, str) and not all(
            isinstance(size, Integral) and size >= 1 for size in self.hidden_sizes
        ):
            raise ValueError(
                f"hidden_sizes={self.hidden_sizes!r} must be 'auto' or integers of at least 1, the "
                "widths of the hidden layers; () is linear"
            )

    def _validate(self, X: Any, *, reset: bool, ensure_min_samples: int = 1) -> Matrix:
        X = validate_data(
            self,
            X,
            reset=reset,
            accept_sparse="csr",
            dtype=[np.float32, np.float64, np.uint8],
            order="C",
            ensure_min_samples=ensure_min_samples,
        )
        shape = self.image_shape
        if (
            reset
            and shape is not None
            and (
                len(shape) not in (2, 3)
                or not all(isinstance(size, Integral) for size in shape)
                or min(shape[:2]) < 4
                or np.prod(shape) != X.shape[1]
            )
        ):
            raise ValueError(
                f"image_shape={tuple(shape)} must be (H, W) or (H, W, C) with H and W at least 4 "
                f"and as many values as X has features ({X.shape[1]})"
            )
        return sparse.csr_array(X) if sparse.issparse(X) else X

    def _plan(self, rows: Rows, start: SparseVAE | None, n_rows: int) -> FitPlan:
        """Resolve the parameters; ``n_rows`` of a stream are those seen so far, these included."""
        image_shape, n_latents = _image_shape(self.image_shape), int(self.n_components)
        if start is not None and isinstance(self.hidden_sizes, str):
            sizes = start.spec.encoder_sizes, start.spec.decoder_sizes
        else:
            sizes = resolve_hidden_sizes(
                self.hidden_sizes, self.posterior, image_shape, rows.n_rows, n_latents
            )
        spec = ModelSpec(
            n_features=rows.n_features,
            n_latents=n_latents,
            spike_weight=float(self.p),
            posterior=self.posterior,
            prior=self.prior,
            likelihood=self.likelihood_,
            spike_scale=float(self.spike_scale),
            encoder_sizes=sizes[0],
            decoder_sizes=sizes[1],
            image_shape=image_shape,
            usage_balance=USAGE_BALANCE,
        )
        if start is not None:
            _check_same_model(start.spec, spec)
        batch_size, n_epochs = self._batches(rows.n_rows, _training_density(spec))
        is_flat = self.encoder is None and image_shape is None
        options = TrainingOptions(
            batch_size=batch_size,
            n_epochs=n_epochs,
            learning_rate=resolve_learning_rate(
                self.learning_rate, has_linear=is_flat and (spec.is_gated or not sizes[0])
            ),
            weight_decay=resolve_weight_decay(self.posterior, n_rows),
            beta=resolve_beta(self.beta, self.posterior, self.p, n_rows, rows.n_features),
            kl_samples=self.kl_samples if self.kl == "monte_carlo" else 0,
            max_time=self.max_time,
            n_iter_no_change=self.n_iter_no_change if self.early_stopping else None,
            tol=self.tol,
        )
        return FitPlan(
            spec,
            options,
            validation_fraction=self.validation_fraction,
            early_stopping=self.early_stopping,
            seeds=_draw_seeds(self.random_state),
            device=self._device(),
            encoder=self.encoder,
            decoder=self.decoder,
        )

    def _planned_epochs(self, n_rows: int) -> int:
        """Epochs that a fit of so many rows takes, were nothing trained yet."""
        return self._batches(n_rows, _training_density(self.model_.spec))[1]

    def _batches(self, n_rows: int, density: float) -> tuple[int, int]:
        """Rows in a step, and epochs."""
        batch_size = resolve_batch_size(self.batch_size, n_rows, density)
        n_trained = n_rows - n_held_out(n_rows, self.validation_fraction)
        return batch_size, resolve_max_iter(self.max_iter, n_trained, batch_size)

    # -- codes ---------------------------------------------------------------------------------

    def transform(self, X: ArrayLike | Matrix) -> Matrix:
        """Encode rows; each row's code depends on that row alone.

        Parameters
        ----------
        X : array-like, CSR matrix or DataFrame of shape (n_samples, n_features)

        Returns
        -------
        codes : csr_array or ndarray of shape (n_samples, n_components), float32
            With exact zeros; an ndarray if ``sparse_output=False``.
        """
        rows = self._rows(X)
        return self._output(encode_parts(self.model_, self._chunks(rows)), rows.n_rows)

    def _output(self, parts: Iterable[Codes], n_rows: int) -> Matrix:
        if self.sparse_output:
            return to_csr(parts)
        return filled((codes.to_dense().cpu().numpy() for codes in parts), n_rows)

    def _chunks(self, rows: Rows) -> Iterator[Tensor]:
        return chunks(rows, rows_at_once(self.model_))

    def inverse_transform(self, codes: ArrayLike | Matrix) -> NDArray[np.float32]:
        """Decode codes to the mean of p(x | code).

        Parameters
        ----------
        codes : CSR matrix or array-like of shape (n_samples, n_components)

        Returns
        -------
        X : ndarray of shape (n_samples, n_features), float32
            In the units of the training data; in [0, 1] if these were uint8.

        Raises
        ------
        ValueError
            Another number of columns than ``n_components``.
        """
        return decode(self._fitted(), self._check_codes(codes))

    def refine(
        self,
        X: ArrayLike | Matrix,
        codes: ArrayLike | Matrix | None = None,
        *,
        n_steps: int = 1,
        n_swaps: int = 0,
    ) -> Matrix:
        """Codes of smaller reconstruction error at the same number of non-zeros.

        ``transform`` is one pass of the encoder. This goes on from there on the decoder's own
        objective, -log p(x | z) + .1 z²/2: first over the values, then, if asked for, over the
        support. Each row depends on that row alone, and no row gets worse.

        Parameters
        ----------
        X : array-like, CSR matrix or DataFrame of shape (n_samples, n_features)
        codes : CSR matrix or array-like of shape (n_samples, n_components), default=None
            Codes of these rows to start from; None is ``transform(X)``.
        n_steps : int, default=1
            Gauss-Newton steps for the values, each a regularised least-squares problem on the
            support. A linear decoder (``hidden_sizes=()``) under the Gaussian likelihood is at its
            minimum after one.
        n_swaps : int, default=0
            Non-zeros of each row to exchange for others in the first step, in rounds of
            ``n_swaps``, half of that, and so on down to 1. 0 keeps the support.

        Returns
        -------
        codes : csr_array or ndarray of shape (n_samples, n_components), float32
            As :meth:`transform` returns them.

        Raises
        ------
        ValueError
            Negative counts, or codes of another shape.

        References
        ----------
        .. [1] D. Needell and J. A. Tropp (2009), "CoSaMP: Iterative signal recovery from incomplete
           and inaccurate samples": the exchange.
        """
        if n_steps < 1 or n_swaps < 0:
            raise ValueError(
                f"n_steps={n_steps} must be at least 1 and n_swaps={n_swaps} at least 0"
            )
        rows = self._rows(X)
        # In float64 the choice between two supports does not depend on the rows beside a row.
        model = copy.deepcopy(self._fitted()).double() if n_swaps else self._fitted()
        start = self._check_codes(self.transform(X) if codes is None else codes)
        if start.shape[0] != rows.n_rows:
            raise ValueError(f"codes have {start.shape[0]} rows, but X has {rows.n_rows}")
        starts = as_rows(start, model.scale.device)
        parts = []
        with torch.no_grad(), matmul_precision(reduced=False):
            refine = Refinement(model, n_steps, n_swaps)
            for x, z in zip(self._chunks(rows), self._chunks(starts), strict=True):
                dtype = model.scale.dtype
                refined = refine(x.to(dtype), z.to(dtype)).float()
                parts.append(Codes.of_dense(refined).moved(Tensor.cpu))
        return self._output(parts, rows.n_rows)

    def inclusion_proba(self, X: ArrayLike | Matrix) -> NDArray[np.float32]:
        """P(z != 0 | x) for every latent.

        For the gated posterior, the probability that a draw of the posterior clears the gate:
        above 1/2 where the code is not zero. For ``posterior="gaussian"`` with its spike-and-slab
        prior, the expected responsibility of the slab.

        Parameters
        ----------
        X : array-like, CSR matrix or DataFrame of shape (n_samples, n_features)

        Returns
        -------
        proba : ndarray of shape (n_samples, n_components), float32
        """
        rows = self._rows(X)
        with torch.no_grad(), matmul_precision(reduced=False):
            probas = map(self.model_.inclusion_proba, self._chunks(rows))
            return filled((proba.cpu().numpy() for proba in probas), rows.n_rows)

    # -- density -------------------------------------------------------------------------------

    def score_samples(self, X: ArrayLike | Matrix) -> NDArray[np.float64]:
        """Importance-weighted lower bound on log p(x), from 64 draws.

        The cost of the gate is included, so that bounds of different ``p`` can be compared. Gates
        are drawn with :meth:`inclusion_proba`, values from the posterior; the draws are the same
        for every row and every call. It is a bound whatever ``beta`` was; with 1 it is what
        training raised.

        Parameters
        ----------
        X : array-like, CSR matrix or DataFrame of shape (n_samples, n_features)

        Returns
        -------
        bound : ndarray of shape (n_samples,)
            Nats per sample.

        Raises
        ------
        ValueError
            Data outside the likelihood's range.
        """
        rows = self._rows(X)
        resolve_likelihood(self.likelihood_, rows)  # refuses values out of its range
        # In float64 a row's gates, and so its bound, do not depend on the rows beside it.
        model = copy.deepcopy(self.model_).double()
        generator = torch.Generator("cpu").manual_seed(_BOUND_SEED)
        shape = (2, _IMPORTANCE_SAMPLES, model.spec.n_latents)
        noise = torch.randn(shape, generator=generator, device="cpu").to(model.scale)
        parts = [iwae_bound(model, x.double(), noise).cpu().numpy() for x in self._chunks(rows)]
        return np.concatenate(parts)

    def score(self, X: ArrayLike | Matrix, y: Any = None) -> float:
        """Mean of ``score_samples``: nats per sample, higher is better.

        Parameters
        ----------
        X : array-like, CSR matrix or DataFrame of shape (n_samples, n_features)
        y : None
            Ignored.
        """
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: Any = None) -> NDArray[np.float32]:
        """Decode draws from the prior.

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState or None, default=None
            Seed of the draws.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features), float32
            Means of p(x | z), in the units of ``inverse_transform``.
        """
        model = self._fitted()
        if n_samples < 1:
            raise ValueError(f"n_samples={n_samples} must be at least 1")
        seed = check_random_state(random_state).randint(np.iinfo(np.int32).max)
        generator = torch.Generator(model.scale.device).manual_seed(int(seed))
        shape = (int(n_samples), model.spec.n_latents)
        draws = sample_prior(model.prior().expand(shape), generator)
        return self.inverse_transform(draws.cpu().numpy())

    # -- attributes ----------------------------------------------------------------------------

    @property
    def threshold_(self) -> float:
        """Scores above it are not zero."""
        return float(self._fitted().gate.threshold)

    @property
    def mean_(self) -> NDArray[np.float32]:
        """Mean of the training rows, of shape (n_features_in_,)."""
        return self._fitted().input_mean.cpu().numpy()

    @property
    def components_(self) -> NDArray[np.float32]:
        """Dictionary of a linear decoder, of shape (n_components, n_features_in_)."""
        model = self._fitted()
        layer = model.linear_decoder
        if layer is None:
            raise AttributeError("components_ exists only for a linear decoder (hidden_sizes=())")
        weight = layer.weight.detach().T
        if model.spec.likelihood == "gaussian":
            weight = weight * model.input_scale
        return weight.cpu().numpy()

    @property
    def _n_features_out(self) -> int:
        return self._fitted().spec.n_latents

    # -- files ---------------------------------------------------------------------------------

    def save(self, path: str | PathLike[str]) -> None:
        """Write the model to one ``.safetensors`` file, atomically.

        Parameters
        ----------
        path : path-like

        Raises
        ------
        OutputError
            The file could not be written; a file that was there before is untouched.
        """
        self._fitted()
        persistence.save_transformer(self, path)

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        *,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        device: str = "auto",
    ) -> Self:
        """Read a model written by :meth:`save`.

        Parameters
        ----------
        path : path-like
        encoder, decoder : torch.nn.Module, default=None
            The user's own networks, if the model was trained with such; only their weights are in
            the file.
        device : str, default="auto"

        Returns
        -------
        SparseVAETransformer
            Fitted; its codes are bit-equal to those of the saved one on the same device.

        Raises
        ------
        ModelFormatError
            Not a sparsecode model, damaged, or of an unknown version. Nothing is ever unpickled.
        """
        return persistence.load_transformer(
            cls, path, encoder=encoder, decoder=decoder, device=device
        )

    # -- scikit-learn --------------------------------------------------------------------------

    def _fitted(self) -> SparseVAE:
        check_is_fitted(self, "model_")
        return self.model_

    def _rows(self, X: ArrayLike | Matrix) -> Rows:
        self._fitted()
        X = self._validate(X, reset=False)
        self._check_scaling(X)
        return as_rows(X, self.model_.scale.device, in_order=True)

    def _check_codes(self, codes: ArrayLike | Matrix) -> Matrix:
        codes = check_array(codes, accept_sparse="csr", dtype=np.float32)
        n_latents = self._fitted().spec.n_latents
        if codes.shape[1] != n_latents:
            raise ValueError(
                f"codes have {codes.shape[1]} columns, but this {type(self).__name__} has "
                f"{n_latents} components"
            )
        return codes

    def _check_scaling(self, X: Matrix) -> None:
        # uint8 is scaled to [0, 1]; the same pixels as floats up to 255 would silently be read as
        # another thing than in training.
        if self._unit_interval and X.dtype != np.uint8 and X.shape[0] and X.max() > _FAR_ABOVE_ONE:
            raise ValueError(
                f"X is {X.dtype} with values up to {X.max():g}, but fit saw uint8, which is scaled "
                "to [0, 1]; pass uint8, or divide X by 255"
            )
        if X.dtype == np.uint8 and not self._unit_interval and self.mean_.max() > _FAR_ABOVE_ONE:
            raise ValueError(
                f"X is uint8, which is scaled to [0, 1], but fit saw floats with a mean of up to "
                f"{self.mean_.max():g}; pass floats in the units of fit"
            )

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        model = state.get("model_")
        if model is not None and model.scale.device.type != "cpu":
            # A pickle must open on a machine without this GPU.
            state = {**state, "model_": copy.deepcopy(model).cpu(), "_trainer": None}
        return state

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _training_density(spec: ModelSpec) -> float:
    return 1 - spec.spike_weight if spec.is_gated else 1.0


def _check_same_model(old: ModelSpec, new: ModelSpec) -> None:
    for field in fields(ModelSpec):
        before, now = getattr(old, field.name), getattr(new, field.name)
        if before != now and field.name != "usage_balance":
            raise ValueError(
                f"{_PARAMETER.get(field.name, field.name)} was {before!r} when this model was "
                f"first trained and is {now!r} now; training cannot go on from it. Set it back, or "
                "fit anew (warm_start=False, or clone the estimator)."
            )


def _image_shape(shape: Sequence[int] | None) -> ImageShape | None:
    if shape is None:
        return None
    height, width, *channels = (int(n) for n in shape)
    return (height, width, channels[0]) if channels else (height, width)


def _draw_seeds(random_state: Any) -> Seeds:
    values = check_random_state(random_state).randint(np.iinfo(np.int32).max, size=3)
    return Seeds(*(int(value) for value in values))
