"""The rivals in `benchmarks/speed` do the work that they are compared for."""

import numpy as np
import pytest
import torch

from benchmarks.speed import encode, fit, gpu, plot, timing, transform
from sparsecode import defaults
from sparsecode.images import ImageOptions, read_image


def test_rivals_take_turns_and_are_compared_round_by_round():
    calls = []
    rivals = {name: lambda name=name: calls.append(name) for name in "ab"}
    timings = timing.in_turn(rivals, 3)
    assert "".join(calls) == "ab" * 4  # the first of each does not count
    assert timings.row()["n"] == 3
    assert timing.once(rivals).row()["n"] == 1
    known = timing.Timings({"a": np.array([1.0, 4.0, 9.0]), "b": np.array([1.0, 2.0, 3.0])})
    assert known.ratio("a", "b") == (2.0, 1.5, 2.5)


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).integers(0, 256, (600, 20), dtype=np.uint8)


@pytest.mark.parametrize("many_rows", [1, 10_000])  # with hidden units, and without
@pytest.mark.parametrize("k", [8, 16])  # filters of its own, and tied ones
def test_the_bare_product_is_that_of_the_encoder(rows, monkeypatch, k, many_rows):
    monkeypatch.setattr(defaults, "_MANY_ROWS", many_rows)
    estimator = transform.quick_fit(rows, k, 0.75)
    bare = transform.BareProduct(estimator, 100)
    assert (bare.first is None) is (many_rows > 1)
    model = estimator.model_
    x = torch.from_numpy(rows).float() / 255
    with torch.no_grad():
        expected = model.encoder.mean(model.standardise(x))
    torch.testing.assert_close(bare.means(x), expected, rtol=1e-4, atol=1e-4)
    bare(rows)


@pytest.mark.parametrize("n_swaps", [0, 1])
def test_refining_is_timed_beside_omp(rows, n_swaps):
    row = transform._refined(transform.quick_fit(rows, 16, 0.75), rows, 4, n_swaps, rounds=2)
    assert row["n"] == 2
    assert row["times_less"][0] > 0


@pytest.mark.parametrize("images", [ImageOptions(64, 64, 3), ImageOptions(28, 28, 1)])
def test_the_decoder_beside_ours_makes_the_same_pixels(tmp_path, images):
    encode.write_photographs(tmp_path, 3)
    paths = sorted(tmp_path.iterdir())
    for path in paths:
        expected = read_image(path, images).pixels
        np.testing.assert_array_equal(encode.decode(path, images), expected.squeeze())
    assert encode.pillow(paths, images, 1) == 3 * images.n_features
    assert encode.reader(paths, images, 1) == 3


def test_each_step_of_the_tutorials_loop_learns(rows):
    torch.manual_seed(0)
    loop = fit.tutorial.Loop(fit.tutorial.network(rows, 8, 0.75, (8,), (8,)), learning_rate=1e-2)
    batches = fit.tutorial.loader(rows, "tensors", batch=50)
    losses = [loop.epoch(batches) for _ in range(4)]
    assert losses[-1] < losses[0]
    model = loop.finish(rows)
    zeros = model.encode(torch.from_numpy(rows).float() / 255).gate == 0
    assert zeros.float().mean() == pytest.approx(0.75, abs=0.01)


def test_the_shortest_fit_is_the_first_that_is_good_enough():
    tried = []

    def objective(epochs):
        tried.append(epochs)
        return 10.0 - epochs

    assert fit.tutorial.shortest(objective, 7.0, longest=9) == 3
    assert tried == [1, 2, 3]
    assert fit.tutorial.shortest(objective, -5.0, longest=4) is None


def test_the_costs_are_drawn(tmp_path):
    seconds = [2e-3, 1e-3, 3e-3]
    rows = [
        {"benchmark": "transform", "comparison": by, by: value, "n_rows": 100, "limit_s": 1e-3}
        | {"transform_s": seconds, "chunked_s": seconds}
        for by, values in {"rows": (10, 100), "latents": (8, 64), "density": (0.1, 0.5)}.items()
        for value in values
    ]
    with pytest.raises(SystemExit, match=r"run benchmarks\.speed\.fit --only rows"):
        plot.draw(tmp_path / "speed.png", rows)
    rows.append({"benchmark": "fit", "comparison": "rows", "rows": 100, "epoch_s": seconds})
    plot.draw(tmp_path / "speed.png", rows)
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_timed_on_a_gpu_works_without_one():
    rows = np.random.default_rng(0).integers(0, 256, (1_100, 784), dtype=np.uint8)
    device = torch.device("cpu")
    row = gpu._epochs(rows, gpu.SMALL, device)
    assert 0 < row["floor_s"] < row["fit_s"]
    assert row["tutorial_s"] > 0
    trained = gpu._fit(gpu.embeddings(gpu.SMALL), gpu.SMALL, device, 2)
    assert trained.n_iter_ == 2
    assert trained.model_.spec.n_latents == gpu.SMALL.sae_latents


def test_sae_lens_is_trained_on_as_many_rows():
    pytest.importorskip("sae_lens", reason="sae-lens is not installed")
    rows = torch.from_numpy(gpu.embeddings(gpu.SMALL))
    trained = gpu._sae_lens(rows, gpu.SMALL, torch.device("cpu"), 2)
    assert trained.cfg.d_sae == gpu.SMALL.sae_latents


def test_a_gpu_is_asked_for(monkeypatch):
    monkeypatch.setattr("sys.argv", ["gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="--small"):
        gpu.main()
