"""Where challenges are found, how they are answered, and what is told when that does not help."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pytest

from container_image_proxy.errors import (
    RateLimitedError,
    RegistryAuthError,
    RegistryError,
    RegistryUnavailableError,
    UnknownManifestError,
    UpstreamError,
)
from container_image_proxy.registry.auth.keychain import Credentials
from container_image_proxy.registry.http import connections
from tests.support.contexts import CONTEXT
from tests.support.hosts import FOREIGN, LOGIN, REGISTRY, SIBLING, World, at, challenging, issuing
from tests.support.registry_client import FakeClock, registry_client
from tests.support.upstream import Connection, Handler, ReceivedRequest, Upstream, answering, by_path, redirecting

BASIC = "Basic bWU6dGhlLXBhc3N3b3Jk"
IDENTITY = Credentials("", "", "the-identity", "the test's file")
BOTH = Credentials("me", "the-password", "the-identity", "the test's file")
JSON = {"Content-Type": "application/json"}
LIMITED = json.dumps({"errors": [{"code": "TOOMANYREQUESTS", "message": "x"}]}).encode()


def url(registry: Upstream, path: str = "/token", name: str = REGISTRY) -> str:
    return f"http://{name}:{registry.port}{path}"


def hiding(world: World, registry: Upstream, denial: Handler, challenge: str, accepted: str = "Bearer good") -> None:
    """Let ``registry`` answer strangers with ``denial``, and tell at its door alone how to log in."""
    serve = by_path(world.routes)

    def handle(request: ReceivedRequest, connection: Connection) -> None:
        if request.path == "/token":
            issuing()(request, connection)
        elif request.path == "/v2/":
            connection.answer(401, headers={"WWW-Authenticate": challenge})
        elif request.headers.get("authorization") == accepted:
            serve(request, connection)
        else:
            denial(request, connection)

    registry.handler = handle


# --- where the challenge is ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("credentials", [LOGIN, None], ids=["login", "anonymous"])
@pytest.mark.parametrize(
    "denial",
    [
        answering(401),
        answering(403, b'{"errors":[{"code":"DENIED"}]}', JSON),
        answering(404),
        answering(400),
        answering(410),
        answering(401, headers={"WWW-Authenticate": "Negotiate"}),
        answering(401, headers={"WWW-Authenticate": 'Bearer service="s"'}),
        answering(401, headers={"WWW-Authenticate": 'Bearer realm="no url"'}),
        answering(403, headers={"WWW-Authenticate": "Bearer"}),
    ],
    ids=["401", "403", "404", "400", "410", "Negotiate", "no realm", "no url", "403 Bearer"],
)
def test_the_challenge_of_the_door_counts_where_the_answer_has_no_good_one(
    world: World, denial: Handler, credentials: tuple[str, str] | None
) -> None:
    with Upstream(answering(500), host="127.0.0.2") as registry:
        hiding(world, registry, denial, f'Bearer realm="{url(registry)}",service="s"')
        given = {f"{REGISTRY}:{registry.port}": credentials} if credentials else {}
        with registry_client(credentials=given) as client:
            assert client.fetch_manifest(CONTEXT, at(registry, REGISTRY)) is not None
            assert registry.paths().count("/v2/") == 1
            assert client.fetch_manifest(CONTEXT, at(registry, REGISTRY)) is not None
        assert registry.paths().count("/v2/") == 1, "it is remembered"
        sent = [request.headers.get("authorization") for request in registry.requests if request.path == "/token"]
        assert sent == [BASIC if credentials else None]


@pytest.mark.demand("AUTH-realm-cross-host")
def test_the_realm_of_the_door_counts_where_the_answer_names_one_that_is_not_trusted(world: World) -> None:
    with Upstream(answering(500), host="127.0.0.2") as registry:
        foreign = answering(401, headers={"WWW-Authenticate": f'Bearer realm="https://{FOREIGN}/token"'})
        hiding(world, registry, foreign, f'Bearer realm="{url(registry)}",service="s"')
        with registry_client(credentials={f"{REGISTRY}:{registry.port}": LOGIN}) as client:
            assert client.fetch_manifest(CONTEXT, at(registry, REGISTRY)) is not None
        assert "127.0.0.4" not in world.dialled


def test_a_door_that_answers_200_may_challenge_too(world: World) -> None:
    serve = by_path(world.routes)

    def handle(request: ReceivedRequest, connection: Connection) -> None:
        if request.path == "/v2/":
            connection.answer(200, headers={"WWW-Authenticate": "Basic"})
        elif request.headers.get("authorization") == BASIC:
            serve(request, connection)
        else:
            connection.answer(404)

    with (
        Upstream(handle, host="127.0.0.2") as registry,
        registry_client(credentials={f"{REGISTRY}:{registry.port}": LOGIN}) as client,
    ):
        assert client.fetch_manifest(CONTEXT, at(registry, REGISTRY)) is not None


def test_an_open_door_is_not_knocked_at_for_each_thing_that_is_missing(world: World) -> None:
    clock = FakeClock()
    with Upstream(by_path({"/v2/": answering(200)}), host="127.0.0.2") as registry:
        with registry_client(clock=clock) as client:
            for _ in range(3):
                with pytest.raises(UnknownManifestError):
                    client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
            assert registry.paths().count("/v2/") == 1
            clock.time += 601
            with pytest.raises(UnknownManifestError):
                client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
        assert registry.paths().count("/v2/") == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_what_is_missing_stays_missing_where_strangers_get_no_token(world: World, status: int) -> None:
    with Upstream(answering(500), host="127.0.0.2") as registry:
        hiding(world, registry, answering(404), f'Bearer realm="{url(registry, "/none")}"')
        refusing = registry.handler

        def handle(request: ReceivedRequest, connection: Connection) -> None:
            (answering(status) if request.path == "/none" else refusing)(request, connection)

        registry.handler = handle
        with registry_client() as client, pytest.raises(UnknownManifestError):
            client.fetch_manifest(CONTEXT, at(registry, REGISTRY))


@pytest.mark.parametrize(
    "lines",
    [
        ["Negotiate", 'Basic realm="r"'],
        ['Negotiate, Basic realm="r"'],
        ['NTLM, Negotiate oRQ=, Basic realm="r"'],
        ['Digest realm="r", nonce="x", qop="auth", Basic realm="r"'],
        ['Basic realm="r", Bearer realm="{t}",service="s"'],
        ['Bearer realm="{t}",service="s", Basic realm="r"'],
        ['Basic realm="r"', 'Bearer realm="{t}",service="s"'],
        ['Bearer realm="{t}"'],
        ["Bearer realm={t},service=s"],
        ['bEaReR ReAlM = "{t}" , SeRvIcE = "s, with a comma"'],
        ['Bearer realm="{t}?a=b&c=%2F",service="s"'],
        ['Bearer ,realm="{t}",,service="s",'],
        ['Bearer realm="{t}" service="s"'],
        ['Bearer realm="/token",service="s"'],
        ["Basic"],
    ],
    ids=str,
)
def test_forms_of_challenges(world: World, lines: list[str]) -> None:
    serve = by_path(world.routes)

    def handle(request: ReceivedRequest, connection: Connection) -> None:
        authorization = request.headers.get("authorization")
        if request.path == "/token":
            (issuing() if authorization == BASIC else answering(401))(request, connection)
        elif authorization in {"Bearer good", BASIC}:
            serve(request, connection)
        else:
            head = [f"WWW-Authenticate: {line.replace('{t}', url(registry))}" for line in lines]
            connection.send("\r\n".join(["HTTP/1.1 401 No", "Content-Length: 0", *head, "", ""]).encode())

    with (
        Upstream(handle, host="127.0.0.2") as registry,
        registry_client(credentials={f"{REGISTRY}:{registry.port}": LOGIN}) as client,
    ):
        assert client.fetch_manifest(CONTEXT, at(registry, REGISTRY)) is not None


# --- redirects -------------------------------------------------------------------------------------------------------


def test_a_redirect_out_of_the_api_takes_no_authorization_along(world: World) -> None:
    serve = by_path(world.routes)

    def handle(request: ReceivedRequest, connection: Connection) -> None:
        if request.path.startswith("/storage/"):
            (answering(400) if "authorization" in request.headers else serve)(request, connection)
        else:
            connection.answer(307, headers={"Location": f"/storage{request.path}?X-Signature=1"})

    with Upstream(answering(500), host="127.0.0.2") as registry:
        registry.handler = basic(handle)
        with registry_client(credentials={f"{REGISTRY}:{registry.port}": LOGIN}) as client:
            assert client.fetch_manifest(CONTEXT, at(registry, REGISTRY)) is not None
        assert "authorization" not in registry.requests[-1].headers


@pytest.mark.parametrize("status", [401, 403])
def test_a_place_out_of_the_api_that_asks_for_it_gets_it_all_the_same(world: World, status: int) -> None:
    serve = by_path(world.routes)

    def handle(request: ReceivedRequest, connection: Connection) -> None:
        if not request.path.startswith("/repository/"):
            connection.answer(302, headers={"Location": f"/repository{request.path}"})
        elif request.headers.get("authorization") == BASIC:
            serve(request, connection)
        else:
            connection.answer(status)

    with Upstream(answering(500), host="127.0.0.2") as registry:
        registry.handler = basic(handle)
        with registry_client(credentials={f"{REGISTRY}:{registry.port}": LOGIN}) as client:
            assert client.fetch_manifest(CONTEXT, at(registry, REGISTRY)) is not None


def basic(serve: Handler) -> Handler:
    """A registry whose API wants a login."""

    def handle(request: ReceivedRequest, connection: Connection) -> None:
        if request.path.startswith("/v2/") and "authorization" not in request.headers:
            connection.answer(401, headers={"WWW-Authenticate": "Basic"})
        else:
            serve(request, connection)

    return handle


@pytest.mark.demand("AUTH-redirect-cross-origin")
@pytest.mark.demand("AUTH-realm-cross-host")
@pytest.mark.parametrize("credentials", [LOGIN, IDENTITY, None], ids=["login", "identity", "anonymous"])
@pytest.mark.parametrize("mode", ["all", "who has a token", "but the door"])
def test_a_vanity_registry_sends_to_one_that_wants_an_anonymous_token(
    world: World, mode: str, credentials: tuple[str, str] | Credentials | None
) -> None:
    """The real registry names its realm; the vanity registry's credentials go to neither."""
    with world.secure(answering(500), FOREIGN) as real, world.secure(answering(500), REGISTRY) as vanity:
        world.trust(vanity, REGISTRY)
        own = f"https://{FOREIGN}:{real.port}/token"
        real.handler = by_path({"/token": issuing()}, default=challenging(own, world.routes))

        def handle(request: ReceivedRequest, connection: Connection) -> None:
            if mode == "who has a token" and credentials is None and "authorization" not in request.headers:
                connection.answer(401, headers={"WWW-Authenticate": f'Bearer realm="{own}"'})
            elif mode == "but the door" and request.path == "/v2/":
                connection.answer(200)
            else:
                redirecting(f"https://{FOREIGN}:{real.port}{request.target}")(request, connection)

        vanity.handler = handle
        given = {f"{REGISTRY}:{vanity.port}": credentials} if credentials else {}
        with registry_client(credentials=given, certificates=world.certificates, tls_verify=None) as client:
            assert client.fetch_manifest(CONTEXT, at(vanity, REGISTRY)) is not None
        for request in real.requests:
            assert request.headers.get("authorization") in {None, "Bearer good"}
            assert request.method == "GET"
        scopes = [
            parse_qs(urlsplit(request.target).query)["scope"] for request in real.requests if request.path == "/token"
        ]
        assert ["repository:some/image:pull"] in scopes


