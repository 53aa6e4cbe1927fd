import numpy as np
import pytest

import sparsecode
from sparsecode.errors import RefusedError


def test_latents_of_a_linear_decoder_are_its_atoms(gated, digits):
    display = gated.plot_latents(digits[:300], n=5)
    assert isinstance(display, sparsecode.LatentDisplay)
    assert display.changes.shape == (5, 8, 8, 1)
    assert (np.diff(display.frequency) <= 0).all()
    for latent, change in zip(display.latents, display.changes, strict=True):
        atom = gated.components_[latent]
        cosine = atom @ change.ravel() / np.linalg.norm(atom) / np.linalg.norm(change)
        assert cosine == pytest.approx(1, abs=1e-4)
    chosen = sparsecode.LatentDisplay.from_estimator(gated, digits[:50], latents=[3, 1])
    assert list(chosen.latents) == [3, 1]
    assert chosen.axes_[0].get_title().startswith("3: ")
    with pytest.raises(RefusedError, match="0 to 15"):
        gated.plot_latents(digits[:50], latents=[16])


def test_reconstructions(gated, digits):
    display = gated.plot_reconstructions(digits, n=4)
    expected = gated.inverse_transform(gated.transform(digits[:4]))
    np.testing.assert_allclose(display.decoded.reshape(4, -1), expected)
    np.testing.assert_array_equal(display.originals.reshape(4, -1), digits[:4])
    np.testing.assert_array_equal(display.l0, np.diff(gated.transform(digits[:4]).indptr))
    assert len(display.axes_) == 8


def test_every_kind_of_estimator_can_be_plotted(fitted, digits):
    for display in (
        fitted.plot_latents(digits[:40], n=3),
        fitted.plot_reconstructions(digits[:3]),
        fitted.plot_sparsity(digits[:40]),
        fitted.plot_history(),
    ):
        assert display._repr_png_()[:4] == b"\x89PNG"
        assert display.plot() is display


def test_history_is_that_of_the_estimator(gated):
    display = sparsecode.HistoryDisplay.from_estimator(gated)
    shown = display.axes_[1].lines[0].get_ydata()
    np.testing.assert_array_equal(shown, [record.distortion for record in gated.history_])


def test_rows_that_are_no_pictures_are_refused(make, digits):
    model = make().fit(digits[:200, :50])
    with pytest.raises(RefusedError, match="image_shape"):
        model.plot_reconstructions(digits[:5, :50])
    assert model.plot_sparsity(digits[:100, :50]).diagnostics.n_latents == 16
