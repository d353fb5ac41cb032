"""What is kept of resolved images, in memory and on disk, and what goes first."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.core.snapshot_store import KEPT, MAX_SIZE, SnapshotStore
from container_image_proxy.core.stored_image import StoredImage, decode, encode
from container_image_proxy.errors import Error
from container_image_proxy.image.digest import digest_of
from container_image_proxy.image.manifest import Manifest, UntrustedManifest, parse_manifest
from container_image_proxy.image.platform import Platform
from container_image_proxy.image.signature import UntrustedSignature
from tests.support.layouts import OCI_CONFIG, OCI_MANIFEST
from tests.support.privilege import needs_root, ordinary_user, public_directory

SHELF = "os"
KIB = 1024


def stored(number: int, size: int = 0) -> StoredImage:
    """An image with a signature of ``size`` bytes."""
    config = {"mediaType": OCI_CONFIG, "digest": str(digest_of(str(number).encode())), "size": 1}
    document = {"schemaVersion": 2, "config": config, "layers": []}
    manifest = parse_manifest(UntrustedManifest(json.dumps(document).encode(), OCI_MANIFEST))
    assert isinstance(manifest, Manifest)
    signature = UntrustedSignature("simple", bytes(size), annotations={"a": "b"}, source="somewhere")
    platform = Platform("linux", "amd64")
    return StoredImage("os", platform, "reference", "place", (), manifest, {manifest.digest: (signature,)})


def files(directory: Path, shelf: str = SHELF) -> list[Path]:
    return sorted((directory / shelf).iterdir())


# --- which are kept ---------------------------------------------------------------------------------------------------


def test_a_tag_that_goes_to_and_fro_pushes_nothing_off_the_shelf(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    images = [stored(number) for number in range(3)]
    for one in [*images, *images[1:] * KEPT]:
        store.add(SHELF, one)
    expected = (images[2], images[1], images[0])
    assert store.of(SHELF) == expected
    assert SnapshotStore(tmp_path).of(SHELF) == expected
    assert len(files(tmp_path)) == len(images)


def test_what_is_on_disk_already_is_not_written_again(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    for number in range(2):
        store.add(SHELF, stored(number))
    before = {path.stat().st_ino for path in files(tmp_path)}
    store.add(SHELF, stored(0))
    assert {path.stat().st_ino for path in files(tmp_path)} == before
    assert SnapshotStore(tmp_path).of(SHELF)[0] == stored(0)


def test_a_shelf_keeps_the_newest(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    for number in range(KEPT + 2):
        store.add(SHELF, stored(number))
    kept = tuple(stored(number) for number in reversed(range(2, KEPT + 2)))
    assert store.of(SHELF) == SnapshotStore(tmp_path).of(SHELF) == kept
    assert len(files(tmp_path)) == KEPT


@pytest.mark.demand("LIM-manifest")
def test_of_what_is_too_much_the_largest_shelf_loses_its_oldest(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    store.add("modest", stored(0, 100 * KIB))
    for number in range(1, 5):
        store.add("greedy", stored(number, MAX_SIZE // 3))
    assert [len(store.of(shelf)) for shelf in ("modest", "greedy")] == [1, 2]
    assert store.of("greedy")[0] == stored(4, MAX_SIZE // 3)
    assert [len(files(tmp_path, shelf)) for shelf in ("modest", "greedy")] == [1, 2]
    assert len(store.kept()) == 3


@pytest.mark.demand("LIM-manifest")
def test_what_is_larger_than_all_that_may_be_kept_is_not_kept_and_pushes_nothing_out(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    store.add("modest", stored(0))
    store.add("greedy", stored(1, MAX_SIZE + 1))
    assert [len(store.of(shelf)) for shelf in ("modest", "greedy")] == [1, 0]
    assert [len(files(tmp_path, shelf)) for shelf in ("modest",)] == [1]
    assert not (tmp_path / "greedy").exists()


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_stored_image_is_read_as_it_was_written() -> None:
    image = stored(1, 5)
    assert decode(io.BytesIO(b"".join(encode(image)))) == image


@given(st.data())
def test_any_other_bytes_are_no_stored_image_or_one(data: st.DataObject) -> None:
    content = b"".join(encode(stored(1, 5)))
    place = data.draw(st.integers(0, len(content)))
    rest = content[data.draw(st.integers(place, len(content))) :]
    changed = content[:place] + data.draw(st.binary(max_size=8)) + rest
    with contextlib.suppress(Error):
        assert isinstance(decode(io.BytesIO(changed)), StoredImage)


def test_a_size_that_no_file_has_takes_no_memory(tmp_path: Path) -> None:
    header, _, rest = b"".join(encode(stored(1, 5))).partition(b"\n")
    changed = json.loads(header)
    changed["state"] = 1 << 62
    (tmp_path / "changed").write_bytes(json.dumps(changed).encode() + b"\n" + rest)
    with (tmp_path / "changed").open("rb") as file, pytest.raises(Error, match="ends early"):
        decode(file)


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_link(path: Path) -> None:
    content = path.parent / "elsewhere"
    content.write_bytes(b"".join(encode(stored(7))))
    path.symlink_to(content)


def make_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.demand("DIR-symlink")
@pytest.mark.parametrize("make", [make_fifo, make_link, make_device, Path.mkdir, lambda path: path.write_bytes(b"{")])
@pytest.mark.parametrize("name", [f"{9:020d}.snapshot", f"{0:020d}.snapshot", "x.snapshot"])
def test_what_is_no_snapshot_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: object, name: str
) -> None:
    SnapshotStore(tmp_path).add(SHELF, stored(1))
    make(tmp_path / SHELF / name)  # type: ignore[operator]
    store = SnapshotStore(tmp_path)
    assert store.of(SHELF) == (stored(1),)
    assert f"ignoring the snapshot {tmp_path / SHELF / name}" in caplog.text
    store.add(SHELF, stored(2))
    assert SnapshotStore(tmp_path).of(SHELF) == (stored(2), stored(1))


@pytest.mark.demand("sigkill")
@pytest.mark.parametrize("make", [make_fifo, make_link, lambda path: path.write_bytes(bytes(100))])
def test_what_a_killed_process_left_unfinished_is_replaced(tmp_path: Path, make: object) -> None:
    (tmp_path / SHELF).mkdir()
    make(tmp_path / SHELF / ".new")  # type: ignore[operator]
    SnapshotStore(tmp_path).add(SHELF, stored(1))
    assert SnapshotStore(tmp_path).of(SHELF) == (stored(1),)
    assert not (tmp_path / SHELF / ".new").exists()


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for a small snapshot and no more."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


@needs_root
@pytest.mark.demand("disk-full")
def test_a_full_disk_costs_the_file_and_leaves_nothing_behind(
    full_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = SnapshotStore(full_disk)
    store.add(SHELF, stored(1))
    large = stored(2, 100 * KIB)
    store.add(SHELF, large)
    assert "No space left on device" in caplog.text
    assert store.of(SHELF) == (large, stored(1))
    assert len(files(full_disk)) == 1
    store.add(SHELF, stored(3))
    assert SnapshotStore(full_disk).of(SHELF) == (stored(3), stored(1))


@pytest.mark.parametrize("closed", [".", SHELF])
def test_a_directory_that_is_not_ours_costs_the_files_and_no_request(
    closed: str, caplog: pytest.LogCaptureFixture
) -> None:
    with public_directory() as directory:
        SnapshotStore(directory).add(SHELF, stored(1))
        (directory / closed).chmod(0)
        with ordinary_user():
            store = SnapshotStore(directory)
            assert store.of(SHELF) == ()
            store.add(SHELF, stored(2))
            assert store.of(SHELF) == (stored(2),)
        (directory / closed).chmod(0o755)
    assert "Permission denied" in caplog.text