def test_an_anonymous_token_that_a_redirects_target_no_longer_takes_is_renewed(world: World) -> None:
    accepted = ["one"]

    def handle(request: ReceivedRequest, connection: Connection) -> None:
        own = url(real, name=FOREIGN)
        routes = {"/token": issuing(accepted[0])}
        by_path(routes, default=challenging(own, world.routes, wanted=accepted[0]))(request, connection)

    with Upstream(handle, host="127.0.0.4") as real, Upstream(answering(500), host="127.0.0.2") as vanity:
        vanity.handler = lambda request, connection: redirecting(f"http://{FOREIGN}:{real.port}{request.target}")(
            request, connection
        )
        with registry_client() as client:
            assert client.fetch_manifest(CONTEXT, at(vanity, REGISTRY)) is not None
            accepted[0] = "two"
            assert client.fetch_manifest(CONTEXT, at(vanity, REGISTRY)) is not None
        assert real.paths().count("/token") == 2


@pytest.mark.parametrize("denial", [403, 404, 401])
def test_a_real_registry_that_challenges_at_its_door_only_is_asked_there(world: World, denial: int) -> None:
    with Upstream(answering(500), host="127.0.0.4") as real, Upstream(answering(500), host="127.0.0.2") as vanity:
        hiding(world, real, answering(denial), f'Bearer realm="{url(real, name=FOREIGN)}"')
        vanity.handler = lambda request, connection: redirecting(f"http://{FOREIGN}:{real.port}{request.target}")(
            request, connection
        )
        with registry_client() as client:
            assert client.fetch_manifest(CONTEXT, at(vanity, REGISTRY)) is not None


