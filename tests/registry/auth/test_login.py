"""Logging in over a scripted sender: which challenge is answered, what is remembered, and who gets credentials."""

from __future__ import annotations

import pytest

from container_image_proxy.config.limits import Limits
from container_image_proxy.errors import RateLimitedError, RegistryAuthError
from container_image_proxy.registry.auth.keychain import Credentials, Keychain
from container_image_proxy.registry.auth.login import Login
from container_image_proxy.registry.auth.token import Tokens
from container_image_proxy.registry.http.redirects import Redirects
from container_image_proxy.registry.http.reply import Reply
from container_image_proxy.registry.http.request import Request
from tests.support.contexts import CONTEXT
from tests.support.registry_client import FakeClock
from tests.support.senders import Answer, ScriptedSender, answer, request_for, scripted

URL = "https://registry.example/v2/some/os/manifests/1"
OTHER = "https://registry.example/v2/some/os/manifests/2"
REALM = 'Bearer realm="https://registry.example/token",service="r"'
TOKEN = answer(200, b'{"token":"good"}')
USER = Credentials("user", "password", origin="the test's file")
BASIC = "Basic dXNlcjpwYXNzd29yZA=="


def login_over(
    inner: ScriptedSender,
    credentials: Credentials | None = None,
    *,
    redirects: bool = False,
    clock: FakeClock | None = None,
) -> Login:
    given = {"registry.example": credentials} if credentials else {}
    clock, below = clock or FakeClock(), Redirects(inner, Limits()) if redirects else inner
    return Login(below, Tokens(below, Limits(), clock=clock.now), Keychain(given=given), clock.now)


def ask(login: Login) -> Reply:
    reply = login.send(request_for(URL, repository="some/os"), CONTEXT)
    reply.close()
    return reply


def authorizations(inner: ScriptedSender) -> list[str | None]:
    return [request.authorization for request in inner.sent]


def test_a_stranger_who_is_let_in_logs_in_nowhere() -> None:
    with scripted(answer(200)) as inner:
        assert ask(login_over(inner, USER)).status == 200
    assert authorizations(inner) == [None]


def test_a_bearer_challenge_is_answered_by_a_token_for_the_repository() -> None:
    with scripted(answer(401, www_authenticate=REALM), TOKEN, answer(200)) as inner:
        assert ask(login_over(inner)).status == 200
    assert inner.urls == [URL, "https://registry.example/token?service=r&scope=repository%3Asome%2Fos%3Apull", URL]
    assert authorizations(inner) == [None, None, "Bearer good"]


def test_a_basic_challenge_is_answered_by_the_credentials() -> None:
    with scripted(answer(401, www_authenticate="Basic realm=x"), answer(200)) as inner:
        assert ask(login_over(inner, USER)).status == 200
    assert authorizations(inner) == [None, BASIC]


def test_the_second_request_is_logged_in_from_the_start() -> None:
    with scripted(answer(401, www_authenticate=REALM), TOKEN, answer(200), answer(200)) as inner:
        login = login_over(inner)
        ask(login)
        ask(login)
    assert authorizations(inner)[-1] == "Bearer good"
    assert len(inner.sent) == 4


@pytest.mark.parametrize("status", [403, 404])
@pytest.mark.parametrize(("age", "asked"), [(9.0, 1), (11.0, 2)])
def test_what_is_denied_to_an_old_token_is_asked_for_with_a_new_one(status: int, age: float, asked: int) -> None:
    """Not every registry answers 401 to a token that has expired, and a right may have been granted meanwhile."""
    tokens = iter(("old", "new"))

    def script(request: Request) -> Answer:
        if request.target.request_target.startswith("/token"):
            return answer(200, f'{{"token":"{next(tokens)}","expires_in":3600}}'.encode())
        if request.authorization is None:
            return answer(401, www_authenticate=REALM)
        return answer(200 if request.authorization == "Bearer new" or request.target.url == OTHER else status)

    clock, inner = FakeClock(), ScriptedSender(script)
    login = login_over(inner, clock=clock)
    login.send(request_for(OTHER, repository="some/os"), CONTEXT)
    clock.time += age
    if asked == 1 and status == 403:
        with pytest.raises(RegistryAuthError):
            ask(login)
    else:
        assert ask(login).status == (200 if asked == 2 else status)
    for reply in inner.replies:
        reply.close()
    assert sum("/token" in url for url in inner.urls) == asked


