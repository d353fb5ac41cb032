"""Files of a layer by the names that its tar has for them: inside of its directory only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from container_image_proxy.transports.storage.layer_files import LayerFiles


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("outside")
    root = tmp_path / "layer"
    (root / "usr/lib").mkdir(parents=True)
    (root / "usr/lib/file").write_text("inside")
    (root / "file").write_text("top")
    return root


@pytest.fixture
def files(root: Path) -> Iterator[LayerFiles]:
    opened = LayerFiles(os.open(root, os.O_PATH | os.O_DIRECTORY))
    yield opened
    opened.close()


def read(files: LayerFiles, name: str) -> str:
    number = files.open(name.encode())
    with os.fdopen(number) as file:
        return file.read()


@pytest.mark.parametrize("name", ["usr/lib/file", "./usr/lib/file", "/usr/lib/file", "usr//lib/../lib/file"])
def test_a_name_may_be_written_as_tars_write_it(files: LayerFiles, name: str) -> None:
    assert read(files, name) == "inside"
    assert read(files, "file") == "top"
    assert read(files, name) == "inside"


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("lib", "usr/lib"),
        ("lib", "/usr/lib"),
        ("lib", "../../../usr/lib"),
        ("usr/local", "lib"),
        ("usr/local", "../usr/./lib"),
    ],
)
def test_a_directory_may_be_a_link_as_in_a_root_of_its_own(
    root: Path, files: LayerFiles, link: str, target: str
) -> None:
    (root / link).symlink_to(target)
    assert read(files, f"{link}/file") == "inside"


def test_links_may_lead_over_links(root: Path, files: LayerFiles) -> None:
    (root / "a").symlink_to("usr")
    (root / "b").symlink_to("a/lib")
    assert read(files, "b/file") == "inside"


@pytest.mark.parametrize("name", ["../secret", "usr/../../secret", "out/secret", "up/secret"])
def test_no_name_leads_out(root: Path, files: LayerFiles, name: str) -> None:
    (root / "out").symlink_to(root.parent)
    (root / "up").symlink_to("..")
    with pytest.raises(FileNotFoundError):
        read(files, name)


@pytest.mark.parametrize("name", ["link", "fifo", "usr", "", ".", "usr/lib/", "file\0", "x" * 300])
def test_only_regular_files_are_opened(root: Path, files: LayerFiles, name: str) -> None:
    (root / "link").symlink_to("file")
    os.mkfifo(root / "fifo")
    (root / "usr/lib/file").unlink()
    with pytest.raises(OSError):  # noqa: PT011 - the kernel has several numbers for it
        files.open(name.encode())


def test_links_in_a_circle_end(root: Path, files: LayerFiles) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels"):
        files.open(b"a/file")


def test_a_file_on_the_way_is_no_directory(files: LayerFiles) -> None:
    with pytest.raises(NotADirectoryError):
        files.open(b"file/x")


def test_nothing_stays_open(root: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    opened = LayerFiles(os.open(root, os.O_PATH | os.O_DIRECTORY))
    (root / "lib").symlink_to("usr/lib")
    for name in (b"lib/file", b"usr/lib/file", b"gone/file", b"lib/gone", b"usr"):
        with contextlib.suppress(OSError):
            os.close(opened.open(name))
    opened.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
