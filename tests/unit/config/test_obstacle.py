"""What keeps a process from a file, told so that somebody can do something about it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from container_image_proxy.config import obstacle
from container_image_proxy.config.obstacle import Obstacle, find_obstacle
from tests.support.privilege import ordinary_user, public_directory


@pytest.fixture
def public() -> Iterator[Path]:
    with public_directory() as directory:
        yield directory


def obstacle_to(path: Path) -> Obstacle:
    """What an ordinary user meets at opening or listing ``path``."""
    with ordinary_user():
        try:
            os.close(os.open(path, os.O_RDONLY))
        except OSError as error:
            return find_obstacle(path, error)
    raise AssertionError(f"{path} can be read")


def closed(place: Path, mode: int) -> str:
    with ordinary_user() as uid:
        who = obstacle.describe_user(uid)
    place.chmod(mode)
    return f"Permission denied: {place} (mode {mode:04o}, of uid {os.geteuid()}) is closed to {who}"


def whose() -> str:
    return "o" if os.geteuid() == 0 else "u"


@pytest.mark.parametrize("mode", [0o700, 0o600, 0o000])
def test_the_directory_that_is_closed_is_named_and_not_what_lies_below_it(public: Path, mode: int) -> None:
    (public / "containers/7").mkdir(parents=True)
    (public / "containers/7/auth.json").touch()
    mode = mode if os.geteuid() == 0 else 0
    expected = Obstacle(closed(public / "containers", mode), f"chmod {whose()}+x {public}/containers")
    assert obstacle_to(public / "containers/7/auth.json") == expected
    assert obstacle_to(public / "containers/absent") == expected


def test_a_file_that_is_closed_is_named_itself(public: Path) -> None:
    (public / "ca.crt").touch()
    expected = Obstacle(closed(public / "ca.crt", 0), f"chmod {whose()}+r {public}/ca.crt")
    assert obstacle_to(public / "ca.crt") == expected


def test_a_directory_that_cannot_be_listed_is_named_itself(public: Path) -> None:
    (public / "certs.d").mkdir()
    mode = 0o711 if os.geteuid() == 0 else 0
    expected = Obstacle(closed(public / "certs.d", mode), f"chmod {whose()}+rx {public}/certs.d")
    assert obstacle_to(public / "certs.d") == expected


def test_a_remedy_can_be_pasted(public: Path) -> None:
    (public / "my; files").mkdir()
    (public / "my; files").chmod(0)
    assert obstacle_to(public / "my; files/x").remedy == f"chmod {whose()}+x '{public}/my; files'"


def test_what_a_link_leads_to_is_named(public: Path) -> None:
    (public / "closed").mkdir()
    (public / "closed/file").touch()
    (public / "link").symlink_to("closed/file")
    reason = closed(public / "closed", 0)
    assert obstacle_to(public / "link").reason == reason


def test_a_mode_that_would_allow_it_is_not_blamed(public: Path) -> None:
    (public / "file").touch()
    found = find_obstacle(public / "file", PermissionError(errno.EACCES, "Permission denied"))
    assert found.reason.endswith("though not by its mode")
    assert found.remedy is None


def test_a_loop_of_links_is_a_reason_as_it_stands(public: Path) -> None:
    (public / "a").symlink_to("a")
    assert obstacle_to(public / "a") == Obstacle("Too many levels of symbolic links")


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A table of mounts to be written, in place of this process's own."""
    with public_directory() as directory:
        monkeypatch.setattr(obstacle, "_MOUNTS", directory / "mountinfo")
        yield directory / "mountinfo"


def _line(root: str, point: Path | str, kind: str) -> str:
    return f"36 35 98:0 {root} {point} rw,noatime shared:1 - {kind} /dev/x rw\n"


def test_a_directory_that_the_sandbox_made_inaccessible_is_told_by_the_setting(public: Path, mounts: Path) -> None:
    (public / "my secrets/x").mkdir(parents=True)
    escaped = str(public / "my secrets").replace(" ", "\\040")
    mounts.write_text(_line("/", "/", "ext4") + _line("/systemd/inaccessible/dir", escaped, "tmpfs"))
    closed(public / "my secrets", 0)
    expected = f"Permission denied: InaccessiblePaths= of the unit hides {public}/my secrets"
    assert obstacle_to(public / "my secrets/x") == Obstacle(expected)


