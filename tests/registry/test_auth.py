"""Credentials and tokens over hosts with different names: who gets them, and above all who does not."""

from __future__ import annotations

import logging
import socket
import threading
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from container_image_proxy.concurrency.context import Context
from container_image_proxy.config.registries import Mirror, Registries, Registry
from container_image_proxy.errors import RegistryAuthError, RegistryError, UpstreamError
from container_image_proxy.image.manifest import Descriptor
from container_image_proxy.registry.auth.keychain import Credentials
from container_image_proxy.registry.http import connections
from tests.support.contexts import CONTEXT
from tests.support.hosts import FOREIGN, LOGIN, NAMES, REGISTRY, SIBLING, World, at, challenging, issuing
from tests.support.readers import read_all
from tests.support.registry_client import FakeClock, registry_client
from tests.support.upstream import (
    Connection,
    Handler,
    ReceivedRequest,
    Upstream,
    answering,
    breaking,
    by_path,
    content,
    in_order,
    redirecting,
)

# --- the realm -------------------------------------------------------------------------------------------------------


@pytest.mark.demand("AUTH-realm-cross-host")
@pytest.mark.parametrize("credentials", [LOGIN, Credentials("<token>", "", "the-identity", "f")])
def test_credentials_do_not_go_to_a_foreign_realm(world: World, credentials: tuple[str, str] | Credentials) -> None:
    with world.secure(issuing(), FOREIGN) as foreign:
        realm = f"https://{FOREIGN}:{foreign.port}/token"
        with world.secure(challenging(realm, world.routes), REGISTRY) as registry:
            world.trust(registry, REGISTRY)
            given = {f"{REGISTRY}:{registry.port}": credentials}
            with (
                registry_client(credentials=given, certificates=world.certificates, tls_verify=None) as client,
                pytest.raises(RegistryAuthError, match=r"untrusted token realm.* token-realms or --token-realms"),
            ):
                client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
        assert foreign.connections == []


@pytest.mark.demand("AUTH-realm-cross-host")
def test_a_realm_of_the_same_site_and_one_that_is_listed_get_them(world: World) -> None:
    for name, listed in ((SIBLING, ()), (FOREIGN, (FOREIGN,))):
        with world.secure(issuing(), name) as realm:
            url = f"https://{name}:{realm.port}/token"
            with world.secure(challenging(url, world.routes), REGISTRY) as registry:
                world.trust(registry, REGISTRY)
                given = {f"{REGISTRY}:{registry.port}": LOGIN}
                with registry_client(
                    credentials=given, certificates=world.certificates, tls_verify=None, token_realms=listed
                ) as client:
                    assert client.fetch_manifest(CONTEXT, at(registry, REGISTRY)) is not None
            assert [request.headers["authorization"] for request in realm.requests] == ["Basic bWU6dGhlLXBhc3N3b3Jk"]


def test_without_credentials_a_foreign_realm_over_https_may_be_asked(world: World) -> None:
    with world.secure(issuing(), FOREIGN) as foreign:
        realm = f"https://{FOREIGN}:{foreign.port}/token"
        with world.secure(challenging(realm, world.routes), REGISTRY) as registry:
            world.trust(registry, REGISTRY)
            with registry_client(certificates=world.certificates, tls_verify=None) as client:
                assert client.fetch_manifest(CONTEXT, at(registry, REGISTRY)) is not None
        assert "authorization" not in foreign.requests[0].headers


@pytest.mark.demand("AUTH-realm-http-downgrade")
@pytest.mark.parametrize("credentials", [LOGIN, None])
def test_no_realm_without_tls_for_a_registry_with_tls(world: World, credentials: tuple[str, str] | None) -> None:
    with Upstream(issuing(), host="127.0.0.2") as plain:
        realm = f"http://{REGISTRY}:{plain.port}/token"
        with world.secure(challenging(realm, world.routes), REGISTRY) as registry:
            world.trust(registry, REGISTRY)
            given = {f"{REGISTRY}:{registry.port}": credentials} if credentials else {}
            with (
                registry_client(credentials=given, certificates=world.certificates, tls_verify=None) as client,
                pytest.raises(RegistryAuthError, match="without TLS"),
            ):
                client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
        assert plain.connections == []


