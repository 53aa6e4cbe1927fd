"""No foreign ``.h5`` given as input does more than raise one kind of error."""

import h5py
import hostile_arrays
import hostile_limits
import pytest
from hostile_arrays import KINDS
from hostile_codes import EDITS, small_codes, small_file

from sparsecode.arrays import open_array
from sparsecode.errors import RefusedError


def all_read(path):
    array = open_array(path)
    n_rows = 0
    for start in range(0, array.shape[0], 1000):
        n_rows += array.read(start, start + 1000).shape[0]
        array.names(start, start + 1000)
        if array.has_labels:
            array.labels(start, start + 1000)
    return n_rows


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_refused_quickly_and_in_little_memory(tmp_path, name):
    path = hostile_arrays.make(name, tmp_path)
    with hostile_limits.measured() as cost:
        with pytest.raises(RefusedError) as caught:
            all_read(path)
        assert str(path) in str(caught.value)
        assert str(caught.value).isprintable()
    assert cost.seconds < hostile_limits.SECONDS
    assert cost.mebibytes < hostile_limits.MEBIBYTES


@pytest.mark.parametrize("name", sorted(EDITS.keys() - hostile_arrays.SPARSE.keys()))
def test_what_is_wrong_with_codes_is_read_or_refused_as_rows(tmp_path, name):
    path = tmp_path / "rows.h5ad"
    small_file(path)
    with h5py.File(path, "r+") as file:
        EDITS[name](file)
    try:
        n_rows = all_read(path)
    except RefusedError:
        return
    assert n_rows == len(small_codes())
