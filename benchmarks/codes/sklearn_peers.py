"""scikit-learn's dictionary learning, SparsePCA, NMF and PCA."""

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.decomposition import (
    NMF,
    PCA,
    MiniBatchDictionaryLearning,
    MiniBatchSparsePCA,
    sparse_encode,
)
from sklearn.exceptions import ConvergenceWarning
from typing_extensions import override

from benchmarks.codes.protocol import Fitted, Images, Scaling, Task, dense, remember_last
from benchmarks.common import Features, unit_float

# Lars takes milliseconds per row; the bisection needs the mean L0 to a per cent or two only.
_BISECTION_ROWS = 300
_BISECTION_STEPS = 12
_ALPHA_RANGE = (1e-2, 1e2)
_CHUNK = 2000
_BATCH = 256
# How often coordinate descent may go over the atoms while a dictionary is learned. scikit-learn's
# 1,000 take 8 times as long at 512 atoms, for less than 1 % less error.
_SWEEPS = 30
# SparsePCA's mini-batches are of features, each as long as there are rows.
_SPARSE_PCA_ROWS = 5_000


class Dictionary:
    """Atoms (k, d) of `MiniBatchDictionaryLearning`, over scaled rows, and their Gram matrix."""

    def __init__(self, atoms: NDArray[np.float32], scaling: Scaling, seconds: float) -> None:
        self.atoms = atoms
        self.gram = atoms @ atoms.T
        self.scaling = scaling
        self.seconds = seconds


@remember_last
def fit_dictionary(task: Task, *, alpha: float, steps: int, sweeps: int = _SWEEPS) -> Dictionary:
    """J. Mairal et al. (2009), "Online dictionary learning for sparse coding".

    ``steps`` mini-batches of 256 rows; the lasso of each by at most ``sweeps`` rounds of coordinate
    descent.
    """
    begin = time.perf_counter()
    fit_rows, _ = task.split()
    scaling = Scaling.of(fit_rows)
    order = np.random.default_rng(task.seed).permutation(len(fit_rows))
    model = MiniBatchDictionaryLearning(
        task.k,
        alpha=alpha,
        fit_algorithm="cd",
        transform_max_iter=sweeps,
        batch_size=_BATCH,
        random_state=task.seed,
    )
    batches = [order[i : i + _BATCH] for i in range(0, len(order) - _BATCH + 1, _BATCH)]
    with quiet():
        for step in range(steps):
            model.partial_fit(scaling(fit_rows[batches[step % len(batches)]]))
    return Dictionary(model.components_.astype(np.float32), scaling, time.perf_counter() - begin)


class DictionaryCoder(Fitted):
    """Codes over a dictionary by OMP with exactly ``l0`` atoms, or by the lasso (lars)."""

    def __init__(self, dictionary: Dictionary, l0: int, alpha: float | None = None) -> None:
        self.dictionary = dictionary
        self.l0 = l0
        self.alpha = alpha
        self.seconds = dictionary.seconds

    @override
    def encode(self, rows: Images) -> sparse.csr_array:
        parts = (self._codes(rows[i : i + _CHUNK]) for i in range(0, len(rows), _CHUNK))
        return sparse.vstack([sparse.csr_array(part) for part in parts], format="csr")

    def _codes(self, rows: Images) -> NDArray[np.float32]:
        x, atoms, gram = self.dictionary.scaling(rows), self.dictionary.atoms, self.dictionary.gram
        how: dict[str, Any] = (
            {"algorithm": "omp", "n_nonzero_coefs": self.l0}
            if self.alpha is None
            else {"algorithm": "lasso_lars", "alpha": self.alpha}
        )
        with quiet():
            codes = sparse_encode(x, atoms, gram=gram, n_jobs=1, check_input=False, **how)
        return codes.astype(np.float32)

    @override
    def decode(self, codes: Features) -> NDArray[np.float32]:
        return self.dictionary.scaling.inverse(codes @ self.dictionary.atoms)


def fit_omp(task: Task, **settings: Any) -> DictionaryCoder:
    """Orthogonal matching pursuit, ``l0`` atoms per row."""
    return DictionaryCoder(fit_dictionary(task, **settings), task.l0)