@pytest.mark.demand("AUTH-realm-cross-host")
@pytest.mark.demand("AUTH-realm-http-downgrade")
def test_credentials_for_an_insecure_registry_go_without_tls_to_its_own_host_only(world: World) -> None:
    with (
        Upstream(issuing(), host="127.0.0.2") as own,
        Upstream(issuing(), host="127.0.0.3") as sibling,
        Upstream(answering(500), host="127.0.0.2") as registry,
    ):
        given = {f"{REGISTRY}:{registry.port}": LOGIN}
        registry.handler = challenging(f"http://{REGISTRY}:{own.port}/token", world.routes)
        with registry_client(credentials=given) as client:
            assert client.fetch_manifest(CONTEXT, at(registry, REGISTRY)) is not None
        registry.handler = challenging(f"http://{SIBLING}:{sibling.port}/token", world.routes)
        with (
            registry_client(credentials=given) as client,
            pytest.raises(RegistryAuthError, match=r"untrusted token realm.* without TLS .*--token-realms"),
        ):
            client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
        assert len(own.requests) == 1
        assert sibling.connections == []
        with registry_client(credentials=given, token_realms=(SIBLING,)) as client:
            assert client.fetch_manifest(CONTEXT, at(registry, REGISTRY)) is not None
        with registry_client() as client:
            assert client.fetch_manifest(CONTEXT, at(registry, REGISTRY)) is not None
        assert ["authorization" in request.headers for request in sibling.requests] == [True, False]


@pytest.mark.demand("AUTH-realm-ssrf")
@pytest.mark.parametrize("realm", ["https://169.254.169.254/", "https://[fd00:ec2::254]/", "https://metadata.test/"])
def test_no_realm_leads_to_metadata(world: World, realm: str) -> None:
    with (
        Upstream(challenging(realm, world.routes), host="127.0.0.2") as registry,
        registry_client() as client,
        pytest.raises(UpstreamError, match="refused to connect"),
    ):
        client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
    assert set(world.dialled) == {"127.0.0.2"}


@pytest.mark.demand("AUTH-realm-ssrf")
def test_no_realm_of_a_public_registry_leads_into_a_private_network(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "is_private", lambda address: address != "127.0.0.2")
    with world.secure(issuing(), FOREIGN) as foreign:
        realm = f"https://{FOREIGN}:{foreign.port}/token"
        with (
            Upstream(challenging(realm, world.routes), host="127.0.0.2") as registry,
            registry_client() as client,
            pytest.raises(UpstreamError, match="refused to connect"),
        ):
            client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
        assert foreign.connections == []


