"""What is measured on a fitted coder: error, probes, neighbours, liveness, L0, bits, speed."""

import time
import zlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.model_selection import train_test_split

from benchmarks.codes.protocol import Fitted, Method, Point, Task, dense, split_rows
from benchmarks.common import (
    DataSet,
    Features,
    Row,
    activation_frequency,
    linear_probe,
    mse,
    row_l0,
    unit_float,
    zero_fraction,
)

ALWAYS_ON = 0.5
N_NEIGHBOURS = 5
LABEL_COUNTS = (200, 1_000, 5_000)
_BLOCK = 256


def measure(
    method: Method, data: DataSet, point: Point, seed: int, settings: dict[str, Any]
) -> Row:
    """Fit on the training rows and measure on the test rows; one JSON row."""
    fitted = method.fit(Task(data.train, seed, point.k, point.l0), **settings)
    begin = time.perf_counter()
    codes = fitted.encode(data.test)
    seconds = time.perf_counter() - begin
    chosen = encoded_rows(len(data.train), method.encoded_rows)
    train_codes, labels = fitted.encode(data.train[chosen]), data.train_labels[chosen]
    return {
        **(errors(fitted, data, codes, seed) if method.reconstructs else {}),
        **probes(train_codes, labels, codes, data.test_labels, seed),
        **sparsity(codes, point if method.per_point else None),
        "bits": bits_per_code(codes),
        "rate": fitted.rate(data.test),
        "fit_seconds": fitted.seconds,
        "rows_per_second": len(data.test) / seconds,
        "encoded_rows": len(chosen),
        "settings": settings,
    }


def encoded_rows(n_rows: int, limit: int | None) -> NDArray[np.intp]:
    """Choose the training rows to encode: all, or the same random ones for every seed."""
    if limit is None or limit >= n_rows:
        return np.arange(n_rows)
    return np.sort(np.random.default_rng(0).permutation(n_rows)[:limit])


def errors(fitted: Fitted, data: DataSet, codes: Features, seed: int) -> Row:
    """Squared error per pixel on test and validation rows, and explained variance."""
    test = unit_float(data.test)
    error = mse(test, fitted.decode(codes))
    _, validation = split_rows(data.train, seed)
    held_out = fitted.decode(fitted.encode(validation))
    return {
        "mse": error,
        "explained": 1 - error / mse(test, unit_float(data.train).mean(0, dtype=np.float64)),
        "validation_mse": mse(unit_float(validation), held_out),
    }


def probes(
    train: Features, labels: NDArray, test: Features, test_labels: NDArray, seed: int
) -> Row:
    """Linear probe, the same from few labels, and nearest neighbours."""
    probe = linear_probe(train, labels, test, test_labels)
    few = {
        f"labels_{count}": few_labels(train, labels, test, test_labels, count, seed)
        for count in LABEL_COUNTS
        if count < len(labels)
    }
    neighbours = nearest_neighbours(train, labels, test, test_labels)
    return {"probe": probe.accuracy, "probe_C": probe.C, "knn": neighbours, **few}


def few_labels(
    train: Features, labels: NDArray, test: Features, test_labels: NDArray, count: int, seed: int
) -> float:
    """Accuracy of the linear probe on ``count`` training rows, stratified; a quarter chooses C."""
    chosen, _ = train_test_split(
        np.arange(len(labels)), train_size=count, stratify=labels, random_state=seed
    )
    return linear_probe(train[chosen], labels[chosen], test, test_labels).accuracy


def nearest_neighbours(
    train: Features, labels: NDArray, test: Features, test_labels: NDArray
) -> float:
    """Accuracy of 5 nearest neighbours by cosine; a tie goes to the nearer class."""
    n_classes = int(labels.max()) + 1
    reference = torch.from_numpy(_unit_rows(train)).T.contiguous()
    query = torch.from_numpy(_unit_rows(test))
    known, wanted = (torch.from_numpy(y.astype(np.int64)) for y in (labels, test_labels))
    hits = 0
    for x, y in zip(query.split(_BLOCK), wanted.split(_BLOCK), strict=True):
        cosine = x @ reference
        best = cosine.topk(N_NEIGHBOURS, dim=1)
        # A vote of 1 each, and of less than the smallest margin for being near.
        votes = torch.zeros(len(x), n_classes).scatter_add_(
            1, known[best.indices], 1 + 1e-3 * best.values
        )
        hits += int((votes.argmax(1) == y).sum())
    return hits / len(query)


def _unit_rows(codes: Features) -> NDArray[np.float32]:
    """Dense rows of length 1; rows of zeros stay."""
    rows = dense(codes).astype(np.float32, copy=False)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(norms, np.finfo(np.float32).tiny)


def sparsity(codes: Features, point: Point | None) -> Row:
    """L0, zeros and liveness on the test rows."""
    frequency, l0 = activation_frequency(codes), row_l0(codes)
    return {
        "alive": int((frequency > 0).sum()),
        "always_on": int((frequency > ALWAYS_ON).sum()),
        "l0_mean": float(l0.mean()),
        "l0_sd": float(l0.std()),
        "zeros_asked": None if point is None else point.p,
        "zeros": float(zero_fraction(codes)),
    }


def bits_per_code(codes: Features) -> float:
    """Bits per row of the codes as CSR, deflated by zlib (level 6).

    One buffer: non-zeros of each row as uint16 (n), their columns in ascending order as uint16
    (nnz), their values over the root mean square of all, as float16 (nnz).
    """
    matrix = sparse.csr_array(codes, copy=True)
    matrix.sort_indices()
    matrix.eliminate_zeros()
    values = matrix.data / max(float(np.sqrt(np.mean(np.square(matrix.data)))), 1e-30)
    buffer = b"".join(
        part.tobytes()
        for part in (
            np.diff(matrix.indptr).astype(np.uint16),
            matrix.indices.astype(np.uint16),
            values.astype(np.float16),
        )
    )
    return 8 * len(zlib.compress(buffer)) / matrix.shape[0]
