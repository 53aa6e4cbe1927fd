import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse, stats

from sparsecode import diagnostics

MEASURES = [
    diagnostics.l0_per_row,
    diagnostics.l0,
    diagnostics.density,
    diagnostics.hoyer_sparsity,
    diagnostics.activation_frequency,
    diagnostics.dead_latents,
    diagnostics.always_on_latents,
    diagnostics.zero_fraction,
    diagnostics.gini,
    diagnostics.kurtosis,
    diagnostics.activation_entropy,
    diagnostics.active_units,
    diagnostics.effective_latents,
    diagnostics.energy_share,
    diagnostics.top_samples,
    lambda codes: diagnostics.hoyer_sparsity(codes, normalise=True),
    lambda codes: diagnostics.rate_per_latent(codes, 0.8).slab,
    lambda codes: diagnostics.value_histograms(codes).counts,
    lambda codes: diagnostics.coactivation_counts(codes).toarray(),
    lambda codes: diagnostics.coactivation_pairs(codes).correlation,
    lambda codes: diagnostics.drift(codes, codes).frequency_change,
    lambda codes: diagnostics.diagnose(codes).entropy,
]
CODES = np.array([[0.0, 3.0, 0.0, 4.0], [0.0, 0.0, 0.0, 0.0], [0.0, -2.0, 0.0, 0.0]])


def test_by_hand():
    np.testing.assert_array_equal(diagnostics.l0_per_row(CODES), [2, 0, 1])
    assert diagnostics.l0_per_row(CODES).dtype == np.int64
    assert diagnostics.l0(CODES) == 1.0
    assert diagnostics.density(CODES) == 0.25
    np.testing.assert_allclose(diagnostics.hoyer_sparsity(CODES), [0.6, np.nan, 1.0])
    np.testing.assert_allclose(diagnostics.activation_frequency(CODES), [0, 2 / 3, 0, 1 / 3])
    np.testing.assert_array_equal(diagnostics.dead_latents(CODES), [True, False, True, False])
    np.testing.assert_array_equal(diagnostics.always_on_latents(CODES, 0.5), [0, 1, 0, 0])
    assert not diagnostics.always_on_latents(CODES).any()


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=8),
        elements=st.one_of(st.just(0.0), st.floats(-1e100, 1e100, allow_subnormal=False)),
    )
)
def test_against_numpy(codes):
    active = codes != 0
    np.testing.assert_array_equal(diagnostics.l0_per_row(codes), active.sum(axis=1))
    assert diagnostics.density(codes) == pytest.approx(active.mean())
    np.testing.assert_allclose(diagnostics.activation_frequency(codes), active.mean(axis=0))
    np.testing.assert_array_equal(diagnostics.dead_latents(codes), ~active.any(axis=0))
    np.testing.assert_array_equal(diagnostics.always_on_latents(codes), active.all(axis=0))
    k = codes.shape[1]
    for row, measure in zip(codes, diagnostics.hoyer_sparsity(codes), strict=True):
        if k == 1 or not row.any():
            assert np.isnan(measure)
        else:
            unit = row / np.abs(row).max()
            expected = (k**0.5 - np.linalg.norm(unit, 1) / np.linalg.norm(unit)) / (k**0.5 - 1)
            assert measure == pytest.approx(expected, abs=1e-9)


def test_hoyer_limits():
    np.testing.assert_allclose(diagnostics.hoyer_sparsity(np.full((2, 9), -0.1)), 0, atol=1e-12)
    np.testing.assert_allclose(diagnostics.hoyer_sparsity(np.eye(4) * 1e-30), 1)


@pytest.mark.parametrize("measure", MEASURES)
def test_stored_zeros_and_duplicates_count_as_what_they_add_up_to(measure):
    messy = sparse.csr_array(
        ([3.0, 0.0, 1.0, 3.0, -2.0, 5.0, -5.0], [1, 0, 3, 3, 1, 2, 2], [0, 4, 4, 7]), (3, 4)
    )
    before = messy.data.copy(), messy.indices.copy()
    np.testing.assert_allclose(measure(messy), measure(CODES))
    np.testing.assert_array_equal(messy.data, before[0])
    np.testing.assert_array_equal(messy.indices, before[1])
    np.testing.assert_allclose(measure(sparse.csr_matrix(CODES)), measure(CODES))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_not_finite_is_refused(measure, bad, form):
    with pytest.raises(ValueError, match="NaN or infinity"):
        measure(form([[0.0, bad]]))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("shape", [(3,), (0, 3), (3, 0), (2, 2, 2)])
