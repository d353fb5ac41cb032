"""Unpacking: what members become, what whiteouts hide, and that nothing is ever made or removed outside.

Each test runs as root and as an ordinary user where it can; what only root can keep has tests of its own.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from container_image_client import unpack as unpacking
from container_image_client.attributes import DEVICES, OWNERS, SETUID, XATTRS
from container_image_client.directories import names_in
from container_image_client.errors import WrongContentError
from container_image_client.tar import TarReader
from container_image_client.unpack import Unpacker
from tests.support.privilege import ORDINARY_UID, needs_root, ordinary_user

Entry = tuple[tarfile.TarInfo, bytes]


def entry(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **attributes: object) -> Entry:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    info.uid, info.gid = os.geteuid(), os.getegid()
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content


def directory(name: str, mode: int = 0o755, **attributes: object) -> Entry:
    return entry(name, kind=tarfile.DIRTYPE, mode=mode, **attributes)


def symlink(name: str, target: str) -> Entry:
    return entry(name, kind=tarfile.SYMTYPE, linkname=target)


def hard_link(name: str, target: str) -> Entry:
    return entry(name, kind=tarfile.LNKTYPE, linkname=target)


def archive(*entries: Entry, form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


Unpack = Callable[..., Unpacker]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").write_text("untouched")
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.fixture
def unpack(root: Path) -> Iterator[Unpack]:
    """Apply layers, each a list of entries, to the directory; the end checks that nothing outside was touched."""

    def unpack(*layers: list[Entry], form: int = tarfile.PAX_FORMAT) -> Unpacker:
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            unpacker = Unpacker(descriptor)
            for entries in layers:
                unpacker.apply(TarReader(iter([archive(*entries, form=form), b"", b""]).__next__))
            unpacker.finish()
        finally:
            os.close(descriptor)
        return unpacker

    yield unpack
    assert [path.name for path in sorted(root.parent.iterdir())] == ["outside", "root"]
    assert (root.parent / "outside").read_text() == "untouched"


@pytest.fixture(params=["root", "user"])
def somebody(request: pytest.FixtureRequest, root: Path) -> Iterator[int]:
    """Who unpacks."""
    if request.param == "root":
        if os.geteuid() != 0:
            pytest.skip("needs root: it is one of the two who unpack")
        yield 0
        return
    for parent in root.parents:
        if str(parent).startswith("/tmp/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    if os.geteuid() == 0:
        os.chown(root, ORDINARY_UID, ORDINARY_UID)
    with ordinary_user() as uid:
        yield uid


def paths(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


# --- members ----------------------------------------------------------------------------------------------------------


def test_members_become_what_they_say(somebody: int, root: Path, unpack: Unpack) -> None:
    unpack(
        [
            directory("./", 0o750, mtime=7),
            directory("bin/", 0o555, mtime=9),
            entry("bin/sh", b"#!" * 70_000, mode=0o755, mtime=1234567890.25),
            symlink("etc", "/outside/../../../etc"),
            hard_link("bin/bash", "bin/sh"),
            entry("pipe", kind=tarfile.FIFOTYPE, mode=0o600),
            entry("deep/er/file", b"x", mode=0o640),
        ]
    )
    assert paths(root) == ["bin", "bin/bash", "bin/sh", "deep", "deep/er", "deep/er/file", "etc", "pipe"]
    status = (root / "bin/sh").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns, status.st_size) == (
        0o755,
        1234567890_250_000_000,
        140_000,
    )
    assert (root / "bin/bash").samefile(root / "bin/sh")
    assert str((root / "etc").readlink()) == "/outside/../../../etc"
    assert stat.S_ISFIFO((root / "pipe").stat().st_mode)
    assert [(stat.S_IMODE(path.stat().st_mode), path.stat().st_mtime) for path in (root, root / "bin")] == [
        (0o750, 7),
        (0o555, 9),
    ]
    assert stat.S_IMODE((root / "deep/er").stat().st_mode) == 0o755


def test_the_umask_takes_nothing_away(somebody: int, root: Path, unpack: Unpack) -> None:
    before = os.umask(0o077)
    try:
        unpack([entry("a/file", mode=0o666), directory("b", 0o777)])
    finally:
        os.umask(before)
    assert [stat.S_IMODE((root / name).stat().st_mode) for name in ("a", "a/file", "b")] == [0o755, 0o666, 0o777]


def test_directories_that_forbid_their_owner_to_write_are_filled_also_by_later_layers(
    somebody: int, root: Path, unpack: Unpack
) -> None:
    unpack(
        [directory("a", 0o500), directory("a/b", 0o000, mtime=3), entry("a/b/one")],
        [entry("a/b/two"), entry("a/b/.wh.one")],
    )
    if somebody:
        assert stat.S_IMODE((root / "a/b").stat().st_mode) == 0
        (root / "a/b").chmod(0o700)
    assert paths(root / "a/b") == ["two"]
    assert stat.S_IMODE((root / "a").stat().st_mode) == 0o500


def test_a_later_member_of_a_layer_replaces_an_earlier_one(somebody: int, root: Path, unpack: Unpack) -> None:
    unpack(
        [
            directory("a"),
            entry("a/below", b"gone"),
            entry("a", b"a file now"),
            symlink("b", "a"),
            entry("b", b"no link any more"),
            entry("c", b"1"),
            directory("c"),
            entry("c/below"),
        ]
    )
    assert paths(root) == ["a", "b", "c", "c/below"]
    assert ((root / "a").read_bytes(), (root / "b").read_bytes()) == (b"a file now", b"no link any more")


def test_a_sparse_file_has_its_holes(root: Path, unpack: Unpack, tmp_path: Path) -> None:
    from tests.unit.client.test_tar import sparse_1_0  # noqa: PLC0415

    descriptor = os.open(root, os.O_RDONLY)
    try:
        Unpacker(descriptor).apply(TarReader(iter([sparse_1_0(), b"", b""]).__next__))
    finally:
        os.close(descriptor)
    content = bytes(100) + b"abc" + bytes(1897) + b"de" + bytes(998)
    assert (root / "s").read_bytes() == content


# --- layers -----------------------------------------------------------------------------------------------------------

LOWER = [directory("d", 0o700, mtime=5), entry("d/a", b"a"), entry("d/b", b"b"), directory("d/sub"), entry("d/sub/x")]


def test_whiteouts_hide_what_lower_layers_have(somebody: int, root: Path, unpack: Unpack) -> None:
    unpack([*LOWER, entry("e")], [entry("d/.wh.a"), entry("d/.wh.sub"), entry(".wh.e"), entry("d/.wh.nothing")])
    assert paths(root) == ["d", "d/b"]
    assert (root / "d").stat().st_mtime == 5


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_an_opaque_directory_keeps_what_its_own_layer_has_wherever_the_mark_stands(
    at: int, root: Path, unpack: Unpack
) -> None:
    upper = [directory("d", 0o711, mtime=6), entry("d/new", b"n"), entry("d/sub/y", b"y")]
    upper.insert(at, entry("d/.wh..wh..opq"))
    unpack(LOWER, upper)
    assert paths(root) == ["d", "d/new", "d/sub", "d/sub/y"]
    assert ((root / "d").stat().st_mtime, stat.S_IMODE((root / "d").stat().st_mode)) == (6, 0o711)


@pytest.mark.parametrize("upper", [[entry("d/.wh.sub"), entry("d/sub/y")], [entry("d/sub/y"), entry("d/.wh.sub")]])
def test_a_whiteout_hides_nothing_of_its_own_layer(upper: list[Entry], root: Path, unpack: Unpack) -> None:
    unpack(LOWER, upper)
    assert paths(root / "d/sub") == ["y"]


def test_marks_that_mean_nothing_or_hide_nothing_leave_no_trace(root: Path, unpack: Unpack) -> None:
    unpack([entry(".wh.a"), entry("x/.wh..wh..opq"), entry(".wh..wh.plnk"), entry("a", b"of the same layer")])
    assert paths(root) == ["a"]


def test_a_directory_over_a_directory_keeps_what_is_in_it_and_has_the_new_attributes(
    root: Path, unpack: Unpack
) -> None:
    unpack(LOWER, [directory("d", 0o701, mtime=8)])
    assert paths(root / "d") == ["a", "b", "sub", "sub/x"]
    assert ((root / "d").stat().st_mtime, stat.S_IMODE((root / "d").stat().st_mode)) == (8, 0o701)


def test_a_file_over_a_directory_replaces_all_of_it(somebody: int, root: Path, unpack: Unpack) -> None:
    unpack([directory("d", 0o500), entry("d/a"), directory("d/e", 0o000)], [entry("d", b"file")])
    assert (root / "d").read_bytes() == b"file"


def test_a_directory_hides_a_link_of_a_lower_layer_as_overlayfs_shows_it(root: Path, unpack: Unpack) -> None:
    unpack([directory("usr/lib"), symlink("lib", "usr/lib")], [entry("lib/new", b"n")])
    assert not (root / "lib").is_symlink()
    assert paths(root) == ["lib", "lib/new", "usr", "usr/lib"]


def test_a_hard_link_to_a_file_of_a_lower_layer(root: Path, unpack: Unpack) -> None:
    unpack(LOWER, [hard_link("again", "d/a")])
    assert (root / "again").samefile(root / "d/a")


# --- attacks ----------------------------------------------------------------------------------------------------------


@pytest.mark.demand("TAR-traversal")
@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([entry("../outside", b"!")], id="parent"),
        pytest.param([entry("a/../../outside", b"!")], id="parent behind a directory"),
        pytest.param([symlink("a", ".."), entry("a/outside", b"!")], id="behind a link"),
        pytest.param([symlink("a", "/"), entry("a/tmp/x", b"!")], id="behind an absolute link"),
        pytest.param([directory("a"), symlink("a/b", "../.."), directory("a/b/c")], id="directory behind a link"),
        pytest.param(
            [symlink("a", ".."), entry("a/.wh.outside"), hard_link("x", "a/outside")], id="hard link behind a link"
        ),
        pytest.param([hard_link("x", "../outside")], id="hard link"),
        pytest.param([hard_link("x", "/../outside")], id="absolute hard link"),
        pytest.param([hard_link("x", "nowhere")], id="hard link to nothing"),
        pytest.param([directory("d"), hard_link("x", "d")], id="hard link to a directory"),
        pytest.param([hard_link("x", "/")], id="hard link to the root"),
        pytest.param([entry(".", b"x")], id="file in place of the root"),
        pytest.param([symlink("./", "..")], id="link in place of the root"),
        pytest.param([entry("d/.wh...", b"")], id="whiteout of the parent"),
        pytest.param([entry("d/.wh..", b"")], id="whiteout of itself"),
        pytest.param([entry("d/.wh.", b"")], id="whiteout of nothing"),
        pytest.param([entry("pipe", kind=tarfile.FIFOTYPE), entry("pipe/x", b"!")], id="below a FIFO"),
    ],
)
@pytest.mark.parametrize("lower", [[], LOWER], ids=["first layer", "second layer"])
def test_what_would_lead_out_is_an_error(lower: list[Entry], entries: list[Entry], root: Path, unpack: Unpack) -> None:
    with pytest.raises(WrongContentError):
        unpack(*([lower] if lower else []), entries)


@pytest.mark.demand("TAR-traversal")
def test_an_absolute_name_is_one_below_the_directory(root: Path, unpack: Unpack) -> None:
    unpack([entry("/etc/passwd", b"x"), entry("//usr/./share/../lib/y")], [entry("/.wh.etc")])
    assert paths(root) == ["usr", "usr/lib", "usr/lib/y"]


@pytest.mark.demand("TAR-traversal")
def test_a_link_of_a_lower_layer_leads_nothing_outside(root: Path, unpack: Unpack) -> None:
    links = [symlink("a", ".."), symlink("file", "../outside"), symlink("abs", str(root.parent))]
    upper = [
        *(entry("a/.wh.outside"), entry("a/.wh..wh..opq"), entry("abs/.wh.outside")),
        *(entry("file", b"a file"), entry("a/new", b"in a directory"), directory("abs")),
    ]
    unpack(links, upper)
    assert (root / "file").read_bytes() == b"a file"
    assert not any((root / name).is_symlink() for name in ("a", "file", "abs"))


@pytest.mark.demand("TAR-traversal")
def test_a_file_is_never_written_through_a_link_nor_into_a_fifo_or_another_files_content(
    root: Path, unpack: Unpack
) -> None:
    unpack(
        [symlink("a", "../outside"), entry("pipe", kind=tarfile.FIFOTYPE), entry("one", b"1"), hard_link("two", "one")],
        [entry("a", b"own"), entry("pipe", b"own"), entry("two", b"own")],
    )
    assert [(root / name).read_bytes() for name in ("a", "pipe", "two", "one")] == [b"own", b"own", b"own", b"1"]


@pytest.mark.demand("TAR-loop")
def test_a_path_of_any_depth_ends_with_an_error_and_uses_no_more_descriptors_than_allowed(
    root: Path, unpack: Unpack
) -> None:
    unpack([directory("d/" * 400)])
    with pytest.raises(WrongContentError, match="999 directories deep; 500 are allowed"):
        unpack([directory("e/" * 1000)])
    with pytest.raises(WrongContentError, match="has 200000 bytes; 4095 are allowed"):
        unpack([directory("e/" * 100_000)])


def test_a_directory_is_emptied_of_lower_layers_once(
    root: Path, unpack: Unpack, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []

    def look(directory: int) -> list[bytes]:
        looked.append(directory)
        return names_in(directory)

    monkeypatch.setattr(unpacking, "names_in", look)
    opaque = entry("a/.wh..wh..opq")
    unpack([entry("a/lower")], [opaque, entry("a/own"), opaque, opaque], [opaque])
    assert list((root / "a").iterdir()) == []
    assert len(looked) == 2


# --- what only root can keep ------------------------------------------------------------------------------------------


def special() -> list[Entry]:
    attributes = {"SCHILY.xattr.user.note": "kept", "SCHILY.xattr.security.capability": _CAPABILITY}
    return [
        entry("su", mode=0o6755, uid=12, gid=34, pax_headers=attributes),
        entry("null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666, uid=0, gid=0),
        entry("disk", kind=tarfile.BLKTYPE, devmajor=8, devminor=0, mode=0o660, uid=0, gid=6),
        entry("link", kind=tarfile.SYMTYPE, linkname="su", uid=12, gid=34),
        directory("dir", 0o2775, uid=1, gid=2),
    ]


# version 2 of the kernel's struct vfs_cap_data: cap_net_raw, permitted and effective
_CAPABILITY = b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00".decode("latin-1")


@needs_root
def test_root_keeps_owners_setuid_bits_devices_and_attributes(root: Path, unpack: Unpack) -> None:
    unpacker = unpack(special())
    if "user.note" not in os.listxattr(root / "su"):
        pytest.skip("needs a file system with user attributes")
    assert +unpacker.left_out == {}
    status = (root / "su").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o6755, 12, 34)
    assert os.getxattr(root / "su", "user.note") == b"kept"
    assert os.getxattr(root / "su", "security.capability") == _CAPABILITY.encode("latin-1")
    null, disk = (root / "null").stat(), (root / "disk").stat()
    assert (null.st_mode, null.st_rdev) == (stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert (disk.st_mode, disk.st_rdev, disk.st_gid) == (stat.S_IFBLK | 0o660, os.makedev(8, 0), 6)
    assert (root / "link").lstat().st_uid == 12
    assert (stat.S_IMODE((root / "dir").stat().st_mode), (root / "dir").stat().st_gid) == (0o2775, 2)


@needs_root
def test_a_directory_has_no_attributes_of_the_one_that_it_replaces(root: Path, unpack: Unpack) -> None:
    unpack([directory("d", pax_headers={"SCHILY.xattr.user.old": "x"})], [directory("d")])
    assert "user.old" not in os.listxattr(root / "d")


@pytest.mark.parametrize("somebody", ["user"], indirect=True)
def test_another_user_gets_the_rest_and_a_count_of_what_was_left_out(somebody: int, root: Path, unpack: Unpack) -> None:
    unpacker = unpack(special())
    assert +unpacker.left_out == {OWNERS: 3, SETUID: 2, DEVICES: 2, XATTRS: 2}
    assert paths(root) == ["dir", "link", "su"]
    assert stat.S_IMODE((root / "su").stat().st_mode) == 0o755


@needs_root
@pytest.mark.parametrize("uid", [0xFFFFFFFF, 1 << 33])
def test_an_owner_that_chown_would_take_for_none_is_an_error(uid: int, root: Path, unpack: Unpack) -> None:
    with pytest.raises(WrongContentError, match="owner"):
        unpack([entry("a", uid=uid)])


@pytest.mark.demand("TAR-traversal")
def test_a_hard_link_to_a_symbolic_link_is_one_more_name_of_that_link(root: Path, unpack: Unpack) -> None:
    unpack([symlink("a", "../outside"), hard_link("b", "a")])
    assert (root / "b").is_symlink()


@needs_root
def test_a_setuid_bit_is_not_given_to_another_owner(
    root: Path, unpack: Unpack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a user namespace, which has not every owner."""

    def fchown(descriptor: int, uid: int, gid: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fchown", fchown)
    unpacker = unpack([entry("su", mode=0o4755, uid=77), entry("plain", mode=0o755, uid=77)])
    assert stat.S_IMODE((root / "su").stat().st_mode) == 0o755
    assert (unpacker.left_out[OWNERS], unpacker.left_out[SETUID]) == (2, 1)


@needs_root
def test_a_device_number_that_no_system_has_is_an_error(root: Path, unpack: Unpack) -> None:
    with pytest.raises(WrongContentError, match="device number"):
        unpack([entry("null", kind=tarfile.CHRTYPE, devmajor=1 << 40)], form=tarfile.GNU_FORMAT)
