"""Archives as sources hold them: opened once, unpacked if they have to be, and never another file than they were."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import resource
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import zstandard

from container_image_proxy.concurrency.cancellation import Cancellation, CancelledError
from container_image_proxy.concurrency.context import Context
from container_image_proxy.errors import SourceError
from container_image_proxy.transports.archives import archive as archive_module
from container_image_proxy.transports.archives import spool as spool_module
from container_image_proxy.transports.archives.archive import Archive
from container_image_proxy.transports.archives.file import ArchiveFile
from container_image_proxy.transports.archives.index import TarIndex
from container_image_proxy.transports.archives.sharing import OpenArchives
from container_image_proxy.transports.archives.spool import SpoolDirectory
from tests.support.contexts import CONTEXT

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}
CONTENT = bytes(range(256)) * 5000


def write_tar(path: Path, files: dict[str, bytes], pack: Callable[[bytes], bytes] = bytes) -> Path:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    path.write_bytes(pack(buffer.getvalue()))
    return path


@pytest.fixture
def spools(disk: Path) -> SpoolDirectory:
    return SpoolDirectory(disk)


@contextmanager
def opened(path: Path, spools: SpoolDirectory) -> Iterator[Archive]:
    with closing(Archive(ArchiveFile(str(path), os.path.realpath(path)), spools)) as archive:
        yield archive


def read(archive: Archive, name: str, offset: int = 0) -> bytes:
    region = archive.unpack(CONTEXT, name)
    assert region is not None
    with closing(archive.open_reader(region, "member", offset)) as reader:
        buffer, data = bytearray(1000), b""
        while count := reader.readinto(memoryview(buffer)):
            data += buffer[:count]
        return data


@pytest.mark.parametrize("compression", ["", *COMPRESSORS])
def test_an_archive_is_read_whatever_it_is_compressed_with(
    tmp_path: Path, disk: Path, spools: SpoolDirectory, compression: str
) -> None:
    path = write_tar(tmp_path / "x", {"a": CONTENT, "b": b"b"}, COMPRESSORS.get(compression, bytes))
    with opened(path, spools) as archive:
        assert read(archive, "a") == CONTENT
        assert read(archive, "b") == b"b"
        assert read(archive, "a", 1234) == CONTENT[1234:]
        assert archive.unpack(CONTEXT, "c") is None
        assert archive.is_current
    assert list(disk.glob("*")) == []


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_unpacking_for_too_long_is_no_damage(tmp_path: Path, spools: SpoolDirectory, compression: str) -> None:
    path = write_tar(tmp_path / "x", {"a": CONTENT}, COMPRESSORS[compression])
    with opened(path, spools) as archive, pytest.raises(TimeoutError):
        archive.find(CONTEXT.within(0), "a")


def test_an_error_s_endpoint_is_the_archive(tmp_path: Path, spools: SpoolDirectory) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"no archive")
    with opened(path, spools) as archive, pytest.raises(SourceError) as caught, archive.in_use():
        archive.find(CONTEXT, "a")
    assert caught.value.endpoint == str(path)


@pytest.mark.parametrize("name", ["BZh9", "BZhello"])
def test_a_name_that_begins_as_compressed_data_does_not_make_it_compressed(
    tmp_path: Path, spools: SpoolDirectory, name: str
) -> None:
    path = write_tar(tmp_path / "x", {name: CONTENT})
    with opened(path, spools) as archive:
        assert read(archive, name) == CONTENT
    path.write_bytes(bz2.compress(b""))
    with opened(path, spools) as archive:
        assert archive.find(CONTEXT, name) is None


def test_an_archive_is_indexed_once_for_all_who_ask(
    tmp_path: Path, spools: SpoolDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def counting(*arguments: Any, **options: Any) -> TarIndex:
        made.append(arguments[2])
        return TarIndex(*arguments, **options)

    monkeypatch.setattr(archive_module, "TarIndex", counting)
    path = write_tar(tmp_path / "x", {"a": CONTENT, "b": b"b"}, gzip.compress)
    with opened(path, spools) as archive, ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: read(archive, "a"), range(20))) == {CONTENT}
        assert read(archive, "b") == b"b"
    assert made == [str(path)]


@pytest.mark.parametrize("outer", ["", "gzip"])
@pytest.mark.parametrize("compression", COMPRESSORS)
def test_a_compressed_member_is_unpacked_once(
    tmp_path: Path, spools: SpoolDirectory, compression: str, outer: str
) -> None:
    packed = COMPRESSORS[compression](CONTENT)
    path = write_tar(tmp_path / "x", {"a": packed, "b": packed}, COMPRESSORS.get(outer, bytes))
    with opened(path, spools) as archive:
        assert archive.unpack(CONTEXT, "a") == archive.unpack(CONTEXT, "a")
        assert read(archive, "a") == read(archive, "b") == CONTENT
        found = archive.find(CONTEXT, "a")
        assert found is not None
        assert archive.read(found) == packed


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_parts_in_a_row_are_one_archive(tmp_path: Path, spools: SpoolDirectory, compression: str) -> None:
    pack = COMPRESSORS[compression]
    path = write_tar(tmp_path / "x", {"a": CONTENT}, lambda data: pack(data[:5000]) + pack(data[5000:]))
    with opened(path, spools) as archive:
        assert read(archive, "a") == CONTENT


def test_a_part_that_the_spare_window_of_the_decompressor_must_give_out_is_whole(
    tmp_path: Path, spools: SpoolDirectory
) -> None:
    path = write_tar(tmp_path / "x", {"a": bytes(9_000_000)}, gzip.compress)
    with opened(path, spools) as archive:
        assert read(archive, "a") == bytes(9_000_000)


@pytest.mark.parametrize("compression", COMPRESSORS)
@pytest.mark.parametrize("fault", ["truncated", "damaged"])
def test_compressed_data_that_is_not_whole_says_where(
    tmp_path: Path, spools: SpoolDirectory, compression: str, fault: str
) -> None:
    def pack(data: bytes) -> bytes:
        packed = COMPRESSORS[compression](data)
        middle = len(packed) // 2
        return packed[:middle] if fault == "truncated" else packed[:middle] + b"\xff" * 99 + packed[middle + 99 :]

    path = write_tar(tmp_path / "x", {"a": os.urandom(300_000)}, pack)
    with opened(path, spools) as archive, pytest.raises(SourceError, match=r"byte [0-9]+") as caught:
        archive.find(CONTEXT, "a")
    assert str(path) in str(caught.value)
    assert not caught.value.retryable
    assert spools.used == 0


@pytest.mark.demand("BOMB-archive")
@pytest.mark.parametrize("compression", COMPRESSORS)
def test_a_compression_bomb_ends_at_the_limit_and_gives_the_space_back(
    tmp_path: Path, disk: Path, compression: str
) -> None:
    spools = SpoolDirectory(disk, limit=3 << 20)
    path = write_tar(tmp_path / "x", {"a": bytes(60 << 20)}, COMPRESSORS[compression])
    with opened(path, spools) as archive:
        with pytest.raises(SourceError, match="more than 3145728 bytes, which --spool-limit"):
            archive.find(CONTEXT, "a")
        assert spools.used == 0


def test_the_limit_holds_for_all_archives_together(tmp_path: Path, disk: Path) -> None:
    spools = SpoolDirectory(disk, limit=2 << 20)
    paths = [write_tar(tmp_path / name, {"a": CONTENT}, gzip.compress) for name in "xy"]
    with opened(paths[0], spools) as first:
        assert first.find(CONTEXT, "a")
        with opened(paths[1], spools) as second, pytest.raises(SourceError, match="together"):
            second.find(CONTEXT, "a")
    with opened(paths[1], spools) as second:
        assert second.find(CONTEXT, "a")


def test_a_missing_library_is_told_by_its_name(
    tmp_path: Path, spools: SpoolDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tar(tmp_path / "x", {"a": CONTENT}, COMPRESSORS["zstd"])
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with opened(path, spools) as archive, pytest.raises(SourceError, match="python3-zstandard"):
        archive.find(CONTEXT, "a")


def test_a_member_that_cannot_be_unpacked_takes_no_space_however_often_it_is_tried(
    tmp_path: Path, spools: SpoolDirectory
) -> None:
    damaged = gzip.compress(os.urandom(3 << 20))[:-100_000]
    path = write_tar(tmp_path / "x", {"good": gzip.compress(CONTENT), "bad": damaged})
    with opened(path, spools) as archive:
        assert read(archive, "good") == CONTENT
        for _ in range(3):
            with pytest.raises(SourceError, match=r"'bad'.*the gzip data is damaged before byte"):
                archive.unpack(CONTEXT, "bad")
            assert spools.used == len(CONTENT)
        assert read(archive, "good") == CONTENT


def test_a_window_that_takes_too_much_memory_is_refused(tmp_path: Path, spools: SpoolDirectory) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28, compression_level=1, write_content_size=False)
    packed = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    path = tmp_path / "x"
    path.write_bytes(packed.compress(bytes(1000)) + packed.flush())
    with opened(path, spools) as archive, pytest.raises(SourceError, match=r"zstd data is damaged .*memory"):
        archive.find(CONTEXT, "a")
    path.write_bytes(lzma.compress(bytes(1000), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 28}]))
    with opened(path, spools) as archive, pytest.raises(SourceError, match=r"xz data is damaged .*[Mm]emory"):
        archive.find(CONTEXT, "a")


# --- where spool files lie --------------------------------------------------------------------------------------------


def test_a_directory_in_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "file_system_of", lambda _: "tmpfs")
    path = write_tar(tmp_path / "x", {"a": b"a"}, gzip.compress)
    with opened(path, SpoolDirectory(tmp_path)) as archive, pytest.raises(SourceError, match="is on a tmpfs"):
        archive.find(CONTEXT, "a")


def test_no_directory_is_told_with_its_remedy(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x", {"a": b"a"}, gzip.compress)
    with opened(path, SpoolDirectory(None)) as archive, pytest.raises(SourceError, match="--cache-dir"):
        archive.find(CONTEXT, "a")
    (tmp_path / "file").touch()
    with opened(path, SpoolDirectory(tmp_path / "file")) as archive, pytest.raises(SourceError, match="File exists"):
        archive.find(CONTEXT, "a")


def test_a_file_system_without_unnamed_files_gets_one_that_is_unlinked_at_once(
    tmp_path: Path, disk: Path, spools: SpoolDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refusing(path: object, flags: int, mode: int = 0o777, **more: object) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return real(path, flags, mode, **more)  # type: ignore[arg-type,call-overload,no-any-return]

    monkeypatch.setattr(spool_module.os, "open", refusing)
    path = write_tar(tmp_path / "x", {"a": CONTENT}, gzip.compress)
    with opened(path, spools) as archive:
        assert read(archive, "a") == CONTENT
        assert list(disk.glob("**/*")) == []


def test_a_full_disk_is_told_as_something_that_may_pass(tmp_path: Path, disk: Path, spools: SpoolDirectory) -> None:
    path = write_tar(tmp_path / "x", {"a": bytes(9 << 20)}, gzip.compress)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, hard))  # EFBIG; SIGXFSZ is ignored by Python
    try:
        with opened(path, spools) as archive, pytest.raises(SourceError, match="make room there") as caught:
            archive.find(CONTEXT, "a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.retryable
    assert str(disk) in str(caught.value)
    assert spools.used == 0


def test_who_waits_for_another_ones_unpacking_may_leave(tmp_path: Path, spools: SpoolDirectory) -> None:
    path = write_tar(tmp_path / "x", {"a": CONTENT})
    with opened(path, spools) as archive:
        token = Cancellation()
        left = threading.Event()

        def wait() -> None:
            try:
                archive.find(Context(token), "a")
            except CancelledError:
                left.set()

        with archive._lock:
            thread = threading.Thread(target=wait)
            thread.start()
            token.cancel()
            assert left.wait(60)
        thread.join()


@pytest.mark.demand("BOMB-archive")
@pytest.mark.parametrize("kind", ["compressed-nothing", "headers"])
def test_reading_what_yields_nothing_ends_when_the_client_leaves(
    tmp_path: Path, spools: SpoolDirectory, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "headers":
        write_tar(tmp_path / "x", {f"{number}": b"" for number in range(100)})
    else:
        (tmp_path / "x").write_bytes(gzip.compress(b"") * 100_000)
    token, reads, pread = Cancellation(), list[int](), os.pread

    def read_at(number: int, count: int, offset: int) -> bytes:
        reads.append(offset)
        if len(reads) == 4:
            token.cancel()
        return pread(number, count, offset)

    monkeypatch.setattr(os, "pread", read_at)
    with opened(tmp_path / "x", spools) as archive, pytest.raises(CancelledError):
        archive.find(Context(token), "a")
    assert len(reads) == 4


# --- the file itself --------------------------------------------------------------------------------------------------


def test_a_file_that_changes_in_place_fails_what_is_read_from_it(tmp_path: Path, spools: SpoolDirectory) -> None:
    path = write_tar(tmp_path / "x", {"a": CONTENT})
    with opened(path, spools) as archive:
        region = archive.find(CONTEXT, "a")
        assert region is not None
        reader = archive.open_reader(region, "member")
        assert reader.readinto(memoryview(bytearray(10))) == 10
        with path.open("ab") as file:
            file.write(b"more")
        assert not archive.is_current
        for use in (
            lambda: reader.readinto(memoryview(bytearray(10))),
            lambda: archive.open_reader(region, "member"),
            lambda: archive.read(region),
        ):
            with pytest.raises(SourceError, match="has changed while it was read") as caught:
                use()
            assert caught.value.retryable


def test_a_file_that_is_replaced_serves_what_it_was(tmp_path: Path, spools: SpoolDirectory) -> None:
    path = write_tar(tmp_path / "x", {"a": CONTENT})
    with opened(path, spools) as archive:
        assert archive.find(CONTEXT, "a")
        write_tar(tmp_path / "y", {"a": b"new"}).replace(path)
        assert not archive.is_current
        assert read(archive, "a") == CONTENT


def test_a_compressed_file_that_changes_later_serves_what_was_unpacked(tmp_path: Path, spools: SpoolDirectory) -> None:
    path = write_tar(tmp_path / "x", {"a": CONTENT}, gzip.compress)
    with opened(path, spools) as archive:
        assert archive.find(CONTEXT, "a")
        path.write_bytes(b"")
        assert not archive.is_current
        assert read(archive, "a") == CONTENT


@pytest.mark.demand("TAR-traversal")
def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path, spools: SpoolDirectory) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, reason in ((tmp_path / "fifo", "is not a regular file"), (tmp_path, "is not a regular file"),
                         (tmp_path / "none", "there is no archive to be read")):  # fmt: skip
        with opened(path, spools) as archive, pytest.raises(SourceError, match=reason):
            archive.find(CONTEXT, "a")


def test_a_link_that_was_turned_is_not_what_policy_knows(tmp_path: Path, spools: SpoolDirectory) -> None:
    write_tar(tmp_path / "one", {"a": b"1"})
    write_tar(tmp_path / "two", {"a": b"2"})
    link = tmp_path / "link"
    link.symlink_to("one")
    place = os.path.realpath(link)
    link.unlink()
    link.symlink_to("two")
    with closing(Archive(ArchiveFile(str(link), place), spools)) as archive, pytest.raises(SourceError, match="reload"):
        archive.find(CONTEXT, "a")


# --- sharing ----------------------------------------------------------------------------------------------------------


def test_all_images_of_an_archive_share_it_until_the_last_lets_go(tmp_path: Path, spools: SpoolDirectory) -> None:
    path = write_tar(tmp_path / "x", {"a": CONTENT}, gzip.compress)
    archives = OpenArchives()
    first, second = (archives.open(str(path), os.path.realpath(path), spools) for _ in range(2))
    assert first is second
    assert first.find(CONTEXT, "a")
    used = spools.used
    assert archives.open(str(path), os.path.realpath(path), spools) is first
    for _ in range(2):
        first.close()
        assert spools.used == used
    assert read(first, "a") == CONTENT
    first.close()
    assert spools.used == 0
    with closing(archives.open(str(path), os.path.realpath(path), spools)) as third:
        assert third is not first


def test_an_archive_that_was_replaced_is_not_shared(tmp_path: Path, spools: SpoolDirectory) -> None:
    path = write_tar(tmp_path / "x", {"a": b"old"})
    archives = OpenArchives()
    with closing(archives.open(str(path), os.path.realpath(path), spools)) as old:
        assert read(old, "a") == b"old"
        write_tar(tmp_path / "y", {"a": b"new"}).replace(path)
        with closing(archives.open(str(path), os.path.realpath(path), spools)) as new:
            assert read(new, "a") == b"new"
            assert archives.open(str(path), os.path.realpath(path), spools) is new
            new.close()
        assert read(old, "a") == b"old"


def test_what_a_replaced_archive_has_unpacked_goes_when_nobody_reads_it_and_comes_back_for_who_does(
    tmp_path: Path, spools: SpoolDirectory
) -> None:
    path = write_tar(tmp_path / "x", {"a": CONTENT}, gzip.compress)
    archives, place = OpenArchives(), os.path.realpath(path)
    with closing(archives.open(str(path), place, spools)) as old:
        region = old.unpack(CONTEXT, "a")
        assert region is not None
        reader = old.open_reader(region, "member")
        write_tar(tmp_path / "y", {"a": b"new"}, gzip.compress).replace(path)
        with closing(archives.open(str(path), place, spools)) as new:
            assert read(new, "a") == b"new"
            both = spools.used
            buffer = bytearray(len(CONTENT))
            assert reader.readinto(memoryview(buffer)) == len(CONTENT)
            assert buffer == CONTENT
            reader.close()
            alone = spools.used
            assert alone < both, "the old one is let go with its last reader"
            assert read(old, "a") == CONTENT
            assert spools.used == alone
    assert spools.used == 0


def test_what_was_unpacked_of_an_overwritten_archive_stays(tmp_path: Path, spools: SpoolDirectory) -> None:
    path = write_tar(tmp_path / "x", {"a": CONTENT}, gzip.compress)
    archives, place = OpenArchives(), os.path.realpath(path)
    with closing(archives.open(str(path), place, spools)) as old:
        assert read(old, "a") == CONTENT
        write_tar(path, {"a": b"new"}, gzip.compress)
        with closing(archives.open(str(path), place, spools)) as new:
            assert read(new, "a") == b"new"
            assert read(old, "a") == CONTENT