def test_unfit_shapes_are_refused(measure, shape):
    with pytest.raises(ValueError, match="codes have shape"):
        measure(np.ones(shape))


@pytest.mark.parametrize("threshold", [0, -1, 1.1, float("nan")])
def test_threshold_range(threshold):
    with pytest.raises(ValueError, match="threshold="):
        diagnostics.always_on_latents(CODES, threshold)


def test_codes_are_never_made_dense():
    wide = sparse.csr_array(([1.0], ([5], [7])), shape=(2_000_000, 1_000_000))
    assert diagnostics.density(wide) == pytest.approx(5e-13)
    assert diagnostics.activation_frequency(wide)[7] == 5e-7
    assert diagnostics.hoyer_sparsity(wide)[5] == 1.0


def test_zero_fraction_is_students_interval_over_rows(codes, as_csr):
    shares = (codes == 0).mean(axis=1)
    for level in (0.95, 0.5):
        got = diagnostics.zero_fraction(as_csr(codes), level)
        assert got.estimate == pytest.approx(shares.mean())
        if len(codes) == 1:
            assert np.isnan([got.low, got.high]).all()
        elif shares.std() == 0:
            assert (got.low, got.high) == pytest.approx((shares[0], shares[0]))
        else:
            expected = stats.ttest_1samp(shares, 0).confidence_interval(level)
            assert (got.low, got.high) == pytest.approx(np.clip(expected, 0, 1))


def test_the_interval_covers_as_often_as_it_says():
    # 500 intervals of 90 %: binomial(500, .9) is within 430 to 470 but for 1 seed in 350.
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(500):
        share = rng.beta(8, 2, size=(40, 1))  # rows that differ from each other
        zeros = diagnostics.zero_fraction(rng.random((40, 20)) > share, level=0.9)
        covered += zeros.low <= 0.8 <= zeros.high
    assert 430 <= covered <= 470


def brute_gini(row):
    magnitude = np.sort(np.abs(row))
    k, total = len(row), 0.0
    for i, value in enumerate(magnitude, start=1):
        total += value / magnitude.sum() * (k - i + 0.5) / k
    return 1 - 2 * total


def test_gini_against_the_formula(codes, as_csr):
    got = diagnostics.gini(as_csr(codes))
    for row, value in zip(codes, got, strict=True):
        if row.any():
            assert value == pytest.approx(brute_gini(row))
        else:
            assert np.isnan(value)


def test_gini_limits():
    np.testing.assert_allclose(diagnostics.gini(np.ones((1, 9))), 0, atol=1e-12)
    np.testing.assert_allclose(diagnostics.gini(np.eye(5)), 1 - 1 / 5)


@pytest.mark.filterwarnings("ignore:Precision loss")
@pytest.mark.parametrize("axis", [0, 1])
def test_kurtosis_against_scipy(codes, as_csr, axis):
    got = diagnostics.kurtosis(as_csr(codes), axis)
    np.testing.assert_allclose(got, stats.kurtosis(codes, axis=axis), rtol=1e-6, atol=1e-9)


def test_normalised_hoyer_is_that_of_scaled_latents(codes, as_csr):
    scale = codes.std(axis=0)
    scale[np.ptp(codes, axis=0) == 0] = 1
    got = diagnostics.hoyer_sparsity(as_csr(codes), normalise=True)
    np.testing.assert_allclose(got, diagnostics.hoyer_sparsity(codes / scale), rtol=1e-6)


@pytest.mark.parametrize("level", [0, 1, float("nan")])
def test_confidence_range(level):
    with pytest.raises(ValueError, match="level="):
        diagnostics.zero_fraction(CODES, level)


def test_kurtosis_axis_is_checked():
    with pytest.raises(ValueError, match="axis=2"):
        diagnostics.kurtosis(CODES, axis=2)