@pytest.mark.demand("AUTH-redirect-cross-origin")
@pytest.mark.parametrize("challenge", ["Basic", "refused", "for ever"])
def test_what_a_redirects_target_wants_beyond_that_is_told_as_its_wish(world: World, challenge: str) -> None:
    with Upstream(answering(500), host="127.0.0.4") as real, Upstream(answering(500), host="127.0.0.2") as vanity:
        wants = "Basic" if challenge == "Basic" else f'Bearer realm="{url(real, name=FOREIGN)}"'
        token = answering(403) if challenge == "refused" else issuing()
        real.handler = by_path({"/token": token}, default=answering(401, headers={"WWW-Authenticate": wants}))
        vanity.handler = redirecting(f"http://{FOREIGN}:{real.port}/v2/some/image/manifests/latest")
        with (
            registry_client(credentials={f"{REGISTRY}:{vanity.port}": LOGIN}, clock=FakeClock()) as client,
            pytest.raises(RegistryAuthError, match=rf"{FOREIGN}:\d+, to which .* redirects, wants a login") as caught,
        ):
            client.fetch_manifest(CONTEXT, at(vanity, REGISTRY))
        assert not caught.value.retryable
        assert not any((r.headers.get("authorization") or "").startswith("Basic") for r in real.requests)
        assert len(real.requests) <= 5


