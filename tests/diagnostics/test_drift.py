import numpy as np
import pytest
from scipy import stats

from sparsecode import diagnostics


def codes_of(frequency, n, seed):
    rng = np.random.default_rng(seed)
    return (rng.random((n, len(frequency))) < frequency) * rng.gamma(2.0, size=(n, len(frequency)))


def test_p_values_are_those_of_the_chi_squared_test():
    old, new = codes_of([0.2, 0.5, 0.9], 400, 0), codes_of([0.3, 0.5, 0.7], 300, 1)
    result = diagnostics.drift(old, new)
    for j in range(3):
        table = [[(codes[:, j] != 0).sum(), (codes[:, j] == 0).sum()] for codes in (old, new)]
        expected = stats.chi2_contingency(table, correction=False).pvalue
        assert result.p_values[j] == pytest.approx(expected, rel=1e-6)
    change = (new != 0).mean(0) - (old != 0).mean(0)
    np.testing.assert_allclose(result.frequency_change, change)
    l0 = [(codes != 0).sum(1) for codes in (old, new)]
    assert result.l0_p_value == pytest.approx(stats.ks_2samp(*l0).pvalue)


def test_the_latents_that_changed_are_found_and_no_others():
    frequency = np.full(100, 0.2)
    changed = frequency.copy()
    changed[:5] = 0.3
    result = diagnostics.drift(codes_of(frequency, 4000, 0), codes_of(changed, 4000, 1))
    assert result.has_drifted
    assert result.drifted[:5].all()
    assert "of 100 latents fire at another rate" in str(result)


def test_the_same_distribution_seldom_drifts():
    # A false discovery in about 5 % of the pairs; 40 pairs have more than 7 in 1 seed of 1,000.
    frequency = np.full(50, 0.3)
    found = sum(
        diagnostics.drift(
            codes_of(frequency, 500, 2 * seed), codes_of(frequency, 500, 2 * seed + 1)
        ).has_drifted
        for seed in range(40)
    )
    assert found <= 7


def test_the_same_codes_do_not_drift(codes, as_csr):
    result = diagnostics.drift(as_csr(codes), codes)
    assert not result.has_drifted
    np.testing.assert_array_equal(result.p_values, 1)
    assert result.l0_p_value == 1


def test_other_models_and_levels_are_refused():
    with pytest.raises(ValueError, match="2 and 3 latents"):
        diagnostics.drift(np.eye(2), np.eye(3))
    with pytest.raises(ValueError, match="level="):
        diagnostics.drift(np.eye(2), np.eye(2), level=0)
