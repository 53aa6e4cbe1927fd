"""A listing gives back what it was made of, in any slices, from bytes too."""

import os
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecode.listing import Listing, Root, encode_name

ROOTS = (Root("", "/data"), Root("b/", "some/where"))
_RAW = st.binary(min_size=1, max_size=12).filter(lambda raw: b"\0" not in raw and b"/" not in raw)


@st.composite
def _entries(draw):
    names = draw(st.lists(_RAW, min_size=1, max_size=30, unique=True))
    roots = draw(st.lists(st.integers(0, 1), min_size=len(names), max_size=len(names)))
    prefixes = [os.fsencode(ROOTS[root].prefix) for root in roots]
    return sorted((p + n, r) for p, n, r in zip(prefixes, names, roots, strict=True))


@given(entries=_entries(), repeat=st.sampled_from([1, 60]), data=st.data())
def test_a_listing_gives_back_its_files(entries, repeat, data):
    entries = [(name + b"%d" % i, root) for name, root in entries for i in range(repeat)]
    listing = Listing.of(ROOTS, entries)
    again = Listing.from_bytes(listing.to_bytes())
    for read in (listing, again):
        files = list(read)
        assert [file.name for file in files] == [encode_name(os.fsdecode(n)) for n, _ in entries]
        for file, (name, root) in zip(files, entries, strict=True):
            relative = os.fsdecode(name)[len(ROOTS[root].prefix) :]
            assert file.path == f"{ROOTS[root].folder}/{relative}"
        start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(files))] * 2)))
        assert read[start:stop] == files[start:stop]
        assert list(read.sample(range(start, stop, 3))) == files[start:stop:3]
        assert len(read) == len(entries)
    joined = b"".join(file.name.encode() + b"\0" for file in files)
    assert listing.sha256 == again.sha256 == sha256(joined).hexdigest()


def test_a_million_names_take_little_memory():
    entries = ((b"folder_%04d/image_%07d.png" % (i // 1000, i), 0) for i in range(100_000))
    listing = Listing.of(ROOTS, entries)
    assert sum(map(len, listing.blocks)) < 10 * len(listing)
    assert listing[99_999:][0].name == "folder_0099/image_0099999.png"


@pytest.mark.parametrize("data", [b"", b"x\ny\nz", b"sparsecode listing 2\n{}\n"])
def test_other_bytes_are_refused(data):
    with pytest.raises(ValueError, match=r"listing|unpack"):
        Listing.from_bytes(data)
