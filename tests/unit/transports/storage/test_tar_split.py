"""A tar-split: segments and files in their order, within bounds."""

from __future__ import annotations

import base64
import gzip
import io
import json

import pytest

from container_image_proxy.errors import IntegrityError
from container_image_proxy.transports.storage import tar_split
from container_image_proxy.transports.storage.tar_split import FileContent, read_entries
from tests.support.stores import pack


def read(raw: bytes) -> list[bytes | FileContent]:
    return list(read_entries(io.BytesIO(raw), "layer: the tar-split"))


def segment(content: bytes) -> dict[str, object]:
    return {"type": 2, "payload": base64.b64encode(content).decode()}


def test_segments_and_files_come_in_their_order() -> None:
    entries = [
        segment(b"header"),
        {"type": 1, "name": "etc/motd", "size": 5, "payload": "AAAAAAAAAAA="},
        segment(b"\0"),
    ]
    assert read(pack(entries)) == [b"header", FileContent(b"etc/motd", 5), b"\0"]


def test_empty_files_and_segments_are_left_out() -> None:
    entries = [{"type": 1, "name": "dir", "payload": None}, {"type": 2, "payload": None}, segment(b"end")]
    assert read(pack(entries)) == [b"end"]


def test_a_name_that_is_not_utf_8_comes_as_its_bytes() -> None:
    raw = base64.b64encode(b"caf\xe9").decode()
    assert read(pack([{"type": 1, "name_raw": raw, "size": 1}])) == [FileContent(b"caf\xe9", 1)]


def test_several_members_of_gzip_are_one_tar_split() -> None:
    assert read(pack([segment(b"a")]) + pack([segment(b"b")])) == [b"a", b"b"]


def test_unknown_members_of_an_entry_are_ignored() -> None:
    assert read(pack([segment(b"a") | {"position": 0, "new": {"x": 1}}])) == [b"a"]


@pytest.mark.parametrize(
    "raw",
    [
        b"no gzip",
        pack([segment(b"x" * 100)])[:-20],
        gzip.compress(b"{"),
        gzip.compress(b'{"type": 3}'),
        gzip.compress(b'{"type": 1, "name": "x", "size": -1}'),
        gzip.compress(b'{"type": 1, "name": "x", "size": "1"}'),
        gzip.compress(b'{"type": 2, "payload": "%%%"}'),
        gzip.compress(b"[]"),
    ],
    ids=["no-gzip", "cut", "no-json", "unknown-type", "negative", "size-is-text", "no-base64", "no-object"],
)
def test_what_is_no_tar_split_is_told_with_its_place(raw: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"^layer: the tar-split: entry 1 "):
        read(raw)


def test_an_entry_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_split, "MAX_ENTRY_SIZE", 1000)
    with pytest.raises(IntegrityError, match="entry 1 is larger than 1000 bytes"):
        read(pack([segment(b"x" * 1000)]))


def test_the_number_of_entries_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_split, "MAX_ENTRIES", 10)
    line = json.dumps({"type": 1, "name": "x"}).encode() + b"\n"
    with pytest.raises(IntegrityError, match="more than 10 entries"):
        read(gzip.compress(line * 11))
