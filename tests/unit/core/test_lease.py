"""A source is opened once for all who hold its lease, and closed when the last of them lets go."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from container_image_proxy.core.lease import Lease
from container_image_proxy.errors import SourceError
from container_image_proxy.image.manifest import Descriptor
from tests.support.contexts import CONTEXT
from tests.support.readers import ScriptedReader, read_all


class Source:
    """Counts what is done to it; its blobs are all the same."""

    def __init__(self) -> None:
        self.closed = 0
        self.readers: list[ScriptedReader] = []

    def open_blob(self, _: object, __: object, offset: int) -> ScriptedReader:
        assert not self.closed, "a source that is closed is not asked"
        self.readers.append(ScriptedReader([b"content"[offset:]]))
        return self.readers[-1]

    def close(self) -> None:
        self.closed += 1


class Opener:
    def __init__(self) -> None:
        self.sources: list[Source] = []

    def __call__(self) -> Any:
        self.sources.append(Source())
        return self.sources[-1]


BLOB = cast("Descriptor", None)


def test_what_is_held_is_opened_once_when_it_is_needed_and_closed_after_the_last_reader() -> None:
    opener = Opener()
    lease = Lease(opener)
    lease.hold()
    assert not opener.sources
    readers = [lease.open_blob(CONTEXT, BLOB, offset) for offset in (0, 3)]
    lease.let_go()
    assert read_all(readers[0]) == b"content"
    (source,) = opener.sources
    assert not source.closed
    assert read_all(readers[1]) == b"tent"
    assert (source.closed, [one.closed for one in source.readers]) == (1, [1, 1])


def test_a_reader_that_is_closed_twice_lets_go_once() -> None:
    opener = Opener()
    lease = Lease(opener)
    with lease.held():
        reader = lease.open_blob(CONTEXT, BLOB)
        reader.close()
        reader.close()
        assert not opener.sources[0].closed
    assert opener.sources[0].closed == 1


def test_what_nobody_holds_is_opened_anew_for_a_reader_and_closed_with_it() -> None:
    opener = Opener()
    lease = Lease(opener, opener())
    with lease.held():
        assert lease.opened is opener.sources[0]
    for _ in range(2):
        assert read_all(lease.open_blob(CONTEXT, BLOB)) == b"content"
    assert [one.closed for one in opener.sources] == [1, 1, 1]


def test_a_blob_that_cannot_be_opened_holds_nothing() -> None:
    class Broken(Source):
        def open_blob(self, *_: object) -> ScriptedReader:
            raise SourceError("broken")

    source = Broken()
    with pytest.raises(SourceError):
        Lease(cast("Any", lambda: source)).open_blob(CONTEXT, BLOB)
    assert source.closed == 1


def test_many_threads_share_one_source() -> None:
    opener = Opener()
    lease = Lease(opener)
    with lease.held(), ThreadPoolExecutor(16) as pool:
        assert {*pool.map(lambda _: read_all(lease.open_blob(CONTEXT, BLOB)), range(200))} == {b"content"}
    assert [one.closed for one in opener.sources] == [1]
