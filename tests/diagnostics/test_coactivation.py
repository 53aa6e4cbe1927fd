import numpy as np
import pytest

from sparsecode import diagnostics


def test_counts_by_brute_force(codes, as_csr):
    on = (codes != 0).astype(int)
    counts = diagnostics.coactivation_counts(as_csr(codes)).toarray()
    np.testing.assert_array_equal(counts, on.T @ on)


def test_pairs_against_numpys_correlation(codes, as_csr):
    on = codes != 0
    pairs = diagnostics.coactivation_pairs(as_csr(codes), n_pairs=10**6)
    varies = on.any(axis=0) & ~on.all(axis=0)
    i, j = np.triu_indices(codes.shape[1], 1)
    kept = varies[i] & varies[j]
    found = dict(zip(zip(pairs.first, pairs.second, strict=True), pairs.correlation, strict=True))
    assert set(found) == set(zip(i[kept], j[kept], strict=True))
    for (a, b), correlation in found.items():
        assert correlation == pytest.approx(np.corrcoef(on[:, a], on[:, b])[0, 1], abs=1e-9)
    size = np.abs(pairs.correlation)
    assert (size[:-1] >= size[1:]).all()
    for a, b, together in zip(pairs.first, pairs.second, pairs.together, strict=True):
        assert together == (on[:, a] & on[:, b]).sum()


def test_the_strongest_pairs_are_kept_across_blocks(monkeypatch):
    codes = np.random.default_rng(0).random((60, 12)) * (
        np.random.default_rng(1).random((60, 12)) < 0.4
    )
    whole = diagnostics.coactivation_pairs(codes, 10**6)
    monkeypatch.setattr("sparsecode.diagnostics.coactivation._BLOCK", 5)
    few = diagnostics.coactivation_pairs(codes, 4)
    np.testing.assert_array_equal(few.correlation, whole.correlation[:4])
    assert len(few.first) == 4


def test_n_pairs_is_checked():
    with pytest.raises(ValueError, match="n_pairs"):
        diagnostics.coactivation_pairs(np.eye(2), 0)
