"""What things cost, counted and not timed: products, operations, the largest piece of memory."""

import tracemalloc

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from sparsecode import SparseVAETransformer
from sparsecode.fitting import FitPlan, Seeds, new_model
from sparsecode.loader import as_rows
from sparsecode.trainer import Trainer, TrainingOptions, _Totals
from sparsecode.vae import ModelSpec

D, K, FEW, HIDDEN, BATCH = 96, 64, 16, 32, 50
CPU = torch.device("cpu")


class Operations(TorchDispatchMode):
    """Counts what torch does, and finds the largest tensor of floats that it makes."""

    def __init__(self):
        super().__init__()
        self.count = 0
        self.largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.count += 1
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return result


def pixels(n, d=D):
    return np.random.default_rng(0).integers(0, 256, (n, d), dtype=np.uint8)


def multiply_adds(work):
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 2


def new_trainer(encoder_hidden, decoder_hidden):
    spec = ModelSpec(
        n_features=D,
        n_latents=K,
        spike_weight=0.9,
        posterior="spike_slab",
        prior="spike_slab",
        likelihood="gaussian",
        spike_scale=0.2,
        encoder_sizes=encoder_hidden,
        decoder_sizes=decoder_hidden,
        image_shape=None,
        usage_balance=0.6,
    )
    options = TrainingOptions(BATCH, 1, learning_rate=1e-3, weight_decay=0.0, beta=1.0)
    rows = as_rows(pixels(400), CPU)
    plan = FitPlan(spec, options, 0.1, False, Seeds(0, 0, 0), CPU)
    trainer = Trainer(new_model(plan, rows, torch.arange(400)), torch.Generator().manual_seed(0))
    x, totals = rows.slice(0, BATCH), _Totals(K, CPU)
    trainer.n_steps = 1
    step = lambda: trainer.train_step(x, options, totals)  # noqa: E731
    step()  # the optimiser makes its state
    return step


def test_a_step_multiplies_each_weight_three_times_a_row_and_the_first_twice():
    # Forward, and backward to the weights and to the inputs, of which the pixels are none.
    step = new_trainer((FEW,), (HIDDEN,))
    of_pixels = D * K + D * FEW
    others = FEW * K + K * D + K * HIDDEN + HIDDEN * D
    assert multiply_adds(step) == BATCH * (2 * of_pixels + 3 * others)


def test_a_step_has_no_more_operations_than_it_had():
    # Each costs some microseconds of Python: more have to be worth it. They are 248, 224 and
    # 192, with some room for other versions of torch.
    for sizes, most in ((((FEW,), (HIDDEN,)), 259), (((), (HIDDEN,)), 234), (((), ()), 201)):
        step = new_trainer(*sizes)
        with Operations() as operations:
            step()
        assert operations.count <= most


@pytest.fixture(scope="module")
def estimator():
    estimator = SparseVAETransformer(K, 0.9, hidden_sizes=(), max_iter=2, random_state=0)
    return estimator.fit(pixels(1000))


@pytest.mark.parametrize("n", [1, 700])
def test_a_code_is_one_product(estimator, n):
    assert multiply_adds(lambda: estimator.transform(pixels(n))) == n * D * K


@pytest.mark.parametrize("n", [1, 700])
def test_so_is_the_inverse_of_dense_codes(estimator, n):
    codes = estimator.transform(pixels(n)).toarray()
    assert multiply_adds(lambda: estimator.inverse_transform(codes)) == n * D * K


def test_sparse_codes_are_decoded_without_a_product(estimator):
    codes = estimator.transform(pixels(700))
    codes.data[: len(codes.data) // 4] = 0
    codes.eliminate_zeros()
    assert multiply_adds(lambda: estimator.inverse_transform(codes)) == 0
    with Operations() as operations:
        estimator.inverse_transform(codes)
    assert operations.largest == 4 * 700 * D


@pytest.mark.parametrize("work", ["fit", "transform"])
def test_memory_beside_the_rows_does_not_grow_with_them(estimator, work):
    # Rows are integers here, so what is counted is what was made of them.
    largest = []
    for n in (100_000, 400_000):
        X = pixels(n)
        with Operations() as operations:
            if work == "transform":
                estimator.transform(X)
            else:
                SparseVAETransformer(8, max_iter=1, batch_size=4096, random_state=0).fit(X)
        largest.append(operations.largest)
    assert largest[0] == largest[1]
    assert largest[1] < 400_000 * D


def test_codes_are_in_memory_once(estimator):
    # Put together from CSR matrices of parts, they would be there twice.
    X = pixels(60_000)
    tracemalloc.start()
    try:
        codes = estimator.transform(X)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.6 * sum(part.nbytes for part in (codes.data, codes.indices, codes.indptr))
