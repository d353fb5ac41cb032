"""The locks of a store: theirs are honoured, ours are no obstacle to readers, and none is held beyond need."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from container_image_proxy.concurrency.cancellation import Cancellation, CancelledError
from container_image_proxy.concurrency.context import Context
from container_image_proxy.errors import UpstreamTimeoutError
from container_image_proxy.transports.storage.lock import PATIENCE, locked
from tests.support.contexts import CONTEXT
from tests.support.stores import held_by_another


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "images.lock"
    path.touch()
    return path


def lock(path: Path, context: Context = CONTEXT) -> None:
    with locked(os.open(path, os.O_RDONLY), path, context):
        pass


@pytest.mark.demand("containers-storage-lock")
def test_a_lock_that_somebody_changes_the_store_under_is_waited_for_within_bounds(path: Path) -> None:
    with held_by_another(path) as process, pytest.raises(UpstreamTimeoutError) as caught:
        lock(path, CONTEXT.within(0))
    assert caught.value.retryable
    assert f"{path} stays locked by another program (process {process.pid})" in str(caught.value)
    lock(path)
    assert PATIENCE <= 30  # a client waits, too


def test_the_wait_ends_when_the_other_has_done(path: Path) -> None:
    with held_by_another(path) as process:
        assert process.stdin is not None
        timer = threading.Timer(0.0, process.stdin.close)
        timer.start()
        lock(path)
        timer.join()


def test_the_wait_ends_when_nobody_waits_for_us(path: Path) -> None:
    token = Cancellation()
    token.cancel()
    with held_by_another(path), pytest.raises(CancelledError):
        lock(path, CONTEXT.under(token))


def test_readers_share_it(path: Path) -> None:
    with held_by_another(path, "LOCK_SH"):
        lock(path)


def _is_free(path: Path) -> bool:
    """Whether another process could change the store now."""
    program = "import fcntl,os,sys; fcntl.lockf(os.open(sys.argv[1], os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    return subprocess.run([sys.executable, "-c", program, path], check=False, capture_output=True).returncode == 0


def test_it_is_held_until_the_last_thread_has_read(path: Path) -> None:
    with locked(os.open(path, os.O_RDONLY), path, CONTEXT):
        lock(path)  # by record locks of the process, closing this would free the other
        assert not _is_free(path)
    assert _is_free(path)


def test_a_medium_without_locks_is_read_without(path: Path) -> None:
    with locked(None, path, CONTEXT):
        pass
