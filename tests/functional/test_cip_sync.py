"""What a power cut could spoil: what has a name is on the disk before, and the name is when the library returns."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from container_image_client import Client, destination
from container_image_client.image_directory import ImageDirectory
from container_image_client.layout import LayoutPath
from container_image_client.pull import pull
from container_image_client.rootfs import unpack
from tests.support.daemon import stand_alone, write_policy
from tests.support.layouts import StoredImage, single_image
from tests.support.privilege import needs_root, ordinary_user, public_directory

Events = list[tuple[str, str]]


@pytest.fixture
def image(tmp_path: Path) -> StoredImage:
    return single_image(tmp_path / "layout")


@pytest.fixture
def client(tmp_path: Path, image: StoredImage) -> Iterator[Client]:
    policy = write_policy(tmp_path)
    with stand_alone(tmp_path / "daemon", ["--policy", str(policy), f"oci:{tmp_path}/layout:latest"]) as daemon:
        yield Client(daemon.socket)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Events:
    """What is written out, and which names are given, in order."""
    events: Events = []
    fsync, sync_file_system, rename, exchange = (
        os.fsync,
        destination._sync_file_system,
        os.rename,
        destination._exchange,
    )

    def path_of(descriptor: int) -> str:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink())

    def record_fsync(descriptor: int) -> None:
        events.append(("fsync", path_of(descriptor)))
        fsync(descriptor)

    def record_sync_file_system(descriptor: int) -> None:
        events.append(("syncfs", path_of(descriptor)))
        sync_file_system(descriptor)

    def record_rename(source: str, target: str, **options: int) -> None:
        events.append(("rename", str(target)))
        rename(source, target, **options)

    def record_exchange(directory: int, one: str, other: str) -> None:
        events.append(("exchange", other))
        exchange(directory, one, other)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "rename", record_rename)
    monkeypatch.setattr(destination, "_sync_file_system", record_sync_file_system)
    monkeypatch.setattr(destination, "_exchange", record_exchange)
    return events


def test_a_layout_names_an_image_whose_blobs_are_on_the_disk(
    client: Client, image: StoredImage, events: Events, tmp_path: Path
) -> None:
    place = tmp_path / "pulled"
    pull(client, LayoutPath(place, None))
    names = [event for event in events if event[0] == "rename"]
    for digest in image.blobs:
        renamed = ("rename", str(place / "blobs" / digest.replace(":", "/")))
        part = ("fsync", str(place / ".cip" / digest.replace(":", "-")))
        assert events.index(part) < events.index(renamed) < events.index(("fsync", str(place / "blobs/sha256")))
    assert names[-1] == ("rename", str(place / "index.json"))
    *before, last = events
    assert last == ("fsync", str(place))
    for directory in (place / "blobs/sha256", place / "blobs", place, tmp_path):
        assert ("fsync", str(directory)) in before[: before.index(names[-1])]


@pytest.mark.parametrize("name", ["rename", "exchange"])
def test_a_directory_has_its_name_after_all_that_is_in_it(
    client: Client, events: Events, tmp_path: Path, name: str
) -> None:
    def make(what: str, place: Path) -> None:
        if what == "root":
            unpack(client, place, replace=True)
        else:
            pull(client, ImageDirectory(place))

    for what in ("root", "image"):
        place = tmp_path / what / "made"
        place.parent.mkdir()
        if name == "exchange":
            make(what, place)
        events.clear()
        make(what, place)
        synced = events.index(("syncfs", str(place.with_name(".made.cip"))))
        assert events[synced + 1 :] == [(name, "made"), ("fsync", str(place.parent))]


@needs_root
def test_a_directory_that_may_not_be_listed_can_be_written_to(tmp_path: Path) -> None:
    with public_directory() as place:
        place.chmod(0o333)
        with ordinary_user():
            destination.write_file(place / "file", b"x", sync=True)
        assert (place / "file").read_bytes() == b"x"


def test_who_does_not_want_to_wait_does_not(client: Client, events: Events, tmp_path: Path) -> None:
    pull(client, LayoutPath(tmp_path / "layout-of-mine", None), sync=False)
    pull(client, ImageDirectory(tmp_path / "directory"), sync=False)
    unpack(client, tmp_path / "root", sync=False)
    assert [event for event in events if "sync" in event[0]] == []
