import io
import os
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecode.errors import NoInputError, RefusedError
from sparsecode.inputs import Selection, list_images, read_list
from sparsecode.listing import encode_name


@pytest.fixture
def tree(tmp_path):
    """A folder like the ones that people have."""
    for name in (
        "data/b/2.png",
        "data/b/10.PNG",
        "data/a/deep/x.jpeg",
        "data/root.bmp",
        "data/notes.txt",
        "data/.hidden.png",
        "data/.git/object.png",
        "data/é ☃/ü.tiff",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "data"


def test_folder_is_searched_to_any_depth_in_byte_order(tree):
    listing = list_images([tree])
    assert listing.names == ["a/deep/x.jpeg", "b/10.PNG", "b/2.png", "root.bmp", "é ☃/ü.tiff"]
    assert listing.labels == ["deep", "b", "b", "", "é ☃"]
    assert [Path(file.path) for file in listing] == [tree / n for n in listing.names]
    assert len(listing) == 5


def test_labels_are_none_without_folders(tree):
    listing = list_images([tree / "b"])
    assert listing.labels is None
    assert [file.label for file in listing] == [None, None]


def test_named_file_is_listed_whatever_its_extension(tree):
    assert list_images([tree / "notes.txt"]).names == ["notes.txt"]
    assert list_images([str(tree / ".hidden.png")]).names == [".hidden.png"]


def test_several_inputs_are_told_apart_by_their_own_names(tree, monkeypatch):
    listing = list_images([tree / "b", tree / "a", tree / "root.bmp"])
    assert listing.names == ["a/deep/x.jpeg", "b/10.PNG", "b/2.png", "root.bmp"]
    assert listing.labels == ["deep", "b", "b", ""]
    monkeypatch.chdir(tree / "b")
    assert list_images([".", "../a"]).names == ["a/deep/x.jpeg", "b/10.PNG", "b/2.png"]
    assert list_images(["."]).names == ["10.PNG", "2.png"]


def test_equal_names_are_refused_with_both_paths(tree):
    (tree / "a/2.png").touch()
    with pytest.raises(RefusedError, match=r"a/2\.png.*b/2\.png.*would both be called '2\.png'"):
        list_images([tree / "a/2.png", tree / "b/2.png"])
    with pytest.raises(RefusedError, match="would both be called"):
        list_images([tree, tree])


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.bmp", ["root.bmp"]),
        ("b/*", ["10.PNG", "2.png"]),
        ("?/*.png", ["b/2.png"]),
        ("**/*.[jt]*", ["a/deep/x.jpeg", "é ☃/ü.tiff"]),
        ("**", ["a/deep/x.jpeg", "b/10.PNG", "b/2.png", "root.bmp", "é ☃/ü.tiff"]),
        ("[ab]", ["a/deep/x.jpeg", "b/10.PNG", "b/2.png"]),
        ("a/**/x.jpeg", ["deep/x.jpeg"]),
    ],
)
def test_patterns(tree, pattern, names):
    assert list_images([tree / pattern]).names == names


def test_an_existing_name_is_not_a_pattern(tree):
    (tree / "x[1].png").touch()
    assert list_images([tree / "x[1].png"]).names == ["x[1].png"]


@pytest.mark.parametrize("missing", ["nowhere", "nowhere/*.png", "a\0b"])
def test_missing_path_is_named(tree, missing):
    with pytest.raises(NoInputError, match="does not exist"):
        list_images([tree / "b", tree / missing])


@pytest.mark.parametrize("inputs", [["empty"], ["*.xyz"], []])
def test_nothing_found_says_what_was_looked_for(tree, inputs):
    (tree / "empty").mkdir()
    with pytest.raises(NoInputError, match=r"no images in .* ending in .*\.png"):
        list_images([tree / item for item in inputs])


def test_linked_folders_are_followed_on_request_and_never_twice(tree):
    (tree / "0link").symlink_to(tree / "b")
    (tree / "a/loop").symlink_to(tree)
    (tree / "a/self.png").symlink_to("self.png")
    (tree / "linked.png").symlink_to(tree / "b/2.png")
    outside = tree.parent / "outside"
    outside.mkdir()
    (outside / "o.gif").touch()
    (tree / "b/out").symlink_to(outside)
    plain = list_images([tree]).names
    assert "linked.png" in plain
    assert "a/self.png" in plain  # its reading will fail, with a reason
    followed = list_images([tree], Selection(follow_symlinks=True)).names
    assert followed == sorted([*plain, "b/out/o.gif"], key=os.fsencode)