@pytest.mark.demand("AUTH-realm-ssrf")
def test_no_realm_of_a_redirects_target_leads_a_public_registrys_client_into_a_private_network(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "is_private", lambda address: address != "127.0.0.2")
    with Upstream(answering(500), host="127.0.0.2") as registry, world.secure(issuing(), FOREIGN) as private:
        wants = f'Bearer realm="https://{FOREIGN}:{private.port}/token"'
        registry.handler = answering(401, headers={"WWW-Authenticate": wants})
        with registry_client() as client, pytest.raises(UpstreamError, match="refused to connect"):
            client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
        assert private.connections == []
        with (
            registry_client(token_realms=(FOREIGN,)) as client,
            pytest.raises(UpstreamError, match="certificate"),  # the administrator named it: it is contacted
        ):
            client.fetch_manifest(CONTEXT, at(registry, REGISTRY))


@pytest.mark.demand("AUTH-realm-ssrf")
def test_a_realm_that_the_administrator_named_never_leads_to_metadata(world: World) -> None:
    wants = 'Bearer realm="https://metadata.test/token"'
    with Upstream(answering(401, headers={"WWW-Authenticate": wants}), host="127.0.0.2") as registry:
        given = {f"{REGISTRY}:{registry.port}": LOGIN}
        with (
            registry_client(credentials=given, token_realms=("metadata.test",)) as client,
            pytest.raises(UpstreamError, match="refused to connect"),
        ):
            client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
    assert "169.254.169.254" not in world.dialled


