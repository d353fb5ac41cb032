"""Redirects over a scripted sender: what is followed, and what of the request comes along."""

from __future__ import annotations

import pytest

from container_image_proxy.config.limits import Limits
from container_image_proxy.errors import RegistryError
from container_image_proxy.registry.endpoints import Endpoint
from container_image_proxy.registry.http.redirects import Redirects
from tests.support.contexts import CONTEXT
from tests.support.senders import REGISTRY, Answer, answer, request_for, scripted

URL = "https://registry.example/v2/some/os/blobs/x"
STORAGE = "https://storage.example/x"
LIMITS = Limits()


def to(location: str, status: int = 307) -> Answer:
    return answer(status, b"Moved", location=location)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_and_their_answers_closed(status: int) -> None:
    with scripted(to("/v2/other/os/blobs/x", status), answer(200)) as inner:
        reply = Redirects(inner, LIMITS).send(request_for(URL), CONTEXT)
        assert (reply.status, reply.endpoint) == (200, "registry.example")
        reply.close()
    assert inner.urls == [URL, "https://registry.example/v2/other/os/blobs/x"]


@pytest.mark.parametrize(("status", "headers"), [(304, {"location": STORAGE}), (307, {}), (200, {"location": STORAGE})])
def test_what_is_no_redirect_is_the_answer(status: int, headers: dict[str, str]) -> None:
    with scripted(answer(status, **headers)) as inner:
        reply = Redirects(inner, LIMITS).send(request_for(URL), CONTEXT)
        assert reply.status == status
        reply.close()


@pytest.mark.demand("AUTH-redirect-cross-origin")
def test_another_origin_gets_neither_credentials_nor_trust() -> None:
    request = request_for(URL, authorization="Bearer secret", is_named=True, trusts_target=True)
    with scripted(to(STORAGE), to(URL), answer(200)) as inner:
        Redirects(inner, LIMITS).send(request, CONTEXT).close()
    first, second, back = inner.sent
    assert (first.authorization, first.is_named, first.trusts_target) == ("Bearer secret", True, True)
    for later in (second, back):
        assert (later.authorization, later.withheld, later.is_named, later.trusts_target) == (None, None, False, False)


@pytest.mark.parametrize("origin", ["http://registry.example", "https://registry.example:444", "https://x.example"])
@pytest.mark.demand("AUTH-redirect-cross-origin")
def test_an_origin_is_scheme_host_and_port(origin: str) -> None:
    insecure = Endpoint(domain="registry.example", insecure=True)
    request = request_for(URL, insecure, authorization="Bearer secret")
    with scripted(to(f"{origin}/v2/some/os/blobs/x"), answer(200)) as inner:
        Redirects(inner, LIMITS).send(request, CONTEXT).close()
    assert inner.sent[1].authorization is None


def test_a_signed_link_of_the_same_origin_gets_no_second_login_until_it_asks() -> None:
    with scripted(to("/signed?x=1"), answer(200)) as inner:
        Redirects(inner, LIMITS).send(request_for(URL, authorization="Bearer secret"), CONTEXT).close()
    assert (inner.sent[1].authorization, inner.sent[1].withheld) == (None, "Bearer secret")


@pytest.mark.parametrize(
    ("location", "fields", "words"),
    [
        ("http://storage.example/x", {}, "redirects from https to http"),
        (STORAGE, {"may_leave_origin": False}, "redirects to another host"),
        ("ftp://storage.example/x", {}, "redirects to a URL that cannot be asked for"),
    ],
)
@pytest.mark.demand("AUTH-redirect-cross-origin")
def test_what_is_not_followed_is_told_of_the_endpoint(location: str, fields: dict[str, bool], words: str) -> None:
    with scripted(to(location)) as inner, pytest.raises(RegistryError, match=words) as caught:
        Redirects(inner, LIMITS).send(request_for(URL, **fields), CONTEXT)
    assert (caught.value.phase, caught.value.endpoint) == ("manifest", REGISTRY.domain)


@pytest.mark.demand("redirect-loop")
def test_no_more_redirects_than_the_limit_are_followed() -> None:
    hops = [to(URL)] * (LIMITS.redirects + 1)
    with scripted(*hops) as inner, pytest.raises(RegistryError, match="redirects more than 10 times"):
        Redirects(inner, LIMITS).send(request_for(URL), CONTEXT)


def test_all_hops_together_have_the_time_of_one() -> None:
    with scripted(to(STORAGE), to(STORAGE), answer(200)) as inner:
        Redirects(inner, LIMITS).send(request_for(URL), CONTEXT).close()
    assert len({context.deadline for context in inner.contexts}) == 1
    assert inner.contexts[0].deadline < CONTEXT.deadline