def test_many_links_between_folders_do_not_multiply(tmp_path):
    for a in range(8):
        (tmp_path / f"d{a}").mkdir()
        (tmp_path / f"d{a}/x.png").touch()
        for b in range(8):
            (tmp_path / f"d{a}/to{b}").symlink_to(tmp_path / f"d{b}")
    assert len(list_images([tmp_path], Selection(follow_symlinks=True))) == 8
    assert len(list_images([tmp_path / "**"], Selection(follow_symlinks=True))) == 8


def test_unreadable_folder_is_an_error(tree, monkeypatch):
    scandir = os.scandir

    def deny(path):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    with pytest.raises(RefusedError, match=r"b' cannot be searched \(Permission denied\)"):
        list_images([tree])


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b"plain \xc3\xa9.png", "plain é.png"),
        (b"100%.png", "100%.png"),
        (b"bad\xff.png", "bad%FF.png"),
        (b"bad%FF.png", "bad%25FF.png"),
        (b"a\nb\x7f.png", "a%0Ab%7F.png"),
        (b"%2\xff.png", "%2%FF.png"),
        (b"%%41.png", "%%2541.png"),
    ],
)
def test_strange_names_are_encoded_and_can_be_opened(tmp_path, raw, name):
    path = os.fsencode(tmp_path) + b"/" + raw
    with open(path, "wb") as file:  # noqa: PTH123 - a bytes path
        file.write(b"content")
    (file,) = list_images([tmp_path])
    assert file.name == name
    assert Path(file.path).read_bytes() == b"content"


@given(st.binary(min_size=1).filter(lambda raw: b"\0" not in raw))
def test_name_encoding_can_be_undone(raw):
    name = encode_name(os.fsdecode(raw))
    assert unquote_to_bytes(name) == raw
    assert name.encode("utf-8").decode("utf-8") == name
    assert not any(ord(c) < 32 or ord(c) == 127 for c in name)


def test_hash_depends_on_names_and_order_only(tree, tmp_path):
    before = list_images([tree]).sha256
    (tree / "root.bmp").write_bytes(b"other content")
    assert list_images([tree]).sha256 == before
    (tree / "root.bmp").rename(tree / "root2.bmp")
    assert list_images([tree]).sha256 != before
    assert len(before) == 64


@pytest.mark.parametrize(
    ("include", "exclude", "names"),
    [
        (("*.png",), (), ["b/2.png"]),
        (("*.png", "*.PNG"), (), ["b/10.PNG", "b/2.png"]),
        ((), ("b/*", "*.bmp"), ["a/deep/x.jpeg", "é ☃/ü.tiff"]),
        (("**/deep/*",), (), ["a/deep/x.jpeg"]),
        (("**",), ("**",), []),
    ],
)
def test_include_and_exclude(tree, include, exclude, names):
    selection = Selection(include, exclude)
    if names:
        assert list_images([tree], selection).names == names
    else:
        with pytest.raises(NoInputError):
            list_images([tree], selection)


@pytest.mark.parametrize("null", [False, True])
def test_a_list_of_paths_keeps_them_as_names(tree, monkeypatch, null):
    monkeypatch.chdir(tree)
    paths = ["b/2.png", "./a/deep/x.jpeg", str(tree / "root.bmp"), "gone.png"]
    text = "".join(path + ("\0" if null else "\n") for path in paths)
    listed = read_list(io.BytesIO(text.encode()), null)
    assert listed == paths
    listing = list_images([], listed=listed)
    absolute = str(tree / "root.bmp").lstrip("/")
    assert listing.names == sorted(["a/deep/x.jpeg", "b/2.png", "gone.png", absolute])
    assert {file.name: Path(file.path) for file in listing}[absolute] == tree / "root.bmp"
    with pytest.raises(RefusedError, match="NUL"):
        list_images([], listed=["a\0b"])


def test_the_order_does_not_depend_on_how_it_was_asked_for(tree):
    whole = list_images([tree])
    listed = list_images([], listed=reversed([file.path for file in whole]))
    assert [file.path for file in listed] == [file.path for file in whole]
