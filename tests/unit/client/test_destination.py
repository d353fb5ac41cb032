"""What is left, and what is said, when a new file or directory cannot be made or put in place as a whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from container_image_client.destination import NewDirectory, NewFile
from container_image_client.errors import DestinationError
from tests.support.privilege import ORDINARY_UID, needs_root, ordinary_user, public_directory


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
