import sys

import numpy as np
import pytest

from sparsecode import diagnostics
from sparsecode.diagnostics import figures
from sparsecode.errors import OutputError, RefusedError
from sparsecode.probe import probe


@pytest.fixture
def result(codes):
    return diagnostics.diagnose(codes, np.arange(len(codes)) % 3, p=0.7)


def drawn(figure):
    figure.canvas.draw()
    return figure.axes


def test_every_kind_of_codes_can_be_drawn(result):
    for draw in (figures.l0_distribution, figures.activation_frequencies, figures.values):
        assert len(drawn(draw(result))) == 1
    assert len(drawn(figures.sparsity(result))) == 3
    assert len(drawn(figures.label_association(result))) == 2


def test_the_figures_show_the_figures(result):
    (axes,) = drawn(figures.activation_frequencies(result))
    np.testing.assert_allclose(axes.lines[0].get_ydata(), np.sort(result.frequency)[::-1])
    (axes,) = drawn(figures.l0_distribution(result))
    assert axes.patches[0].get_data().values.sum() == result.n_samples


def test_pictures_and_changes():
    grey = np.random.default_rng(0).random((7, 4, 5))
    axes = drawn(figures.pictures(grey, columns=3, titles=list("abcdefg")))
    assert len(axes) == 9
    np.testing.assert_array_equal(axes[3].images[0].get_array(), grey[3])
    assert axes[3].get_title() == "d"
    changes = drawn(figures.pictures(grey[..., None] - 0.5, signed=True))
    assert changes[0].images[0].norm.vmin == -changes[0].images[0].norm.vmax
    drawn(figures.pictures(np.random.default_rng(0).normal(size=(2, 3, 3, 3)), signed=True))
    with pytest.raises(RefusedError, match="have shape"):
        figures.pictures(grey[0])


def test_reliability_and_probe():
    curve = diagnostics.reliability([0.1, 0.9, 0.8], [0, 1, 1])
    assert len(drawn(figures.reliability_curve(curve))) == 1
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300)
    found = probe(rng.random((300, 5)) + y[:, None] / 4, y)
    axes = drawn(figures.probe_scores(found))
    shares = found.confusion / found.confusion.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.asarray(axes[3].images[0].get_array()) ** 2, shares)
    assert 0 < shares[0, 1] < 1
    assert len(drawn(figures.probe_scores(probe(rng.random((300, 5)), rng.random(300))))) == 4


def test_saving(tmp_path, result):
    figure = figures.values(result)
    figures.save(figure, tmp_path / "a.svg")
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()
    with pytest.raises(RefusedError, match="cannot be drawn"):
        figures.save(figure, tmp_path / "a.nonsense")
    with pytest.raises(RefusedError, match=r"nonsense cannot be drawn.*png"):
        figures.check_path("a.nonsense")
    figures.check_path("a.PNG")
    with pytest.raises(OutputError, match="cannot write"):
        figures.save(figure, tmp_path / "nowhere" / "a.png")


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(RefusedError, match=r"pip install 'sparsecode\[report\]'"):
        figures.new_figure()


def test_without_labels_or_history_it_says_so():
    with pytest.raises(RefusedError, match="no labels"):
        figures.label_association(diagnostics.diagnose(np.eye(3)))
    with pytest.raises(RefusedError, match="history is empty"):
        figures.training_curves([])
