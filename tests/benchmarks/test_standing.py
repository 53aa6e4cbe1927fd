"""Who is ahead: by the rule, among those that compete."""

import pytest

from benchmarks.codes.methods import METHODS
from benchmarks.codes.protocol import Point
from benchmarks.codes.standing import standings

POINT = Point(64, 13)


def rows(method, mse, probe, l0=13.0):
    """One row for each seed."""
    return [
        {
            "data": "MNIST",
            "k": 64,
            "l0": 13,
            "method": method,
            "seed": seed,
            "settings": {},
            "l0_mean": l0,
            "mse": mse[seed],
            "probe": probe[seed],
        }
        for seed in range(len(mse))
    ]


def table(title, *coders):
    found = dict(standings([row for coder in coders for row in coder], [POINT]))
    (line,) = found[f"Where sparsecode stands: {title}"]
    return line


OURS = rows("sparsecode", (0.010, 0.012), (0.95, 0.96))


@pytest.mark.parametrize(
    ("errors", "word"),
    [((0.020, 0.022), "ahead"), ((0.011, 0.013), "level"), ((0.004, 0.004), "behind")],
)
def test_a_difference_must_exceed_the_spread_of_either_side(errors, word):
    line = table("error", OURS, rows("topk", errors, (0.9, 0.9)))
    assert line["best published: ours are"].startswith(f"{word}, ")
    lead = sum(errors) / 2 - 0.011
    assert f"{lead:+.4f} ±" in line["best published: ours are"]


def test_one_fit_is_judged_by_the_other_sides_spread():
    line = table("probe", OURS, rows("topk", (0.02,), (0.951,)))
    assert line["best published"] == "0.9510 (TopK SAE, n = 1)"
    assert line["best published: ours are"] == "level, +0.0040 ± 0.0050"


def test_recipes_of_our_own_making_stand_apart():
    line = table(
        "error",
        OURS,
        rows("topk", (0.02, 0.02), (0.9, 0.9)),
        rows("batch_topk_hidden", (0.009, 0.009), (0.9, 0.9)),
    )
    assert "TopK SAE" in line["best published"]
    assert "BatchTopK, our network" in line["best of any making"]


def test_dense_coders_and_other_families_do_not_compete():
    line = table(
        "error",
        OURS,
        rows("topk", (0.02, 0.02), (0.9, 0.9)),
        rows("vae", (0.001, 0.001), (0.9, 0.9), l0=64.0),
        rows("dictionary_omp", (0.005, 0.005), (0.9, 0.9)),
    )
    assert "TopK SAE" in line["best published"]


@pytest.mark.parametrize(
    ("title", "ours"),
    [("error, refined", "sparsecode_refined"), ("error, 4 exchanged", "sparsecode_exchanged")],
)
def test_refined_codes_stand_beside_omp(title, ours):
    line = table(
        title,
        rows(ours, (0.010, 0.010), (0.9, 0.9)),
        rows("dictionary_omp", (0.015, 0.015), (0.9, 0.9)),
        rows("topk", (0.005, 0.005), (0.9, 0.9)),
    )
    assert METHODS["dictionary_omp"].label in line["best published"]
    assert line["best published: ours are"].startswith("ahead, +0.00500")


def test_without_a_rival_there_is_no_table():
    assert not list(standings(OURS, [POINT]))