def test_a_home_that_is_hidden_is_told_with_the_drop_in_that_shows_it(
    public: Path, mounts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (public / "layout").mkdir()
    monkeypatch.setattr(obstacle, "_HOMES", {str(public)})
    mounts.write_text(_line("/", "/", "ext4") + _line("/systemd/inaccessible/dir", public, "tmpfs"))
    closed(public, 0)
    found = obstacle_to(public / "layout")
    assert found.reason == f"Permission denied: ProtectHome= of the unit hides {public}"
    assert found.remedy == f"a drop-in with ProtectHome=tmpfs, BindReadOnlyPaths=-{public}/layout shows it"
    mounts.write_text(_line("/", "/", "ext4") + _line("/", public, "tmpfs"))  # as systemd 255 makes it for /root
    assert obstacle_to(public / "layout") == found


def test_what_is_below_root_s_home_needs_it_to_be_passable() -> None:
    shown = "ProtectHome=tmpfs, TemporaryFileSystem=/root:ro, BindReadOnlyPaths=-/root/x"
    assert obstacle._show_home(Path("/root/x"), "/root") == f"a drop-in with {shown} shows it"


@pytest.mark.parametrize(
    ("path", "setting"),
    [("/home/my image", '"-/home/my image"'), ("/home/a:b", '"-/home/a:b"'), ("/home/100%", "-/home/100%%")],
)
def test_a_path_in_a_remedy_is_written_as_a_unit_file_has_it(path: str, setting: str) -> None:
    assert f" BindReadOnlyPaths={setting} " in obstacle._show_home(Path(path), "/home")


def test_a_link_that_leads_nowhere_is_named(public: Path) -> None:
    (public / "link").symlink_to("nowhere")
    reason = f"No such file or directory: {public}/link is a link that leads nowhere"
    assert obstacle_to(public / "link") == Obstacle(reason, f"rm {public}/link, or mend it")
    assert obstacle_to(public / "link/file").reason == reason


def test_a_temporary_directory_of_the_unit_s_own_is_told_of_where_something_is_missing(
    public: Path, mounts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = "/tmp/systemd-private-0-container-image-proxy@os.service-x/tmp"
    mounts.write_text(_line("/", "/", "ext4") + _line(root, public, "ext4"))
    reason = f"No such file or directory: PrivateTmp= of the unit hides the host's {public}"
    assert obstacle_to(public / "layout/index.json").reason == reason
    mounts.write_text(_line("/", "/", "ext4") + _line(root, public, "ext4") + _line("/", public / "other", "tmpfs"))
    (public / "other").mkdir()
    assert obstacle_to(public / "other/index.json") == Obstacle("No such file or directory")
    monkeypatch.setattr(obstacle, "_TEMPORARY", {str(public)})
    mounts.write_text(_line("/", "/", "ext4") + _line("/tmp", public, "tmpfs"))
    assert obstacle_to(public / "layout/index.json").reason == reason
    mounts.write_text(_line("/", "/", "ext4") + _line("/", public, "tmpfs"))
    assert obstacle_to(public / "layout/index.json") == Obstacle("No such file or directory")


def test_an_empty_home_is_told_of_where_something_is_missing(
    public: Path, mounts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(obstacle, "_HOMES", {str(public)})
    mounts.write_text(_line("/", "/", "ext4") + _line("/", public, "tmpfs"))
    assert f"{public} is an empty file system, as ProtectHome=tmpfs mounts it" in obstacle_to(public / "x").reason


@pytest.mark.parametrize("text", [None, ""])
def test_without_a_table_of_mounts_the_reason_is_the_kernel_s(public: Path, mounts: Path, text: str | None) -> None:
    if text is not None:
        mounts.write_text(text)
    assert obstacle_to(public / "absent") == Obstacle("No such file or directory")
