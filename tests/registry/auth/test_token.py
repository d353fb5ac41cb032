"""Tokens in hand, over a scripted sender."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from container_image_proxy.config.limits import Limits
from container_image_proxy.errors import RegistryUnavailableError
from container_image_proxy.registry.auth.token import TokenRequest, Tokens
from container_image_proxy.registry.endpoints import Endpoint
from container_image_proxy.registry.http.request import Request
from tests.support.contexts import CONTEXT
from tests.support.senders import Answer, ScriptedSender, answer

PATIENCE = 10.0
REGISTRY = Endpoint(domain="r.example")


def issuing(before: Callable[[], object] = lambda: None) -> ScriptedSender:
    """Answers each request for a token with another one; ``before`` may raise."""

    def script(_: Request) -> Answer:
        before()
        return answer(200, b'{"token":"token-%d"}' % len(sender.sent))

    sender = ScriptedSender(script)
    return sender


def tokens_over(sender: ScriptedSender) -> Tokens:
    return Tokens(sender, Limits())


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

    sender = issuing(fail)
    tokens = tokens_over(sender)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(tokens.get, CONTEXT, wanted(), rejected=stale)
        assert has_begun.wait(PATIENCE)
        second = pool.submit(tokens.get, CONTEXT, wanted(), rejected=stale)
        for asked in (first, second):
            with pytest.raises(RegistryUnavailableError):
                asked.result(PATIENCE)
    assert len(sender.urls) == 1


def test_tokens_in_hand_are_not_more_than_a_registry_has_good_use_for() -> None:
    """A challenge may name another service each time."""
    sender = issuing()
    tokens = tokens_over(sender)
    for number in range(1000):
        tokens.get(CONTEXT, wanted(str(number)))
    tokens.get(CONTEXT, wanted("999"))
    assert len(sender.urls) == 1000
    tokens.get(CONTEXT, wanted("0"))
    assert len(sender.urls) == 1001


def test_a_token_in_use_is_not_asked_for_again() -> None:
    sender = issuing()
    tokens = tokens_over(sender)
    first = tokens.get(CONTEXT, wanted())
    assert tokens.get(CONTEXT, wanted()) == first
    assert tokens.get(CONTEXT, wanted(), rejected=first) != first
    assert len(sender.urls) == 2