# --- identity tokens -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("credentials", [IDENTITY, BOTH], ids=["alone", "with password"])
def test_an_identity_token_is_sent_as_oauth2_wants_it(world: World, credentials: Credentials) -> None:
    with Upstream(answering(500), host="127.0.0.2") as registry:
        registry.handler = by_path({"/token": issuing()}, default=challenging(url(registry), world.routes))
        with registry_client(credentials={f"{REGISTRY}:{registry.port}": credentials}) as client:
            assert client.fetch_manifest(CONTEXT, at(registry, REGISTRY)) is not None
        (asked,) = [request for request in registry.requests if request.path == "/token"]
        assert asked.method == "POST"
        assert "authorization" not in asked.headers
        assert parse_qs(asked.body.decode()) == {
            "grant_type": ["refresh_token"],
            "refresh_token": ["the-identity"],
            "service": ["s&x=1#y"],
            "scope": ["repository:some/image:pull"],
            "client_id": ["container-image-proxy"],
        }


@pytest.mark.demand("AUTH-realm-cross-host")
def test_a_token_for_the_registry_itself_goes_to_it_and_to_no_token_service(world: World) -> None:
    mine = Credentials("", "", "", "the test's file", "good")
    with Upstream(answering(500), host="127.0.0.2") as registry:
        registry.handler = challenging(f"https://{FOREIGN}/token", world.routes)
        with registry_client(credentials={f"{REGISTRY}:{registry.port}": mine}) as client:
            assert client.fetch_manifest(CONTEXT, at(registry, REGISTRY)) is not None
        registry.handler = challenging(f"https://{FOREIGN}/token", world.routes, wanted="another")
        with (
            registry_client(credentials={f"{REGISTRY}:{registry.port}": mine}) as client,
            pytest.raises(RegistryAuthError, match="does not accept the credentials from"),
        ):
            client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
    assert "127.0.0.4" not in world.dialled


def test_beside_an_identity_token_user_and_password_answer_a_basic_challenge(world: World) -> None:
    with Upstream(basic(by_path(world.routes)), host="127.0.0.2") as registry:
        with registry_client(credentials={f"{REGISTRY}:{registry.port}": BOTH}) as client:
            assert client.fetch_manifest(CONTEXT, at(registry, REGISTRY)) is not None
        assert registry.requests[-1].headers["authorization"] == BASIC


@pytest.mark.parametrize("status", [404, 405])
def test_a_token_service_without_oauth2_is_asked_with_user_and_password(world: World, status: int) -> None:
    def token(request: ReceivedRequest, connection: Connection) -> None:
        (issuing() if request.headers.get("authorization") == BASIC else answering(status))(request, connection)

    with Upstream(answering(500), host="127.0.0.2") as registry:
        registry.handler = by_path({"/token": token}, default=challenging(url(registry), world.routes))
        with registry_client(credentials={f"{REGISTRY}:{registry.port}": BOTH}) as client:
            assert client.fetch_manifest(CONTEXT, at(registry, REGISTRY)) is not None
        with (
            registry_client(credentials={f"{REGISTRY}:{registry.port}": IDENTITY}) as client,
            pytest.raises(RegistryError, match=f"answered {status}"),
        ):
            client.fetch_manifest(CONTEXT, at(registry, REGISTRY))


# --- the token -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {"token": "good"},
        {"access_token": "good"},
        {"token": "good", "access_token": "other"},
        {"token": "", "access_token": "good"},
        {"token": None, "access_token": "good"},
        {"Access_Token": "good"},
        {"token": " good\n"},
        {"token": "good", "expires_in": 300.5, "issued_at": "yesterday"},
        {"token": "good", "expires_in": "300", "issued_at": 7},
        {"token": "good", "expires_in": "soon", "refresh_token": 5},
        {"token": "good", "expires_in": None, "issued_at": None},
        {"token": "good", "expires_in": -5},
        {"token": "good", "expires_in": 10**60},
        {"token": "good", "expires_in": [], "scope": "x", "errors": []},
    ],
    ids=lambda body: json.dumps(body)[:60],
)
def test_forms_of_tokens(world: World, body: dict[str, object]) -> None:
    with Upstream(answering(500), host="127.0.0.2") as registry:
        token = answering(200, json.dumps(body).encode(), {"Content-Type": "text/plain"})
        registry.handler = by_path({"/token": token}, default=challenging(url(registry), world.routes))
        with registry_client() as client:
            assert client.fetch_manifest(CONTEXT, at(registry, REGISTRY)) is not None


