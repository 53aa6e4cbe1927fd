"""No file of codes, whatever it is, does more than raise one kind of error."""

import h5py
import hostile_codes
import hostile_limits
import numpy as np
import pytest
from hostile_codes import KINDS, ONLY_VERIFIED, STRUCTURE, small_codes, small_file
from typer.testing import CliRunner

from sparsecode.cli import app
from sparsecode.codes import SparseCodes
from sparsecode.decoding import decode_file
from sparsecode.errors import CodesFormatError, RefusedError
from sparsecode.images import ImageOptions
from sparsecode.storage import (
    describe_codes,
    iterate_codes,
    read_codes,
    read_failures,
    verify_codes,
    write_codes,
)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return small_file(tmp_path_factory.mktemp("good") / "codes.h5")


def iterated(path):
    return list(iterate_codes(path, 100))


def shows(name):
    """Whether the structure alone, without the rows, tells that it is wrong."""
    group, _, rest = name.partition(": ")
    return group == "file" or rest in STRUCTURE


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_refused_quickly_and_in_little_memory(tmp_path, good, name):
    path = hostile_codes.make(name, tmp_path, good)
    readers = [read_codes, iterated]
    readers += [describe_codes, read_failures] if shows(name) else []
    with hostile_limits.measured() as cost:
        for read in readers:
            with pytest.raises(CodesFormatError) as caught:
                read(path)
            message = str(caught.value)
            assert message.startswith(str(path))
            assert message.isprintable()
            assert len(message) < len(str(path)) + 1000
        problems = verify_codes(path)
        assert problems
        assert all(problem.isprintable() for problem in problems)
    assert cost.seconds < hostile_limits.SECONDS
    assert cost.mebibytes < hostile_limits.MEBIBYTES


@pytest.mark.parametrize("name", ONLY_VERIFIED)
def test_what_the_structure_does_not_show_is_found_by_the_hash(tmp_path, good, name):
    path = hostile_codes.make(f"codes: {name}", tmp_path, good)
    assert len(read_codes(path)) == len(small_codes())
    problems = verify_codes(path)
    assert problems
    assert all(problem.isprintable() for problem in problems)


def test_there_are_many_kinds_and_what_they_are_made_from_is_good(tmp_path, good):
    assert len(KINDS) >= 100
    path = tmp_path / "codes.h5"
    path.write_bytes(good)
    assert verify_codes(path) == []
    assert read_codes(path).shape == small_codes().shape


@pytest.mark.parametrize("config", [[], "x", {"x": list(range(3_000_000))}])
def test_a_config_that_could_not_be_read_is_not_written(tmp_path, config):
    codes = small_codes()
    object.__setattr__(codes, "metadata", {"config": config})
    with pytest.raises(ValueError, match=r"JSON object|more than 2,097,152 values"):
        write_codes(tmp_path / "codes.h5", codes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["info", "verify", "decode"])
def test_no_text_of_a_file_commands_the_terminal(tmp_path, command):
    codes = small_codes()
    config = {"model": "\33[2J.safetensors", "x": "\u202e"}
    object.__setattr__(codes, "metadata", {"config": config})
    write_codes(tmp_path / "codes.h5", codes)
    with h5py.File(tmp_path / "codes.h5", "r+") as file:
        file["uns/sparsecode/content_sha256"][()] = "\33[2J"
    arguments = [str(tmp_path / "codes.h5"), *([str(tmp_path / "out")] * (command == "decode"))]
    result = CliRunner().invoke(app, [command, *arguments])
    said = result.output
    assert "\\x1b[2J" in said
    assert "\33" not in said
    assert "\u202e" not in said


@pytest.mark.parametrize("name", ["../out.png", "/tmp/out.png", "a/../../out", "..\\out", "C:out"])
def test_no_name_of_a_row_leads_out_of_the_folder(tmp_path, digits, make, name):
    model = make(n_components=20).fit(digits[:60])
    model.image_options_ = ImageOptions(8, 8, 1).to_dict()
    model.save(tmp_path / "m.safetensors")
    names = np.array([name], dtype=object)
    write_codes(tmp_path / "codes.h5", SparseCodes(small_codes().matrix[:1], names))
    with pytest.raises(RefusedError, match="would be written outside of"):
        decode_file(
            tmp_path / "codes.h5", tmp_path / "in" / "side", model=tmp_path / "m.safetensors"
        )
    assert not [path for path in tmp_path.rglob("*out*")]