def fit_lasso(task: Task, **settings: Any) -> DictionaryCoder:
    """Lasso by least-angle regression, its alpha bisected to meet L0 on validation rows."""
    dictionary = fit_dictionary(task, **settings)
    begin = time.perf_counter()
    _, validation = task.split()
    low, high = np.log(_ALPHA_RANGE)
    for _ in range(_BISECTION_STEPS):
        middle = (low + high) / 2
        codes = DictionaryCoder(dictionary, task.l0, float(np.exp(middle))).encode(
            validation[:_BISECTION_ROWS]
        )
        low, high = (middle, high) if codes.nnz > task.l0 * codes.shape[0] else (low, middle)
    coder = DictionaryCoder(dictionary, task.l0, float(np.exp((low + high) / 2)))
    coder.seconds += time.perf_counter() - begin
    return coder


class LinearCoder(Fitted):
    """A fitted scikit-learn model whose decoder is ``codes @ components + offset``."""

    def __init__(
        self, model: Any, offset: NDArray[np.float32] | float, scale: float, seconds: float
    ) -> None:
        self.model = model
        self.offset = offset
        self.scale = scale
        self.seconds = seconds

    @override
    def encode(self, rows: Images) -> NDArray[np.float32]:
        with quiet():
            codes = self.model.transform((unit_float(rows) - self.offset) / self.scale)
        return codes.astype(np.float32)

    @override
    def decode(self, codes: Features) -> NDArray[np.float32]:
        x = dense(codes) @ self.model.components_ + getattr(self.model, "mean_", 0.0)
        return (x * self.scale + self.offset).astype(np.float32)

    @override
    def column_norms(self) -> NDArray[np.floating]:
        return np.linalg.norm(self.model.components_, axis=1)


@remember_last
def fit_pca(task: Task) -> LinearCoder:
    """Principal components; no more than there are features."""
    begin = time.perf_counter()
    model = PCA(min(task.k, task.rows.shape[1]), svd_solver="covariance_eigh")
    model.fit(unit_float(task.rows))
    return LinearCoder(model, 0.0, 1.0, time.perf_counter() - begin)


@remember_last
def fit_sparse_pca(task: Task, *, alpha: float, steps: int) -> LinearCoder:
    """H. Zou, T. Hastie and R. Tibshirani (2006), "Sparse PCA": the components are sparse.

    On a fixed 5,000 of the training rows: its time grows with rows times components.
    """
    begin = time.perf_counter()
    fit_rows, _ = task.split()
    scaling = Scaling.of(fit_rows)
    chosen = np.random.default_rng(task.seed).permutation(len(fit_rows))[:_SPARSE_PCA_ROWS]
    model = MiniBatchSparsePCA(
        task.k, alpha=alpha, max_iter=steps, batch_size=32, method="cd", random_state=task.seed
    )
    with quiet():
        model.fit(scaling(fit_rows[chosen]))
    return LinearCoder(model, scaling.mean, float(scaling.sd), time.perf_counter() - begin)


@remember_last
def fit_nmf(task: Task, *, alpha: float, steps: int) -> LinearCoder:
    """Fit NMF by coordinate descent, ``steps`` rounds over all rows, which are in [0, 1].

    A. Cichocki and A. Phan (2009), "Fast local algorithms for large scale nonnegative matrix and
    tensor factorizations". On mini-batches the error was more than twice as large.
    """
    begin = time.perf_counter()
    fit_rows, _ = task.split()
    # A start by singular vectors has no more of them than there are features.
    start = "nndsvda" if task.k <= min(fit_rows.shape) else "random"
    model = NMF(task.k, init=start, alpha_W=alpha, max_iter=steps, tol=0, random_state=task.seed)
    with quiet():
        model.fit(unit_float(fit_rows))
    return LinearCoder(model, 0.0, 1.0, time.perf_counter() - begin)


class Pixels(Fitted):
    """Rows in [0, 1] as they are."""

    seconds = 0.0

    @override
    def encode(self, rows: Images) -> NDArray[np.float32]:
        return unit_float(rows)

    @override
    def decode(self, codes: Features) -> NDArray[np.float32]:
        return dense(codes)


def fit_pixels(_: Task) -> Pixels:
    """Nothing to fit."""
    return Pixels()


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings about convergence: steps are counted here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        yield
