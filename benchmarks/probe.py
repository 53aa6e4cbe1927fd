"""Time and accuracy of the package's probe against scikit-learn's own logistic regression.

    python benchmarks/probe.py CODES.h5 LABELS.csv

On one split of the codes: the probe's linear part (its search for C, and the last fit), all of
`sparsecode.probe.probe`, and `LogisticRegression` at each C of the same list, cold and run to
convergence, the best of them on the validation rows fitted again to all training rows.
"""

import argparse
import os
import platform
import time

import numpy as np
import sklearn
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import sparsecode
from sparsecode.probe import probe, read_labels
from sparsecode.probe.linear import STRENGTHS, LinearProbe, scaled
from sparsecode.probe.run import _split

_ITERATIONS = 2000


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("codes")
    arguments.add_argument("labels")
    options = arguments.parse_args()
    codes = sparsecode.read_codes(options.codes)
    y = read_labels(codes, options.labels)
    y = y.astype(np.int64) if y.dtype.kind == "f" else y.astype(str)
    print(f"{codes.shape[0]:,} codes of {codes.shape[1]:,} latents; {machine()}")
    split = _split(y, None, is_regression=False, seed=0)

    start = time.perf_counter()
    fitted = LinearProbe(is_regression=False).fit(scaled(codes.matrix, split.train), y, split)
    ours = time.perf_counter() - start
    accuracy = float((fitted.predicted == y[split.test]).mean())
    print(f"linear probe: {100 * accuracy:.2f} % at C = {fitted.C:g}, {ours:.1f} s")

    start = time.perf_counter()
    with threadpool_limits(1):  # as the probe does: more threads only make it slower
        reference, C = best_of_sklearn(codes.matrix, y, split)
    theirs = time.perf_counter() - start
    print(f"scikit-learn's best: {100 * reference:.2f} % at C = {C:g}, {theirs:.1f} s")
    print(f"difference {100 * (accuracy - reference):+.2f} points, time {ours / theirs:.2f} of it")

    result = probe(codes.matrix, y)
    print(f"whole probe, neighbours, few labels and all: {result.seconds:.1f} s")


def best_of_sklearn(codes: object, y: np.ndarray, split: object) -> tuple[float, float]:
    scaler = StandardScaler(with_mean=False).fit(codes[split.train])
    x = scaler.transform(codes)
    held_out = {}
    for C in STRENGTHS:
        model = LogisticRegression(C=C, max_iter=_ITERATIONS).fit(x[split.fit], y[split.fit])
        held_out[C] = model.score(x[split.validation], y[split.validation])
    best = max(held_out, key=held_out.__getitem__)
    model = LogisticRegression(C=best, max_iter=_ITERATIONS).fit(x[split.train], y[split.train])
    return float(model.score(x[split.test], y[split.test])), best


def machine() -> str:
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, OMP_NUM_THREADS="
        f"{os.environ.get('OMP_NUM_THREADS', 'unset')}, scikit-learn {sklearn.__version__}"
    )


if __name__ == "__main__":
    main()