@pytest.mark.demand("AUTH-realm-ssrf")
@pytest.mark.demand("dns-fail")
def test_a_resolver_that_failed_once_does_not_make_a_private_registry_a_public_one_for_good(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = connections.resolve, [socket.gaierror(socket.EAI_AGAIN, "later")]

    def resolve(host: str, port: int, context: Context) -> list[tuple[int, Any]]:
        if failures:
            raise failures.pop()
        return real(host, port, context)

    monkeypatch.setattr(connections, "resolve", resolve)
    with world.secure(issuing(), FOREIGN) as foreign:
        realm = f"https://{FOREIGN}:{foreign.port}/token"
        with Upstream(challenging(realm, world.routes), host="127.0.0.2") as registry:
            world.trust(registry, REGISTRY)
            with registry_client(certificates=world.certificates) as client:
                with pytest.raises(UpstreamError, match="refused to connect"):
                    client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
                assert client.fetch_manifest(CONTEXT, at(registry, REGISTRY)) is not None


@pytest.mark.demand("AUTH-realm-redirect")
@pytest.mark.parametrize("credentials", [LOGIN, Credentials("<token>", "", "the-identity", "f"), None])
def test_a_token_request_follows_nobody_elsewhere(
    world: World, credentials: tuple[str, str] | Credentials | None
) -> None:
    with Upstream(issuing(), host="127.0.0.4") as foreign:
        location = f"http://{FOREIGN}:{foreign.port}/token"
        with Upstream(answering(500), host="127.0.0.2") as registry:
            with_token_service(world, registry, redirecting(location, 302))
            given = {f"{REGISTRY}:{registry.port}": credentials} if credentials else {}
            with (
                registry_client(credentials=given) as client,
                pytest.raises(RegistryError, match="redirects to another host"),
            ):
                client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
        assert foreign.connections == []


@pytest.mark.demand("AUTH-realm-injection")
def test_what_a_challenge_says_is_encoded(world: World) -> None:
    with Upstream(answering(500), host="127.0.0.2") as registry:
        with_token_service(world, registry, issuing(), "?given=1")
        with registry_client() as client:
            assert client.fetch_manifest(CONTEXT, at(registry, REGISTRY)) is not None
        asked = [request for request in registry.requests if request.path == "/token"]
        assert len(asked) == 1
        assert parse_qs(urlsplit(asked[0].target).query) == {
            "given": ["1"],
            "service": ["s&x=1#y"],
            "scope": ["repository:some/image:pull"],
        }


# --- the token -------------------------------------------------------------------------------------------------------


def with_token_service(world: World, registry: Upstream, token: Handler, query: str = "") -> None:
    """Let ``registry`` be its own token service."""
    own = f"http://{REGISTRY}:{registry.port}/token{query}"
    registry.handler = by_path({"/token": token}, default=challenging(own, world.routes))


@pytest.mark.demand("AUTH-token-oversize")
@pytest.mark.demand("LIM-errorbody")
@pytest.mark.parametrize("status", [200, 403, 500])
def test_an_endless_token_is_not_read_to_the_end(world: World, status: int) -> None:
    def endless(_: ReceivedRequest, connection: Connection) -> None:
        connection.head(status, {})
        while True:
            connection.send(b'{"token": "' + b"x" * 65536)

    with Upstream(answering(500), host="127.0.0.2") as registry:
        with_token_service(world, registry, endless)
        with registry_client(clock=FakeClock()) as client, pytest.raises(UpstreamError):
            client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
        for connection in registry.connections:
            assert connection.sent < 16 << 20, "what socket buffers hold, and not more"


@pytest.mark.demand("AUTH-token-garbage")
@pytest.mark.parametrize(
    "body",
    [
        b"<html>the-body</html>",
        b"{}",
        b"[]",
        b'{"token": 7}',
        b'{"token": null}',
        b'{"token": "the-body\\r\\nX-Header: 1"}',
        b'{"token": "the-body\\u00e4"}',
        b'{"token": ""}',
        b'{"token": "' + b"x" * (1 << 20) + b'"}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
    ids=range(11),
)
def test_garbage_for_a_token_fails_closed(world: World, body: bytes) -> None:
    with Upstream(answering(500), host="127.0.0.2") as registry:
        with_token_service(world, registry, answering(200, body))
        with registry_client() as client, pytest.raises(RegistryError, match="no usable token") as caught:
            client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
        assert "the-body" not in str(caught.value)
        assert not any("authorization" in request.headers for request in registry.requests)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"access_token": "good"}', id="the name that old services know"),
        pytest.param(b'{"token": "good", "user": "Andr\xe9"}', id="with a name that is no UTF-8"),
        pytest.param(b'\xef\xbb\xbf{"token": "good"}', id="with a byte order mark"),
    ],
)
def test_a_token_is_found(world: World, body: bytes) -> None:
    with Upstream(answering(500), host="127.0.0.2") as registry:
        with_token_service(world, registry, answering(200, body))
        with registry_client() as client:
            assert client.fetch_manifest(CONTEXT, at(registry, REGISTRY)) is not None


