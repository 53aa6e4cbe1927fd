import numpy as np
import pytest
from sklearn.decomposition import PCA

from sparsecode.baseline_models import learned_baselines, untrained_twin
from sparsecode.probe import simple_baselines


def test_raw_and_pca(digits):
    pixels = (digits[:200] * 255).astype(np.uint8)
    features = simple_baselines(pixels, 10, 3.0)
    np.testing.assert_allclose(features["raw inputs"], pixels / 255, rtol=1e-6)
    expected = PCA(10, svd_solver="full").fit_transform(pixels / 255)
    np.testing.assert_allclose(np.abs(features["PCA, 10"]), np.abs(expected), atol=1e-3)


def test_dictionary_learning_has_the_codes_sparsity(digits):
    features = simple_baselines(digits[:100], 12, 3.2, ["dictionary"])
    assert (np.count_nonzero(features["dictionary learning, 12"], axis=1) <= 3).all()
    with pytest.raises(ValueError, match="unknown baselines"):
        simple_baselines(digits[:100], 12, 3.2, ["magic"])


@pytest.mark.parametrize("parameters", [{}, {"hidden_sizes": (12,)}, {"posterior": "gaussian"}])
def test_the_untrained_twin_has_other_weights_and_the_same_zeros(make, digits, parameters):
    trained = make(**parameters).fit(digits[:500])
    before = trained.transform(digits[:500]).toarray()
    codes = untrained_twin(trained, digits[:500]).transform(digits[:500]).toarray()
    assert np.mean(codes == 0) == pytest.approx(trained.p, abs=0.01)
    assert not np.allclose(codes, before)
    np.testing.assert_array_equal(trained.transform(digits[:500]).toarray(), before)


def test_learned_baselines(gated, digits, tmp_path):
    gated.save(tmp_path / "m.safetensors")
    features, missing = learned_baselines(
        digits[:300], 8, ["untrained", "dense"], tmp_path / "m.safetensors"
    )
    assert not missing
    assert features["same network, untrained"].shape == (300, 16)
    assert (features["dense VAE mean, 8"] != 0).mean() > 0.99
    _, missing = learned_baselines(digits[:300], 8, ["untrained"], None)
    assert "-m" in missing["same network, untrained"]
