"""What is left, and what is said, when a new file or directory cannot be made or put in place as a whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from container_image_client.destination import NewDirectory, NewFile
from container_image_client.errors import DestinationError
from tests.support.privilege import ORDINARY_UID, needs_root, ordinary_user, public_directory

PROTECTED = Path("/proc/sys/fs/protected_symlinks")


@needs_root
def test_the_new_directory_is_in_place_and_the_error_says_so() -> None:
    with public_directory() as place:
        rootfs = place / "rootfs"
        (rootfs / "of-root/within").mkdir(parents=True)  # as systemd makes mount points in a service's root
        for path in (place, rootfs):
            os.chown(path, ORDINARY_UID, ORDINARY_UID)
        with ordinary_user(), NewDirectory(rootfs, replace=True) as new:
            os.mkdir("new", dir_fd=new.descriptor)
            with pytest.raises(DestinationError, match="is in place, but") as caught:
                new.commit()
        assert caught.value.remedy.startswith(f"remove {place}/.rootfs.cip ")
        assert [path.name for path in rootfs.iterdir()] == ["new"]
        assert (place / ".rootfs.cip/of-root/within").is_dir()


def test_of_a_file_that_cannot_be_closed_nothing_is_left(tmp_path: Path) -> None:
    def write() -> None:
        with NewFile(tmp_path / "new") as new:
            new.file.write(b"still in the buffer")
            os.close(new.file.fileno())

    with pytest.raises(OSError, match="Bad file descriptor"):
        write()
    assert list(tmp_path.iterdir()) == []


@needs_root
@pytest.mark.skipif(
    PROTECTED.read_text() != "1\n", reason="needs a kernel with fs.protected_symlinks=1, as Debian has it"
)
@pytest.mark.parametrize("target", ["full", "file", "absent"])
def test_a_link_that_another_user_planted_where_all_may_write_is_not_followed(tmp_path: Path, target: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/kept").touch()
    (tmp_path / "file").write_bytes(b"kept")
    with public_directory() as place:
        place.chmod(0o1777)
        with ordinary_user():
            (place / "link").symlink_to(tmp_path / target)
        for kind in (NewFile, NewDirectory):
            with pytest.raises(DestinationError, match="link cannot be reached: Permission denied"):
                kind(place / "link")
    assert (tmp_path / "file").read_bytes() == b"kept"
    assert (tmp_path / "full/kept").exists()
    assert not (tmp_path / "absent").exists()


def test_a_link_of_ones_own_is_followed_and_stays_one(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    with NewFile(tmp_path / "link") as new:
        new.file.write(b"new")
        new.commit()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("absent")
    with pytest.raises(DestinationError, match="leads nowhere"):
        NewFile(tmp_path / "link")


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    (tmp_path / "link").symlink_to(f"/proc/self/fd/{writing}")
    try:
        with NewFile(tmp_path / "link") as new:
            new.file.write(b"content")
            new.commit()
        assert os.read(reading, 100) == b"content"
    finally:
        os.close(reading)
        os.close(writing)
    assert [path.name for path in tmp_path.iterdir()] == ["link"]