@pytest.mark.parametrize(
    ("told", "life"), [("300", 300), (300.9, 300), (10**60, 86400), ("x", 60), (None, 60), (-1, 60)]
)
def test_a_token_lives_as_long_as_is_told_within_bounds(world: World, told: object, life: int) -> None:
    clock = FakeClock()
    with Upstream(answering(500), host="127.0.0.2") as registry:
        registry.handler = by_path(
            {"/token": issuing(expires_in=told)}, default=challenging(url(registry), world.routes)
        )
        with registry_client(clock=clock) as client:
            client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
            clock.time += life - 1
            client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
            assert registry.paths().count("/token") == 1
            clock.time += 2
            client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
            assert registry.paths().count("/token") == 2


# --- rate limits -----------------------------------------------------------------------------------------------------


def limits() -> list[tuple[str, Handler]]:
    lower = LIMITED.replace(b"TOOMANYREQUESTS", b"toomanyrequests")
    return [
        ("429", answering(429)),
        *((str(status), answering(status, LIMITED, JSON)) for status in (400, 401, 403, 404, 500, 503)),
        ("not told as JSON", answering(403, LIMITED, {"Content-Type": "text/plain"})),
        ("lower case", answering(403, lower, JSON)),
        ("one error", answering(403, b'{"errors":{"code":"TOOMANYREQUESTS"}}', JSON)),
        ("no list", answering(403, b'{"code":"TOOMANYREQUESTS","message":"x"}', JSON)),
        ("text", answering(403, b"toomanyrequests: Rate exceeded", {"Content-Type": "text/plain"})),
    ]


@pytest.mark.demand("429-retry-after")
@pytest.mark.parametrize("where", ["registry", "token service"])
@pytest.mark.parametrize("limited", [handler for _, handler in limits()], ids=[name for name, _ in limits()])
def test_a_rate_limit_is_told_by_its_code_whatever_the_status(world: World, limited: Handler, where: str) -> None:
    count = [0]

    def token(request: ReceivedRequest, connection: Connection) -> None:
        count[0] += 1
        (limited if where == "token service" and count[0] < 3 else issuing())(request, connection)

    def serve(request: ReceivedRequest, connection: Connection) -> None:
        count[0] += 1
        (limited if where == "registry" and count[0] < 3 else by_path(world.routes))(request, connection)

    clock = FakeClock()
    with Upstream(answering(500), host="127.0.0.2") as registry:
        open_routes = {"/token": token, "/manifests/latest": serve}
        closed = by_path({"/token": token}, default=challenging(url(registry), world.routes))
        registry.handler = by_path(open_routes) if where == "registry" else closed
        with registry_client(clock=clock) as client:
            assert client.fetch_manifest(CONTEXT, at(registry, REGISTRY)) is not None
        assert len(clock.slept) == 2


@pytest.mark.demand("429-retry-after")
def test_a_rate_limit_that_stays_is_told_as_one(world: World) -> None:
    with Upstream(answering(403, LIMITED, {**JSON, "Retry-After": "7"}), host="127.0.0.2") as registry:
        with registry_client(clock=FakeClock()) as client, pytest.raises(RateLimitedError) as caught:
            client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
        assert (caught.value.upstream_status, caught.value.retry_after, caught.value.retryable) == (403, 7, True)


# --- what is told ----------------------------------------------------------------------------------------------------


def denying(challenge: str, status: int = 401) -> Callable[[Upstream], Handler]:
    def handler(registry: Upstream) -> Handler:
        headers = {"WWW-Authenticate": challenge.replace("{t}", url(registry))} if challenge else {}
        return by_path({"/token": issuing()}, default=answering(status, headers=headers))

    return handler


