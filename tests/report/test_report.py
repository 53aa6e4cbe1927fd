"""Figures of the report, against what they are made from."""

import base64
import io
import json
import re
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import sparsecode
from sparsecode import diagnostics
from sparsecode.companions import Originals
from sparsecode.errors import NoInputError, RefusedError

N_ROWS, N_LATENTS = 300, 150


def picture(uri):
    data = base64.b64decode(uri.split(",", 1)[1])
    return np.asarray(Image.open(io.BytesIO(data)))


def test_json_has_the_figures_and_no_pictures(full, files):
    figures = json.loads(full.to_json())
    codes = sparsecode.read_codes(files / "out.h5")
    frequency = diagnostics.activation_frequency(codes.matrix)
    np.testing.assert_allclose(figures["atlas"]["columns"]["frequency"], frequency, rtol=1e-3)
    np.testing.assert_allclose(figures["diagnostics"]["frequency"], frequency)
    assert sum(figures["charts"]["l0"]["counts"]) == N_ROWS
    assert sum(figures["charts"]["values"]["counts"]) == codes.matrix.nnz
    assert len(figures["model"]["history"]) == 4
    assert figures["drift"]["has_drifted"] is False
    assert "data:image" not in full.to_json()
    assert figures["notes"] == []


def test_the_importance_of_latents_is_the_explained_variance_lost(full, files):
    codes = sparsecode.read_codes(files / "out.h5")
    model = sparsecode.SparseVAETransformer.load(files / "out.safetensors")
    X = Originals([files / "images"], codes).rows(np.arange(N_ROWS)) / 255.0
    whole = diagnostics.explained_variance(X, model.inverse_transform(codes.matrix))
    importance = full.data["atlas"]["columns"]["importance"]
    for latent in np.argsort(importance)[-3:]:
        dense = codes.matrix.toarray()
        dense[:, latent] = 0
        without = diagnostics.explained_variance(X, model.inverse_transform(dense))
        assert importance[latent] == pytest.approx(whole - without, abs=1e-4)


def test_costs_are_those_of_the_model(full, files):
    costs = full.data["model"]["costs"]
    assert costs["elbo"] == pytest.approx(
        -costs["rate_slab"] - costs["rate_spike"] - costs["distortion"], rel=1e-5
    )
    codes = sparsecode.read_codes(files / "out.h5")
    p = codes.metadata["config"]["p"]
    spike = diagnostics.rate_per_latent(codes.matrix, p).spike.sum()
    assert costs["rate_spike"] == pytest.approx(spike, rel=1e-4)


def test_top_images_are_the_originals(full, files):
    atlas = full.data["atlas"]
    codes = sparsecode.read_codes(files / "out.h5")
    originals = Originals([files / "images"], codes)
    for latent in (0, 70, N_LATENTS - 1):
        sheet = picture(atlas["sheets"]["images"][latent // 64])
        for place, row in enumerate(atlas["top"][latent]):
            cell = sheet[latent % 64 * 8 :, place * 8 :][:8, :8]
            expected = originals.rows(np.array([row]))[0].reshape(8, 8) if row >= 0 else 0
            np.testing.assert_array_equal(cell, expected)
        column = codes.matrix[:, [latent]].toarray().ravel()
        shown = [row for row in atlas["top"][latent] if row >= 0]
        assert sorted(column[shown], reverse=True) == sorted(column, reverse=True)[: len(shown)]


def test_pictures_of_changes_are_the_atoms_of_a_linear_decoder(full, files):
    model = sparsecode.SparseVAETransformer.load(files / "out.safetensors")
    for latent in range(0, N_LATENTS, 37):
        sheet = Image.open(io.BytesIO(base64.b64decode(
            full.data["atlas"]["sheets"]["changes"][latent // 64].split(",", 1)[1]
        )))  # fmt: skip
        assert sheet.mode == "P"
        cell = np.asarray(sheet)[latent % 64 * 8 :][:8].astype(float) - 128
        atom = model.components_[latent].reshape(8, 8)
        expected = 127 * atom / np.abs(atom).max()
        np.testing.assert_allclose(cell, expected, atol=1.0)


def test_reconstructions_at_several_p_lose_with_sparsity(full):
    gallery = next(g for g in full.data["galleries"] if g["id"] == "reconstructions")
    labels = [row["label"] for row in gallery["rows"]]
    assert labels[0] == "original"
    explained = [float(re.search(r"explains (\S+) %", label)[1]) for label in labels[1:]]
    trained = next(i for i, label in enumerate(labels[1:]) if "as trained" in label)
    assert explained[trained] == max(explained[trained:])
    nonzeros = [float(re.search(r", (\S+) non-zeros", label)[1]) for label in labels[1:]]
    for before, after in pairwise(nonzeros):
        assert after == pytest.approx(before / 2, rel=0.1)


def test_one_image_is_explained_by_its_own_latents(full, files):
    codes = sparsecode.read_codes(files / "out.h5")
    gallery = next(g for g in full.data["galleries"] if g["id"] == "explained")
    for row in gallery["rows"]:
        i = list(codes.names).index(row["label"])
        latents = [tile["latent"] for tile in row["tiles"] if "latent" in tile]
        assert latents
        assert set(latents) <= set(codes.active_indices(i).tolist())


def test_without_model_and_images_it_says_what_is_left_out(bare, files, open_view):
    assert [note.split(":")[0] for note in bare.data["notes"]] == [
        "Without the model (-m)",
        "Without the inputs (--inputs)",
    ]
    assert bare.data["galleries"] == []
    assert bare.data["model"] is None
    assert bare.data["atlas"]["sheets"] is None
    only_model = sparsecode.report_file(files / "out.h5", open_view=open_view)
    assert [g["id"] for g in only_model.data["galleries"]] == ["explained", "traversals", "samples"]
    only_inputs = sparsecode.report_file(files / "out.h5", inputs=[files / "images"])
    assert "images" in only_inputs.data["atlas"]["sheets"]
    assert "changes" not in only_inputs.data["atlas"]["sheets"]


def test_the_table_shows_verdicts_and_notes(bare):
    console = Console(width=150, record=True, file=io.StringIO())
    console.print(bare)
    text = console.export_text()
    assert "dead latents" in text
    assert "Without the model" in text


def test_the_page_loads_nothing_and_escapes_names(full, hostile):
    for report in (full, hostile):
        page = report.to_html()
        assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", page)
        assert page.count("<script") == 2
        assert page.count("</script>") == 2
    assert "<img src=x" not in hostile.to_html()
    assert hostile.data["atlas"]["names"]


def test_labels_from_a_csv_and_rows_without_one(files, tmp_path):
    codes = sparsecode.read_codes(files / "out.h5")
    lines = [f"{name},{'even' if i % 2 else 'odd'}" for i, name in enumerate(codes.names[:200])]
    (tmp_path / "l.csv").write_text("name,parity\n" + "\n".join(lines))
    report = sparsecode.report_file(files / "out.h5", labels=tmp_path / "l.csv")
    assert report.data["atlas"]["labels"]["classes"] == ["", "even", "odd"]


def test_other_files_are_refused(files, tmp_path):
    with pytest.raises(NoInputError):
        sparsecode.report_file(tmp_path / "none.h5")
    codes = sparsecode.read_codes(files / "out.h5")
    narrow = sparsecode.SparseCodes(codes.matrix[:, :3], codes.names)
    with pytest.raises(RefusedError, match="150 latents, but the codes have 3"):
        sparsecode.model_view.open_view(files / "out.safetensors", narrow)
