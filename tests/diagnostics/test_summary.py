import json
from io import StringIO

import numpy as np
import pytest
from rich.console import Console
from scipy import sparse

from sparsecode import SparseCodes, diagnostics


def text_of(renderable):
    console = Console(width=150, record=True, file=StringIO())
    console.print(renderable)
    return console.export_text()


def test_the_figures_are_those_of_the_functions(codes, as_csr):
    labels = np.arange(len(codes)) % 3
    result = diagnostics.diagnose(as_csr(codes), labels, p=0.7)
    assert (result.n_samples, result.n_latents) == codes.shape
    assert result.zeros == diagnostics.zero_fraction(codes) or len(codes) == 1
    np.testing.assert_array_equal(result.l0, diagnostics.l0_per_row(codes))
    np.testing.assert_allclose(result.frequency, diagnostics.activation_frequency(codes))
    np.testing.assert_allclose(result.information, diagnostics.mutual_information(codes, labels))
    np.testing.assert_array_equal(result.dead, diagnostics.dead_latents(codes))
    with np.errstate(invalid="ignore"):
        expected = codes.sum(0) / (codes != 0).sum(0)
    np.testing.assert_allclose(result.mean_value, expected)
    np.testing.assert_allclose(result.rates.spike, diagnostics.rate_per_latent(codes, 0.7).spike)


def test_json_and_both_views_work_for_every_kind_of_codes(codes, as_csr):
    result = diagnostics.diagnose(as_csr(codes))
    plain = json.loads(result.to_json())
    assert plain["n_latents"] == codes.shape[1]
    assert plain["frequency"] == pytest.approx(list((codes != 0).mean(0)))
    assert plain["p"] is None
    assert plain["information"] is None
    assert "dead latents" in text_of(result)
    assert "<table>" in result._repr_html_()


def test_codes_from_a_file_bring_labels_and_p():
    matrix = sparse.csr_array(np.eye(4, dtype=np.float32))
    codes = SparseCodes(
        matrix,
        np.array(list("abcd"), object),
        {"label": np.array(list("xxyy"), object)},
        metadata={"config": {"p": 0.75}},
    )
    result = diagnostics.diagnose(codes)
    assert result.p == 0.75
    assert list(result.by_label.classes) == ["x", "y"]
    assert diagnostics.diagnose(codes, p=0.5).p == 0.5
    assert "asked" in text_of(result)


def status(result, name):
    return next(verdict.status for verdict in result.verdicts if verdict.name == name)


def test_verdicts_follow_their_rules():
    rng = np.random.default_rng(0)
    codes = rng.gamma(2.0, size=(2000, 40)) * (rng.random((2000, 40)) < 0.2)
    good = diagnostics.diagnose(codes, p=0.8)
    assert {verdict.status for verdict in good.verdicts} == {"good"}
    assert len(good.verdicts) == 6
    assert status(diagnostics.diagnose(codes, p=0.78), "zeros asked, zeros got") == "fair"
    assert status(diagnostics.diagnose(codes, p=0.5), "zeros asked, zeros got") == "poor"
    codes[:, :3] = 0
    codes[:, 3] = 1
    codes[:100] = 0
    codes[:, 5] = codes[:, 4]
    bad = diagnostics.diagnose(codes)
    assert status(bad, "dead latents") == "fair"
    assert status(bad, "empty codes") == "poor"
    assert status(bad, "redundancy") == "poor"
    codes[:, 3] = 1
    assert status(diagnostics.diagnose(codes), "always-on latents") == "fair"
    codes[:, 6:] *= 0.01
    assert status(diagnostics.diagnose(codes), "latents in use") == "poor"


def test_sparse_latents_are_not_collapsed_because_they_fire_seldom():
    codes = np.zeros((1000, 2))
    codes[:3, 0] = 2.0
    codes[:500, 1] = 0.01
    result = diagnostics.diagnose(codes)
    np.testing.assert_array_equal(result.collapsed, [False, True])


def test_pairs_of_costly_codes_are_counted_in_evenly_spaced_rows(monkeypatch):
    codes = (np.random.default_rng(0).random((90, 10)) < 0.5).astype(float)
    cost = ((codes != 0).sum(axis=1) ** 2).sum()
    monkeypatch.setattr("sparsecode.diagnostics.summary._PAIR_OPERATIONS", int(cost / 2.5))
    found = diagnostics.diagnose(codes).pairs
    np.testing.assert_array_equal(
        found.together, diagnostics.coactivation_pairs(codes[::3]).together
    )


def test_p_is_checked():
    with pytest.raises(ValueError, match=r"p=1\.5"):
        diagnostics.diagnose(np.eye(3), p=1.5)


def test_many_latents_are_never_made_dense_by_rows():
    matrix = sparse.random_array((300_000, 2000), density=1e-5, format="csr", rng=0)
    result = diagnostics.diagnose(matrix)
    assert result.l0.sum() == matrix.nnz


@pytest.mark.parametrize("largest", [3, 39, 40, 41, 200])
def test_the_histogram_of_l0_has_bins_of_one_width(largest):
    counts = np.random.default_rng(0).integers(0, largest + 1, 300)
    counts[:2] = 0, largest
    codes = (np.arange(200) < counts[:, None]).astype(float)
    found, edges = diagnostics.diagnose(codes).l0_histogram()
    assert len(found) <= 40
    assert len(set(np.diff(edges))) == 1
    np.testing.assert_array_equal(found, np.histogram(counts, edges)[0])
    assert found.sum() == 300