@pytest.mark.parametrize(
    ("credentials", "handler", "told"),
    [
        (None, denying(""), "wants a login, and no credentials are configured for it"),
        (None, denying("", 403), "denies access, and no credentials are configured for it"),
        (None, denying('Bearer realm="{t}"'), "wants a login, and no credentials are configured for it"),
        (LOGIN, denying("Basic"), "does not accept .* file, or they have no access to some/image"),
        (LOGIN, denying("Basic", 403), "gives the credentials from the test's file no access to some/image"),
        (LOGIN, denying(""), "denies access and does not say how to log in: .* were not sent"),
        (LOGIN, denying("", 403), "denies access and does not say how to log in: .* were not sent"),
        (LOGIN, denying("NTLM, Negotiate"), "wants a login by ntlm, negotiate, which is not .* were not sent"),
        (IDENTITY, denying("Basic"), "wants a user and a password, .* were not sent"),
    ],
)  # fmt: skip
def test_a_denial_says_what_happened(
    world: World,
    credentials: tuple[str, str] | Credentials | None,
    handler: Callable[[Upstream], Handler],
    told: str,
) -> None:
    with Upstream(answering(500), host="127.0.0.2") as registry:
        registry.handler = handler(registry)
        given = {f"{REGISTRY}:{registry.port}": credentials} if credentials else {}
        with registry_client(credentials=given) as client, pytest.raises(RegistryAuthError, match=told):
            client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
        if "were not sent" in told:
            assert not any("authorization" in request.headers for request in registry.requests)


@pytest.mark.parametrize(
    ("credentials", "status", "told"),
    [
        (None, 401, "wants a login, and no credentials are configured for it"),
        (LOGIN, 401, "the token service of .* does not accept the credentials from the test's file"),
        (LOGIN, 403, "the token service of .* does not accept the credentials from the test's file"),
        (IDENTITY, 401, "the token service of .* does not accept the identity token from the test's file"),
        (IDENTITY, 400, "the token service of .* does not accept the identity token from the test's file"),
        (Credentials("me", "", "", "the test's file"), 401, "wants a password, and the credentials from .* have none"),
        (LOGIN, 400, "answered 400 to the token request"),
        (LOGIN, 404, "answered 404 to the token request"),
    ],
)  # fmt: skip
def test_a_refused_token_says_by_whom_and_why(
    world: World, credentials: tuple[str, str] | Credentials | None, status: int, told: str
) -> None:
    with Upstream(answering(500), host="127.0.0.2") as registry:
        registry.handler = by_path({"/token": answering(status)}, default=challenging(url(registry), world.routes))
        given = {f"{REGISTRY}:{registry.port}": credentials} if credentials else {}
        with registry_client(credentials=given) as client, pytest.raises(UpstreamError, match=told) as caught:
            client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
        assert (caught.value.phase, caught.value.upstream_status, caught.value.retryable) == ("token", status, False)
        assert registry.paths().count("/token") == 1


def test_a_token_service_beside_the_registry_is_named(world: World) -> None:
    with world.secure(answering(403), SIBLING) as service, world.secure(answering(500), REGISTRY) as registry:
        world.trust(registry, REGISTRY)
        registry.handler = challenging(f"https://{SIBLING}:{service.port}/token", world.routes)
        given = {f"{REGISTRY}:{registry.port}": LOGIN}
        with (
            registry_client(credentials=given, certificates=world.certificates, tls_verify=None) as client,
            pytest.raises(RegistryAuthError, match=rf"^{SIBLING}:\d+, for {REGISTRY}:\d+, does not accept"),
        ):
            client.fetch_manifest(CONTEXT, at(registry, REGISTRY))


@pytest.mark.demand("429-retry-after")
def test_a_rate_limit_of_storage_is_told_as_one(world: World) -> None:
    slow = answering(429, headers={"Retry-After": "7"})
    with Upstream(slow, host="127.0.0.4") as storage, Upstream(answering(500), host="127.0.0.2") as registry:
        registry.handler = redirecting(f"http://{FOREIGN}:{storage.port}/x")
        with registry_client(clock=FakeClock()) as client, pytest.raises(RateLimitedError) as caught:
            client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
        assert (caught.value.upstream_status, caught.value.retry_after) == (429, 7)


def test_a_link_to_storage_that_expired_may_be_given_anew(world: World) -> None:
    with Upstream(answering(403), host="127.0.0.4") as storage, Upstream(answering(500), host="127.0.0.2") as registry:
        registry.handler = redirecting(f"http://{FOREIGN}:{storage.port}/x")
        with (
            registry_client(clock=FakeClock()) as client,
            pytest.raises(RegistryUnavailableError, match="redirects, answered 403"),
        ):
            client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
