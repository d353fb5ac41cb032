"""The flattened view and the unpacked directory are the same, whatever the layers are."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from contextlib import AbstractContextManager
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from container_image_client.documents import Descriptor, Layer
from container_image_client.errors import PathInImageError, WrongContentError
from container_image_client.layers import LayerReader
from container_image_client.tar import TarReader
from container_image_client.tree import Tree
from container_image_client.unpack import Unpacker
from tests.unit.client.test_unpack import LOWER, Entry, archive, directory, entry, hard_link, symlink


def tree_of(*layers: bytes) -> Tree:
    by_diff_id = {f"sha256:{sha256(layer).hexdigest()}": layer for layer in layers}

    def open_layer(layer: Layer) -> AbstractContextManager[LayerReader]:
        return LayerReader(io.BytesIO(by_diff_id[layer.diff_id]), layer.diff_id)

    described = [
        Layer(Descriptor("", diff_id, 0), diff_id)
        for diff_id in (f"sha256:{sha256(one).hexdigest()}" for one in layers)
    ]
    return Tree(described, open_layer)


names = st.sampled_from(["a", "b", "a/b", "a/b/c", "b/a", "./a/c", "/b/c"])
whiteouts = st.sampled_from(
    [".wh.a", "a/.wh.b", "a/.wh..wh..opq", "b/.wh.a", ".wh..wh..opq", "a/b/.wh.c", ".wh..wh.plnk"]
)
members = st.one_of(
    st.builds(directory, names, st.sampled_from([0o700, 0o755])),
    st.builds(entry, names, st.binary(max_size=3)),
    st.builds(symlink, names, st.sampled_from(["b", "/a", "../x"])),
    st.builds(entry, whiteouts),
)


def unpacked(layers: list[bytes]) -> dict[str, tuple[str, bytes]]:
    with tempfile.TemporaryDirectory() as name:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY)
        try:
            unpacker = Unpacker(descriptor)
            for layer in layers:
                unpacker.apply(TarReader(iter([layer, b"", b""]).__next__))
        finally:
            os.close(descriptor)
        found = {}
        for path in Path(name).rglob("*"):
            kind = "symbolic link" if path.is_symlink() else "directory" if path.is_dir() else "file"
            found[str(path.relative_to(name))] = (kind, path.read_bytes() if kind == "file" else b"")
        shutil.rmtree(name)
        Path(name).mkdir()
        return found


@example([[directory("a"), entry("a/b", b"lower")], [entry("a", b""), directory("a")]])
@given(st.lists(st.lists(members, max_size=6), min_size=1, max_size=4))
def test_both_show_the_same(layers: list[list[Entry]]) -> None:
    archives = [archive(*entries) for entries in layers]
    tree = tree_of(*archives)
    try:
        expected = unpacked(archives)
    except WrongContentError:
        with pytest.raises(WrongContentError):
            tree.entries(recursive=True)
        return
    found = {}
    for one in tree.entries(recursive=True):
        content = io.BytesIO()
        if one.kind == "file":
            tree.read(one.path, content)
        found[os.fsdecode(one.path)] = (one.kind, content.getvalue())
        assert tree.find(one.path) is not None
    assert found == expected


def test_attributes_of_a_directory_are_those_of_the_highest_layer_that_has_a_member_for_it() -> None:
    layers = [archive(directory("d", 0o700)), archive(directory("d", 0o710)), archive(entry("d/x"))]
    assert tree_of(*layers).resolve(b"d").mode == tree_of(*layers).entries()[0].mode == 0o710


def test_only_the_layers_that_decide_are_read() -> None:
    upper = archive(directory("d"), entry("d/a", b"new"))
    tree = tree_of(b"no archive, and not read", upper)
    content = io.BytesIO()
    tree.read(b"d/a", content)
    assert content.getvalue() == b"new"


def test_a_hard_link_is_read_as_its_own_layer_saw_the_file() -> None:
    tree = tree_of(
        archive(*LOWER), archive(hard_link("link", "d/a"), entry("d/.wh.a")), archive(entry("d/b", b"other"))
    )
    content = io.BytesIO()
    tree.read(b"link", content)
    assert content.getvalue() == b"a"


@pytest.mark.demand("TAR-loop")
@pytest.mark.parametrize(
    "entries", [[symlink("a", "a")], [symlink("a", "b"), symlink("b", "a/x")], [hard_link("a", "a")]]
)
def test_links_that_lead_nowhere_end(entries: list[Entry]) -> None:
    with pytest.raises((PathInImageError, WrongContentError)):
        tree_of(archive(*entries)).read(b"a", io.BytesIO())
