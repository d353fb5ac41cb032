"""The time that an image's signatures may take to come: one bound for all of them, whatever keeps each single limit."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from container_image_proxy.concurrency.cancellation import Cancellation, CancelledError
from container_image_proxy.concurrency.context import Context
from container_image_proxy.config.lookaside import LookasideConfiguration, Section
from container_image_proxy.errors import UpstreamTimeoutError
from container_image_proxy.image.digest import digest_of
from container_image_proxy.image.reference import parse_reference
from container_image_proxy.registry.attempts import Clock
from container_image_proxy.registry.endpoints import Repository
from container_image_proxy.registry.signatures.storage import MAX_TIME, SignatureStorage
from tests.support.contexts import CONTEXT
from tests.support.registry_client import registry_client
from tests.support.upstream import (
    Connection,
    Handler,
    ReceivedRequest,
    Upstream,
    answering,
    by_path,
    content,
    in_order,
)

INDEX, MANIFEST = digest_of(b"the index"), digest_of(b"the manifest")
SIGNATURE = b"\x90 is how a signature begins"
PATIENCE = 10.0


class RealTime:
    """What ``registry_client`` takes for a clock, and no fake."""

    clock = Clock()


@contextlib.contextmanager
def storage(handler: Handler, seconds: float) -> Iterator[tuple[SignatureStorage, Upstream]]:
    with Upstream(handler) as upstream, registry_client(clock=RealTime()) as client:  # type: ignore[arg-type]
        lookaside = LookasideConfiguration("/none", Section(lookaside=f"{upstream.url}/lookaside"))
        yield SignatureStorage(lookaside, client, seconds), upstream


def fetch(storage: SignatureStorage, upstream: Upstream, context: Context = CONTEXT) -> int:
    """How many signatures the index and the manifest have; raises the first failure to get one."""
    place = Repository(domain=upstream.authority, reference=parse_reference(f"{upstream.authority}/os:1"))
    count = 0
    for digest in (INDEX, MANIFEST):
        for found in storage.fetch(context, place, digest, {"simple"}):
            for failure in found.failures:
                raise failure.error
            count += len(found.signatures)
    return count


def after(seconds: float, then: Handler) -> Handler:
    def handle(request: ReceivedRequest, connection: Connection) -> None:
        if connection.pause(seconds):
            then(request, connection)

    return handle


def test_it_is_five_minutes() -> None:
    assert MAX_TIME == 300


@pytest.mark.demand("LIM-signatures")
@pytest.mark.demand("slow-drip")
def test_a_storage_that_answers_each_request_in_time_is_held_to_the_time_for_all() -> None:
    with storage(after(0.1, content(SIGNATURE)), 1.0) as (slow, upstream):
        with pytest.raises(UpstreamTimeoutError, match="did not come within 300 s") as caught:
            fetch(slow, upstream)
        assert caught.value.phase == "signature"
        assert caught.value.retryable
        assert len(upstream.requests) <= 11


@pytest.mark.demand("LIM-signatures")
def test_the_time_is_one_for_index_and_manifest() -> None:
    routes = {f"{INDEX.hex}/signature-{number}": after(0.2, content(SIGNATURE)) for number in range(1, 4)}
    routes[f"{MANIFEST.hex}/signature-1"] = after(PATIENCE, content(SIGNATURE))
    with storage(by_path(routes), 1.0) as (slow, upstream), pytest.raises(UpstreamTimeoutError):
        fetch(slow, upstream)
    assert any(path.endswith(f"{MANIFEST.hex}/signature-1") for path in upstream.paths())


def test_who_asks_to_come_back_later_is_waited_for_within_it() -> None:
    first = in_order(answering(429, headers={"Retry-After": "1"}), content(SIGNATURE))
    with storage(by_path({f"{INDEX.hex}/signature-1": first}), PATIENCE) as (busy, upstream):
        assert fetch(busy, upstream) == 1


def test_who_asks_to_come_back_much_later_is_not_waited_for_beyond_it() -> None:
    with storage(answering(429, headers={"Retry-After": "60"}), 0.5) as (busy, upstream):
        with pytest.raises(UpstreamTimeoutError):
            fetch(busy, upstream)
        assert len(upstream.requests) == 1


@pytest.mark.demand("client-disconnect")
def test_fetching_ends_when_nobody_waits_any_more() -> None:
    begun, token = threading.Event(), Cancellation()

    def stall(_: ReceivedRequest, connection: Connection) -> None:
        begun.set()
        connection.wait_for_end()

    with storage(stall, PATIENCE * 6) as (silent, upstream), ThreadPoolExecutor(1) as pool:
        running = pool.submit(fetch, silent, upstream, Context(token))
        assert begun.wait(PATIENCE)
        token.cancel()
        with pytest.raises(CancelledError):
            running.result(PATIENCE)
