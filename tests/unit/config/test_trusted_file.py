"""One file, opened once and judged before it is believed."""

import errno
import logging
import os
import threading
from pathlib import Path

import pytest

from container_image_proxy.config.once import warn_once
from container_image_proxy.config.trusted_file import (
    load_trusted_file,
    load_trusted_file_if_present,
    load_trusted_file_if_readable,
)
from container_image_proxy.errors import ConfigurationError
from tests.support.requirements import needs_root

OTHER_UID = 1234


@pytest.fixture(autouse=True)
def _forget_warnings():
    warn_once.cache_clear()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file.conf"
    path.write_bytes(b"content")
    path.chmod(0o600)
    return path


def test_a_file_of_exactly_the_limit_is_read_and_one_byte_more_is_not(file):
    assert load_trusted_file(file, limit=7) == b"content"
    with pytest.raises(ConfigurationError, match=r"file\.conf: larger than 6 bytes"):
        load_trusted_file(file, limit=6)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ESTALE])
def test_a_file_that_cannot_be_read_for_the_moment_does_not_count_as_absent(file, monkeypatch, number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(ConfigurationError, match=f"cannot be read: {os.strerror(number)}"):
        load_trusted_file_if_readable(file, limit=7, remedy="")


def test_absent_is_an_error_unless_it_may_be_absent(tmp_path):
    with pytest.raises(ConfigurationError, match="nothing: cannot be read: No such file"):
        load_trusted_file(tmp_path / "nothing", limit=10)
    assert load_trusted_file_if_present(tmp_path / "nothing", limit=10) is None


def test_unreadable_is_not_absent(file):
    for path in (file / "below", file.parent, Path("/nul\0byte")):
        with pytest.raises(ConfigurationError):
            load_trusted_file_if_present(path, limit=10)


def test_a_fifo_is_refused_and_nobody_waits_for_its_writer(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigurationError, match="not a regular file"):
        load_trusted_file_if_present(tmp_path / "fifo", limit=10)


def test_dev_null_reads_as_empty_and_no_other_device_does(tmp_path):
    (tmp_path / "masked").symlink_to("/dev/null")
    assert load_trusted_file(tmp_path / "masked", limit=10, refuse_writable_by_others=True) == b""
    with pytest.raises(ConfigurationError, match="not a regular file"):
        load_trusted_file(Path("/dev/zero"), limit=10)


@pytest.mark.demand("CONF-perm")
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_is_refused_where_trust_depends_on_it(file, mode):
    file.chmod(mode)
    with pytest.raises(ConfigurationError, match=f"other users can write to it .mode {mode:04o}.*chmod go-w"):
        load_trusted_file(file, limit=10, refuse_writable_by_others=True)


@pytest.mark.demand("CONF-perm")
def test_a_file_that_others_can_write_is_warned_of_once_where_it_is_not(file, caplog):
    file.chmod(0o620)
    for _ in range(2):
        assert load_trusted_file(file, limit=10) == b"content"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "other users can write" in caplog.text


@needs_root
@pytest.mark.demand("CONF-perm")
def test_a_file_of_a_third_user_is_refused_even_through_a_link(file):
    os.chown(file, OTHER_UID, OTHER_UID)
    link = file.with_name("link")
    link.symlink_to(file)
    with pytest.raises(ConfigurationError, match="belongs to uid 1234"):
        load_trusted_file(link, limit=10, refuse_writable_by_others=True)


@pytest.mark.demand("CONF-perm")
@pytest.mark.parametrize(("mode", "warns"), [(0o600, False), (0o640, True), (0o604, True)])
def test_secrets_that_others_can_read_are_warned_of(file, caplog, mode, warns):
    file.chmod(mode)
    load_trusted_file(file, limit=10, secret=True)
    assert ("other users can read it" in caplog.text) is warns
    caplog.clear()
    load_trusted_file(file, limit=10)
    assert not caplog.records


@pytest.mark.demand("config-race")
def test_a_file_that_is_replaced_atomically_is_seen_old_or_new_but_never_mixed(file):
    versions = {letter * 50_000 for letter in (b"a", b"b")}
    file.write_bytes(min(versions))
    stop = threading.Event()

    def replace():
        while not stop.is_set():
            for version in versions:
                new = file.with_name("new")
                new.write_bytes(version)
                new.replace(file)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        seen = {load_trusted_file(file, limit=50_000) for _ in range(500)}
    finally:
        stop.set()
        writer.join()
    assert seen <= versions
