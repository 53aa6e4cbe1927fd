"""The fuzz targets without a fuzzer: their seeds, and each seed changed at random."""

import fuzz_codes
import fuzz_model
import fuzzing
import pytest


@pytest.mark.parametrize("module", [fuzz_model, fuzz_codes])
def test_what_becomes_of_hostile_files_when_changed(module):
    seeds = module.seeds()
    assert len(seeds) > 80
    for i, seed in enumerate(seeds):
        module.target(module.mutated(seed, i))
    for seed in seeds[::9]:
        module.target(seed)


def test_a_target_tells_of_other_errors(monkeypatch):
    def fail(path):
        raise KeyError("x")

    seed = fuzz_codes.seeds()[0]
    monkeypatch.setattr(fuzz_codes, "read_codes", fail)
    with pytest.raises(KeyError):
        fuzz_codes.target(seed)
    monkeypatch.setattr(fuzz_model, "describe_model", fail)
    with pytest.raises(KeyError):
        fuzz_model.target(b"")


def test_changes_are_those_of_their_seed():
    data = bytes(range(200))
    changed = {fuzzing.changed(data, seed, 100) for seed in range(50)}
    assert len(changed) == 50
    assert fuzzing.changed(data, 3, 100) == fuzzing.changed(data, 3, 100)
    assert all(len(fuzzing.changed(b"", seed, 100)) == 0 for seed in range(5))
