import numpy as np
import pytest
import torch
from test_vae import model

from sparsecode.calibration import (
    N_FOLDS,
    calibrate,
    cross_fitted_level,
    folds,
    n_held_out,
    row_scores,
)
from sparsecode.loader import as_rows

CPU = torch.device("cpu")


@pytest.fixture
def rows():
    return as_rows(np.random.default_rng(0).normal(size=(500, 6)), CPU)


@pytest.mark.parametrize(
    ("n_rows", "fraction", "expected"),
    [
        (2, 0.1, 0),
        (399, 0.1, 0),
        (400, 0.1, 100),
        (1000, 0.1, 250),
        (1200, 0.1, 300),
        (10_000, 0.1, 1000),
        (10_000, 0.5, 5000),
        (200, 0.5, 100),
    ],
)
def test_rows_held_out(n_rows, fraction, expected):
    assert n_held_out(n_rows, fraction) == expected


@pytest.mark.parametrize("n_rows", [2, 3, 5, 13, 100])
def test_folds_hold_out_each_row_once(n_rows):
    index = torch.randperm(n_rows)
    parts = folds(index)
    assert len(parts) == min(n_rows, N_FOLDS)
    assert torch.equal(torch.cat([fold.held_out for fold in parts]), index)
    for fold in parts:
        assert len(fold.train) > 0
        assert sorted([*fold.train.tolist(), *fold.held_out.tolist()]) == list(range(n_rows))


@pytest.mark.parametrize("posterior", ["spike_slab", "gaussian"])
@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_calibration_closes_the_fraction_asked_for(posterior, level, rows):
    vae, index = model(posterior=posterior).eval(), torch.arange(100, 350)
    density = calibrate(vae, rows, index, level)
    assert density == pytest.approx(1 - level, abs=1 / 1000)
    scores = row_scores(vae, rows, index)
    assert scores.shape == (250, 4)
    assert (scores > vae.gate.threshold.item()).mean() == density


def test_a_dense_model_has_nothing_to_calibrate(rows):
    vae = model(spike_weight=0.0)
    assert calibrate(vae, rows, torch.arange(10), 0.5) == 1
    assert vae.gate.threshold.item() == -torch.inf
    assert cross_fitted_level(lambda fold: vae, rows, torch.arange(10), 0.0) == 0


def test_scores_are_looked_at_up_to_a_limit(rows, monkeypatch):
    monkeypatch.setattr("sparsecode.calibration._MAX_SCORES", 40)
    assert row_scores(model(), rows, torch.arange(500)).shape == (10, 4)


def test_the_level_of_a_model_that_does_not_overfit_is_p(rows):
    # Rows seen and unseen have the same distribution when nothing is trained.
    level = cross_fitted_level(lambda fold: model().eval(), rows, torch.arange(500), 0.7)
    assert level == pytest.approx(0.7, abs=0.01)


def test_the_level_makes_up_for_scores_that_shrink_on_unseen_rows(rows):
    # A model whose scores are doubled on the rows it was trained on: the unit of the level is the
    # rank among training scores, and 0.5 of the unseen scores lie under a lower rank than 0.5.
    class Memory(torch.nn.Module):
        def __init__(self, inner, seen):
            super().__init__()
            self.inner, self.seen = inner, seen

        def mean(self, x):
            known = (x[:, None] == self.seen).all(-1).any(1)
            return self.inner.mean(x).abs() * torch.where(known, 2.0, 1.0)[:, None]

    def overfitted(fold):
        vae = model().eval()
        vae.encoder = Memory(vae.encoder, vae.standardise(rows.batch(fold.train)))
        return vae

    level = cross_fitted_level(overfitted, rows, torch.arange(500), 0.5)
    fold = folds(torch.arange(500))[0]
    vae = overfitted(fold)
    vae.gate.threshold.fill_(0)
    calibrate(vae, rows, fold.train, level)
    closed = (row_scores(vae, rows, fold.held_out) <= vae.gate.threshold.item()).mean()
    assert level < 0.35
    # 400 unseen scores: SD .025; other folds agree within three of them.
    assert closed == pytest.approx(0.5, abs=0.075)