def test_a_denial_stays_one_if_there_is_no_other_token() -> None:
    first = answer(200, b'{"token":"old","expires_in":3600}')
    answers = (answer(401, www_authenticate=REALM), first, answer(200), answer(403), answer(500))
    clock = FakeClock()
    with scripted(*answers) as inner:
        login = login_over(inner, clock=clock)
        ask(login)
        clock.time += 11
        with pytest.raises(RegistryAuthError, match="denies access"):
            ask(login)


def test_a_challenge_that_is_not_in_the_answer_is_looked_for_at_the_door() -> None:
    with scripted(answer(404), answer(401, www_authenticate=REALM), TOKEN, answer(200)) as inner:
        assert ask(login_over(inner)).status == 200
    assert inner.urls[1] == "https://registry.example/v2/"
    assert inner.sent[1].authorization is None


@pytest.mark.demand("429-retry-after")
def test_a_rate_limit_is_no_denial() -> None:
    limited = answer(403, b'{"errors":[{"code":"TOOMANYREQUESTS"}]}', content_type="application/json")
    with scripted(limited) as inner:
        assert isinstance(ask(login_over(inner, USER)).error(CONTEXT), RateLimitedError)


def test_a_denial_says_that_there_are_no_credentials_or_whose_were_refused() -> None:
    denied = answer(401, www_authenticate="Basic realm=x")
    with scripted(denied, denied) as inner, pytest.raises(RegistryAuthError, match="no credentials are configured"):
        ask(login_over(inner))
    with scripted(denied, denied) as inner, pytest.raises(RegistryAuthError, match="from the test's file") as caught:
        ask(login_over(inner, USER))
    assert "password" not in str(caught.value)
    assert (caught.value.phase, caught.value.endpoint) == ("manifest", "registry.example")


@pytest.mark.demand("AUTH-redirect-cross-origin")
@pytest.mark.parametrize("challenge", ["Basic realm=x", 'Bearer realm="https://storage.example/token"'])
def test_whom_the_registry_redirects_to_never_gets_credentials(challenge: str) -> None:
    """It may have an anonymous token of its own, for the layers that drop credentials are below this one."""

    def script(request: Request) -> Answer:
        host = request.target.origin.host
        if host == "registry.example":
            return answer(307, location="https://storage.example/x") if request.authorization else to_log_in
        if request.target.request_target.startswith("/token"):
            return TOKEN
        return answer(200) if request.authorization else answer(401, www_authenticate=challenge)

    to_log_in = answer(401, www_authenticate="Basic realm=x")
    inner = ScriptedSender(script)
    login = login_over(inner, USER, redirects=True)
    if challenge.startswith("Basic"):
        with pytest.raises(RegistryAuthError, match=r"storage\.example.* wants a login"):
            ask(login)
    else:
        assert ask(login).status == 200
    for reply in inner.replies:
        reply.close()
    seen = {request.authorization for request in inner.sent if request.target.origin.host != "registry.example"}
    assert seen <= {None, "Bearer good"}
    assert BASIC in authorizations(inner)


def test_all_that_a_login_takes_has_the_context_of_its_request() -> None:
    with scripted(answer(401, www_authenticate=REALM), TOKEN, answer(200)) as inner:
        ask(login_over(inner))
    assert {context.deadline for context in inner.contexts} == {CONTEXT.deadline}
    first, token, last = inner.contexts
    assert first.cancellation is last.cancellation is CONTEXT.cancellation
    assert token.cancellation is not CONTEXT.cancellation, "the token is for whoever waits for it"