@pytest.mark.demand("clock-jump")
def test_a_token_lives_a_minute_at_least_and_by_the_monotonic_clock(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    with Upstream(answering(500), host="127.0.0.2") as registry:
        with_token_service(world, registry, issuing(expires_in=1))
        with registry_client(clock=clock) as client:
            client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
            monkeypatch.setattr("time.time", lambda: 4e9)
            clock.time += 59
            client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
            assert registry.paths().count("/token") == 1
            clock.time += 2
            client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
            assert registry.paths().count("/token") == 2


@pytest.mark.demand("401-expiry")
def test_a_token_that_expires_in_mid_download_is_renewed_once(world: World) -> None:
    accepted = ["first"]
    layer = world.stored.layers[0]
    blob = breaking(layer, 40, times=1)

    def handle(request: ReceivedRequest, connection: Connection) -> None:
        if request.path == "/token":
            issuing(accepted[0])(request, connection)
        elif request.headers.get("authorization") != f"Bearer {accepted[0]}":
            own = f"http://{REGISTRY}:{registry.port}/token"
            connection.answer(401, headers={"WWW-Authenticate": f'Bearer realm="{own}",error="invalid_token"'})
        else:
            accepted[0] = "second"
            blob(request, connection)

    with Upstream(handle, host="127.0.0.2") as registry, registry_client() as client:
        assert read_all(client.open_blob(CONTEXT, at(registry, REGISTRY), world.layer)) == layer
        assert registry.paths().count("/token") == 2
        assert registry.requests[-1].headers["range"] == f"bytes=40-{len(layer) - 1}"


def test_a_token_that_is_never_accepted_is_not_renewed_for_ever(world: World) -> None:
    with Upstream(answering(500), host="127.0.0.2") as registry:
        with_token_service(world, registry, issuing("never-good"))
        with registry_client() as client, pytest.raises(RegistryAuthError, match="no credentials are configured"):
            client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
        assert registry.paths().count("/token") == 1
        with registry_client() as client:
            for _ in range(2):
                with pytest.raises(RegistryAuthError):
                    client.fetch_manifest(CONTEXT, at(registry, REGISTRY))


@pytest.mark.demand("403-scope")
@pytest.mark.parametrize("status", [401, 403])
def test_a_missing_scope_is_asked_for_once(world: World, status: int) -> None:
    serve = by_path(world.routes)

    def handle(request: ReceivedRequest, connection: Connection) -> None:
        own = f"http://{REGISTRY}:{registry.port}/token"
        authorization = request.headers.get("authorization")
        if request.path == "/token":
            scopes = parse_qs(urlsplit(request.target).query)["scope"]
            issuing(f"for-{len(scopes)}")(request, connection)
        elif authorization == "Bearer for-2":
            serve(request, connection)
        elif authorization is None:
            connection.answer(401, headers={"WWW-Authenticate": f'Bearer realm="{own}"'})
        else:
            lacking = f'Bearer realm="{own}",scope="repository:base/image:pull",error="insufficient_scope"'
            connection.answer(status, headers={"WWW-Authenticate": lacking})

    with Upstream(handle, host="127.0.0.2") as registry, registry_client() as client:
        assert client.fetch_manifest(CONTEXT, at(registry, REGISTRY)) is not None
        assert registry.paths().count("/token") == 2


@pytest.mark.demand("403-scope")
def test_ever_more_missing_scopes_end(world: World) -> None:
    count = [0]

    def handle(request: ReceivedRequest, connection: Connection) -> None:
        own = f"http://{REGISTRY}:{registry.port}/token"
        count[0] += 1
        if request.path == "/token":
            issuing(f"token-{count[0]}")(request, connection)
        else:
            scope = f"repository:another/{count[0]}:pull"
            lacking = f'Bearer realm="{own}",scope="{scope}",error="insufficient_scope"'
            connection.answer(401, headers={"WWW-Authenticate": lacking})

    with Upstream(handle, host="127.0.0.2") as registry:
        with registry_client() as client, pytest.raises(RegistryAuthError):
            client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
        assert count[0] < 8


# --- Basic -----------------------------------------------------------------------------------------------------------


def basic(serve: Handler) -> Handler:
    def handle(request: ReceivedRequest, connection: Connection) -> None:
        if "authorization" in request.headers:
            serve(request, connection)
        else:
            connection.answer(401, headers={"WWW-Authenticate": 'Basic realm="r"'})

    return handle


def test_once_challenged_a_registry_gets_the_login_with_each_request(world: World) -> None:
    with Upstream(basic(by_path(world.routes)), host="127.0.0.2") as registry:
        with registry_client(credentials={f"{REGISTRY}:{registry.port}": LOGIN}) as client:
            for _ in range(3):
                assert client.fetch_manifest(CONTEXT, at(registry, REGISTRY)) is not None
        assert ["authorization" in request.headers for request in registry.requests] == [False, True, True, True]
        assert len({request.connection for request in registry.requests}) == 1, "the connection is kept"


def test_a_registry_that_hides_what_a_stranger_may_not_see_is_asked_at_its_door(world: World) -> None:
    serve, door = by_path(world.routes), basic(answering(200))

    def handle(request: ReceivedRequest, connection: Connection) -> None:
        if request.path == "/v2/":
            door(request, connection)
        elif "authorization" in request.headers:
            serve(request, connection)
        else:
            connection.answer(404)

    with Upstream(handle, host="127.0.0.2") as registry:
        with registry_client(credentials={f"{REGISTRY}:{registry.port}": LOGIN}) as client:
            assert client.fetch_manifest(CONTEXT, at(registry, REGISTRY)) is not None
        assert registry.paths()[1] == "/v2/"


@pytest.mark.demand("AUTH-prefix-confusion")
@pytest.mark.parametrize("name", [f"{REGISTRY}.{FOREIGN}", REGISTRY])
def test_a_name_that_only_begins_like_ours_gets_nothing(world: World, name: str) -> None:
    host = NAMES[name]
    assert isinstance(host, str)
    with Upstream(basic(by_path(world.routes)), host=host) as registry:
        given = {REGISTRY: LOGIN, f"{REGISTRY}:1": LOGIN}
        with registry_client(credentials=given) as client, pytest.raises(RegistryAuthError):
            client.fetch_manifest(CONTEXT, at(registry, name))
        assert not any("authorization" in request.headers for request in registry.requests)


@pytest.mark.demand("AUTH-mirror-isolation")
def test_a_mirror_does_not_get_what_belongs_to_the_registry(world: World) -> None:
    serve = basic(by_path(world.routes))
    with Upstream(serve, host="127.0.0.4") as mirror, Upstream(serve, host="127.0.0.2") as registry:
        origin, other = f"{REGISTRY}:{registry.port}", f"{FOREIGN}:{mirror.port}"
        table = Registry(origin, origin, mirrors=(Mirror(other),))
        with registry_client(registries=Registries((table,)), credentials={origin: LOGIN}) as client:
            assert client.fetch_manifest(CONTEXT, at(registry, REGISTRY)) is not None
        assert mirror.requests
        assert not any("authorization" in request.headers for request in mirror.requests)
        with registry_client(registries=Registries((table,)), credentials={other: ("m", "x")}) as client:
            assert client.fetch_manifest(CONTEXT, at(registry, REGISTRY)) is not None
        assert mirror.requests[-1].headers["authorization"] == "Basic bTp4"


# --- redirects and foreign URLs --------------------------------------------------------------------------------------


@pytest.mark.demand("AUTH-redirect-cross-origin")
@pytest.mark.demand("AUTH-userinfo-url")
@pytest.mark.parametrize("name", [FOREIGN, REGISTRY, f"sub.{REGISTRY}"])
def test_the_authorization_stays_with_its_origin(world: World, name: str) -> None:
    host = NAMES[name]
    assert isinstance(host, str)
    with Upstream(content(world.stored.layers[0]), host=host) as storage:
        location = f"http://u:p@{name}:{storage.port}/blob?signature=1"
        routes = world.routes | {f"/blobs/{world.layer.digest}": redirecting(location)}
        with Upstream(basic(by_path(routes)), host="127.0.0.2") as registry:
            given = {f"{REGISTRY}:{registry.port}": LOGIN}
            with registry_client(credentials=given) as client:
                assert (
                    read_all(client.open_blob(CONTEXT, at(registry, REGISTRY), world.layer)) == world.stored.layers[0]
                )
        (request,) = storage.requests
        assert request.target == "/blob?signature=1"
        assert not {"authorization", "cookie", "referer"} & set(request.headers)


@pytest.mark.demand("AUTH-redirect-cross-origin")
def test_who_came_back_from_elsewhere_brings_no_authorization(world: World) -> None:
    with Upstream(answering(500), host="127.0.0.4") as foreign, Upstream(answering(500), host="127.0.0.2") as registry:
        home = f"http://{REGISTRY}:{registry.port}"
        foreign.handler = redirecting(f"{home}/elsewhere")
        blob = redirecting(f"http://{FOREIGN}:{foreign.port}/")
        registry.handler = by_path({"/elsewhere": content(world.stored.layers[0])}, default=basic(blob))
        with registry_client(credentials={f"{REGISTRY}:{registry.port}": LOGIN}) as client:
            assert read_all(client.open_blob(CONTEXT, at(registry, REGISTRY), world.layer)) == world.stored.layers[0]
        assert "authorization" not in registry.requests[-1].headers


@pytest.mark.demand("AUTH-redirect-cross-origin")
def test_no_redirect_takes_tls_away(world: World) -> None:
    with Upstream(content(world.stored.manifest), host="127.0.0.4") as plain:
        handler = redirecting(f"http://{FOREIGN}:{plain.port}/manifest")
        with world.secure(handler, REGISTRY) as registry:
            world.trust(registry, REGISTRY)
            with (
                registry_client(certificates=world.certificates, tls_verify=None) as client,
                pytest.raises(RegistryError, match="from https to http"),
            ):
                client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
            assert plain.connections == []
            with registry_client(tls_verify=False) as client:
                assert client.fetch_manifest(CONTEXT, at(registry, REGISTRY)) is not None


@pytest.mark.demand("AUTH-redirect-cross-origin")
def test_a_cookie_is_not_kept(world: World) -> None:
    manifest = answering(200, world.stored.manifest, {"Set-Cookie": "a=b; Path=/"})
    with Upstream(manifest, host="127.0.0.2") as registry, registry_client() as client:
        client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
        client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
        assert "cookie" not in registry.requests[1].headers


@pytest.mark.demand("AUTH-foreign-layer")
def test_the_urls_of_a_layer_are_never_fetched(world: World) -> None:
    with Upstream(answering(401), host="127.0.0.4") as foreign:
        layer = Descriptor("", world.layer.digest, world.layer.size, (f"http://{FOREIGN}:{foreign.port}/layer",))
        with Upstream(by_path(world.routes), host="127.0.0.2") as registry, registry_client() as client:
            assert read_all(client.open_blob(CONTEXT, at(registry, REGISTRY), layer)) == world.stored.layers[0]
        assert foreign.connections == []


@pytest.mark.demand("AUTH-logs")
@pytest.mark.demand("AUTH-userinfo-url")
def test_no_secret_is_logged_or_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    with Upstream(answering(500), host="127.0.0.2") as registry:
        secret = issuing("the-token")
        denied = redirecting("ftp://u:the-userinfo@somewhere/?the-signature")
        for token, serve in ((secret, denied), (answering(401, b"the-body"), denied), (secret, answering(401))):
            own = f"http://u:the-userinfo@{REGISTRY}:{registry.port}/token"
            wants = challenging(own, {"latest": serve}, wanted="the-token")
            registry.handler = by_path({"/token": token}, default=wants)
            for credentials in (LOGIN, Credentials("<token>", "", "the-identity", "the test's file")):
                given = {f"{REGISTRY}:{registry.port}": credentials}
                with registry_client(credentials=given) as client, pytest.raises(UpstreamError) as caught:
                    client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
                told.append(f"{caught.value} {caught.value!r} {vars(caught.value)}")
    everything = "\n".join([*told, caplog.text])
    for secret in (
        "the-password",
        "the-token",
        "the-identity",
        "the-userinfo",
        "the-signature",
        "the-body",
        "bWU6dGhl",
    ):
        assert secret not in everything


def test_concurrent_logins_cost_one_token(world: World) -> None:
    with Upstream(answering(500), host="127.0.0.2") as registry:
        with_token_service(world, registry, issuing())
        with registry_client() as client:
            threads = [
                threading.Thread(target=client.fetch_manifest, args=(CONTEXT, at(registry, REGISTRY)))
                for _ in range(16)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert registry.paths().count("/token") == 1


def test_where_no_challenge_can_be_answered_the_door_is_the_last_place_to_look(world: World) -> None:
    login = answering(401, headers={"WWW-Authenticate": "Digest realm=x"})
    with Upstream(in_order(login), host="127.0.0.2") as registry:
        with registry_client() as client, pytest.raises(RegistryAuthError):
            client.fetch_manifest(CONTEXT, at(registry, REGISTRY))
        assert registry.paths() == ["/v2/some/image/manifests/latest", "/v2/"]
