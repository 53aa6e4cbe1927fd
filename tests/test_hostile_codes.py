"""No file of codes, whatever it is, does more than raise one kind of error."""

import hostile_codes
import hostile_limits
import pytest
from hostile_codes import KINDS, ONLY_VERIFIED, STRUCTURE, small_codes, small_file

from sparsecode.errors import CodesFormatError
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
