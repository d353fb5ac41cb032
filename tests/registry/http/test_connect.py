"""Opening connections."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from container_image_proxy.concurrency.cancellation import Cancellation, CancelledError
from container_image_proxy.concurrency.context import AddressPolicy, Context
from container_image_proxy.errors import RegistryError
from container_image_proxy.registry.http.connect import connect, resolve
from tests.support.contexts import CONTEXT
from tests.support.names import resolve_names
from tests.support.registries import free_port

PATIENCE = 10.0


def test_families_alternate(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_names(monkeypatch, {"host.test": ["127.0.0.1", "127.0.0.2", "127.0.0.3", "::1", "::2"]})
    found = [address[0] for _, address in resolve("host.test", 80, CONTEXT)]
    assert found == ["127.0.0.1", "::1", "127.0.0.2", "::2", "127.0.0.3"]


@pytest.mark.demand("dns-fail")
def test_an_address_that_refuses_gives_way_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_names(monkeypatch, {"host.test": ["127.0.0.7", "127.0.0.8"]})
    with (
        socket.create_server(("127.0.0.8", 0)) as listener,
        connect("host.test", listener.getsockname()[1], CONTEXT) as connection,
    ):
        assert connection.getpeername()[0] == "127.0.0.8"


@pytest.mark.demand("AUTH-realm-ssrf")
def test_one_bad_address_among_good_ones_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_names(monkeypatch, {"host.test": ["127.0.0.1", "169.254.169.254"]})
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(RegistryError, match="refused to connect"),
    ):
        connect("host.test", listener.getsockname()[1], CONTEXT.towards(AddressPolicy.PRIVATE))


def test_nobody_there_is_told_as_the_system_does() -> None:
    with pytest.raises(ConnectionRefusedError):
        connect("127.0.0.1", free_port(), CONTEXT)


@pytest.mark.parametrize("name", ["no such name", "a" * 64 + ".example", "..", "\N{SNOWMAN}." * 100])
def test_what_is_no_host_name_does_not_resolve(name: str) -> None:
    with pytest.raises(OSError):  # noqa: PT011 - gaierror or what the resolver of this system says
        resolve(name, 80, CONTEXT)


@pytest.mark.demand("dns-fail")
def test_no_time_left_is_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(TimeoutError):
        connect("127.0.0.1", listener.getsockname()[1], CONTEXT.within(0))


@pytest.mark.demand("client-disconnect")
def test_nobody_waits_for_a_name_that_nobody_wants_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answered, token = threading.Event(), threading.Event(), Cancellation()

    def never(*_: object, **__: object) -> list[object]:
        asked.set()
        assert answered.wait(PATIENCE)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", never)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(resolve, "host.test", 80, Context(token))
        assert asked.wait(PATIENCE)
        token.cancel()
        with pytest.raises(CancelledError):
            waiting.result(PATIENCE)
        answered.set()
