"""Tokens in hand, over a session of the test's own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import cast

import pytest

from container_image_proxy.concurrency.context import Context
from container_image_proxy.config.limits import Limits
from container_image_proxy.errors import RegistryUnavailableError
from container_image_proxy.registry.auth.token import TokenRequest, Tokens
from container_image_proxy.registry.endpoints import Endpoint
from container_image_proxy.registry.http.sender import Sender
from tests.support.contexts import CONTEXT

PATIENCE = 10.0
REGISTRY = Endpoint(domain="r.example")


@dataclass
class Issued:
    """A reply with a token."""

    value: str
    status: int = 200
    endpoint: str = "r.example"

    def read_all(self, *_: object) -> bytes:
        return b'{"token":"%s"}' % self.value.encode()


@dataclass
class FakeSession:
    """Counts the requests for tokens; ``before`` may raise."""

    before: Callable[[], object] = lambda: None
    urls: list[str] = field(default_factory=list)

    def send(self, request: object, _: Context) -> Issued:
        self.urls.append(str(request))
        self.before()
        return Issued(f"token-{len(self.urls)}")


def tokens_over(session: FakeSession) -> Tokens:
    return Tokens(cast("Sender", session), Limits())


def wanted(service: str = "s") -> TokenRequest:
    return TokenRequest(REGISTRY, "https://r.example/token", service, (), None)


class Noticed(str):  # noqa: SLOT000 - it has attributes
    """Tells when a thread other than ``first`` looks for it; that is when it finds the request of the first."""

    first = 0

    def __init__(self, _: str) -> None:
        self.is_shared = threading.Event()

    def __hash__(self) -> int:
        if self.first and threading.get_ident() != self.first:
            self.is_shared.set()
        return super().__hash__()


@pytest.mark.demand("thundering")
def test_who_wants_the_same_token_meanwhile_shares_the_failure() -> None:
    stale = Noticed("stale")
    has_begun = threading.Event()

    def fail() -> None:
        stale.first = threading.get_ident()
        has_begun.set()
        assert stale.is_shared.wait(PATIENCE)
        raise RegistryUnavailableError("down")

    session = FakeSession(fail)
    tokens = tokens_over(session)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(tokens.get, CONTEXT, wanted(), rejected=stale)
        assert has_begun.wait(PATIENCE)
        second = pool.submit(tokens.get, CONTEXT, wanted(), rejected=stale)
        for asked in (first, second):
            with pytest.raises(RegistryUnavailableError):
                asked.result(PATIENCE)
    assert len(session.urls) == 1


def test_tokens_in_hand_are_not_more_than_a_registry_has_good_use_for() -> None:
    """A challenge may name another service each time."""
    session = FakeSession()
    tokens = tokens_over(session)
    for number in range(1000):
        tokens.get(CONTEXT, wanted(str(number)))
    tokens.get(CONTEXT, wanted("999"))
    assert len(session.urls) == 1000
    tokens.get(CONTEXT, wanted("0"))
    assert len(session.urls) == 1001


def test_a_token_in_use_is_not_asked_for_again() -> None:
    session = FakeSession()
    tokens = tokens_over(session)
    first = tokens.get(CONTEXT, wanted())
    assert tokens.get(CONTEXT, wanted()) == first
    assert tokens.get(CONTEXT, wanted(), rejected=first) != first
    assert len(session.urls) == 2
