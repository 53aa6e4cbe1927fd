"""Linear probes on a device: scikit-learn's own, so the same answers."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import sparse

from sparsecode.probe.linear import solve_on_cpu
from sparsecode.probe_device import ARRAY_API, solver

# SciPy reads the variable when it is imported, so this needs a process of its own.
_PROGRAM = """
import json, sys, numpy as np, torch
from scipy import sparse
from sklearn.datasets import load_digits
from sparsecode.probe import probe
from sparsecode.probe_device import DeviceSolver, solver
X, y = load_digits(return_X_y=True)
codes = sparse.csr_array(np.where(X > 9, X, 0).astype(np.float32))
device = sys.argv[1]
solve = DeviceSolver(torch.device(device)) if device == "cpu" else solver(device)
y = np.array([f"class {label}" for label in y])
one, other = (probe(codes, y, **options) for options in ({}, {"solve": solve}))
numbers = codes.sum(axis=1).astype(np.float64) + 0.5
one_r, other_r = (probe(codes, numbers, **options) for options in ({}, {"solve": solve}))
print(json.dumps([[r.codes.linear.value, r.codes.C, [s.value for _, s in r.k_sparse],
    [f.mean for f in r.few_labels]] for r in (one, other, one_r, other_r)]))
"""


def scores(device: str):
    result = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", _PROGRAM, device],
        capture_output=True, text=True, timeout=280,
        env={**os.environ, ARRAY_API: "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def check_same(device: str):
    one, other, one_r, other_r = scores(device)
    assert one_r == other_r
    assert one[1] == other[1]
    # Both stop within L-BFGS's tolerance of the optimum: at most one of 360 rows differs.
    assert abs(one[0] - other[0]) <= 1 / 360 + 1e-9
    np.testing.assert_allclose(one[2], other[2], atol=0.03)
    np.testing.assert_allclose(one[3], other[3], atol=0.03)


def test_tensors_give_the_same_scores():
    check_same("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_same_scores():
    check_same("cuda")


def test_without_a_gpu_or_scipys_switch_it_is_the_cpu(monkeypatch):
    monkeypatch.delenv(ARRAY_API, raising=False)
    assert solver("auto") is solve_on_cpu
    assert solver("cpu") is solve_on_cpu
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert solver("auto") is solve_on_cpu
    with pytest.raises(ValueError, match=r"device='cuda' needs SCIPY_ARRAY_API=1"):
        solver("cuda")


def test_an_unknown_device_is_named():
    with pytest.raises(ValueError, match="device='abacus' is unknown"):
        solver("abacus")


def test_the_solver_leaves_sparse_rows_as_they_are():
    x = sparse.random_array((40, 5), density=0.5, rng=np.random.default_rng(0), format="csr")
    before = x.toarray()

    class Model:
        def fit(self, x, y):
            self.got = x

    model = Model()
    solve_on_cpu(model, x, np.arange(40) % 2)
    assert model.got is x
    np.testing.assert_array_equal(x.toarray(), before)
