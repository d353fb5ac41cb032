"""SOCKS5 proxies of the environment: used for names and addresses, logged in to, and never gone around."""

from __future__ import annotations

from pathlib import Path

import pytest

from container_image_proxy.errors import UpstreamError
from container_image_proxy.image.digest import parse_digest
from container_image_proxy.image.manifest import Descriptor
from container_image_proxy.image.reference import parse_reference
from tests.support.authority import Authority
from tests.support.contexts import CONTEXT
from tests.support.layouts import StoredImage, single_image
from tests.support.names import resolve_names
from tests.support.readers import read_all
from tests.support.registry_client import IMPATIENT, LIMITS, FakeClock, registry_client
from tests.support.socks import SocksServer
from tests.support.upstream import Upstream, answering, by_path, content, image, redirecting

pytestmark = pytest.mark.demand("ENV-proxy")
REGISTRY, STORAGE = "registry.example.org", "storage.example.org"
WAYS = {REGISTRY: "127.0.0.2", STORAGE: "127.0.0.3"}  # which the proxy alone knows


@pytest.fixture
def stored(tmp_path: Path) -> StoredImage:
    return single_image(tmp_path / "layout")


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "SOCKS5"])
def test_names_are_resolved_by_the_proxy(stored: StoredImage, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    resolved = resolve_names(monkeypatch, {})
    layer = Descriptor("", parse_digest(stored.layer_digests[0]), len(stored.layers[0]))
    with (
        SocksServer(WAYS) as proxy,
        Upstream(content(stored.layers[0]), host=WAYS[STORAGE]) as storage,
        Upstream(answering(500), host=WAYS[REGISTRY]) as registry,
    ):
        location = f"http://{STORAGE}:{storage.port}/blob%7e"
        registry.handler = by_path(image(stored) | {f"/blobs/{layer.digest}": redirecting(location)})
        url = f"{scheme}://{proxy.authority}"
        reference = parse_reference(f"{REGISTRY}:{registry.port}/some/image:latest")
        with registry_client(environ={"HTTP_PROXY": url, "HTTPS_PROXY": url}) as client:
            assert client.fetch_manifest(CONTEXT, reference) is not None
            assert read_all(client.open_blob(CONTEXT, reference, layer)) == stored.layers[0]
        assert set(proxy.asked) == {(REGISTRY, registry.port), (STORAGE, storage.port)}
        assert [request.target for request in storage.requests] == ["/blob%7e"], "as if there were no proxy"
        assert storage.requests[0].headers["host"] == f"{STORAGE}:{storage.port}"
        assert not set(resolved) & {STORAGE}


def test_tls_is_spoken_through_it_and_with_its_login(
    stored: StoredImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_names(monkeypatch, {"proxy.example.org": "127.0.0.1"})
    authority = Authority(tmp_path)
    tls = authority.issue(REGISTRY).server_context()
    login = (b"me", b"a:b@c")
    with (
        SocksServer(WAYS, login=login) as proxy,
        Upstream(by_path(image(stored)), host=WAYS[REGISTRY], tls=tls) as registry,
    ):
        directory = tmp_path / "certs.d" / f"{REGISTRY}:{registry.port}"
        directory.mkdir(parents=True)
        (directory / "ca.crt").write_bytes(authority.certificate.read_bytes())
        environ = {"HTTPS_PROXY": f"socks5://me:a%3Ab%40c@proxy.example.org:{proxy.port}"}
        reference = parse_reference(f"{REGISTRY}:{registry.port}/some/image:latest")
        with registry_client(environ=environ, tls_verify=None, certificates=tmp_path / "certs.d") as client:
            assert client.fetch_manifest(CONTEXT, reference) is not None
        assert proxy.logins == [login]
        assert registry.requests


@pytest.mark.parametrize(("given", "address"), [("127.0.0.2", "192.0.2.7"), ("127.0.0.2", "[2001:db8::7]")])
def test_an_address_is_asked_for_as_one(stored: StoredImage, given: str, address: str) -> None:
    host = address.strip("[]")
    with SocksServer({host: given}) as proxy, Upstream(by_path(image(stored)), host=given) as registry:
        url = f"socks5h://{proxy.authority}"
        with registry_client(environ={"HTTP_PROXY": url, "HTTPS_PROXY": url}) as client:
            reference = parse_reference(f"{address}:{registry.port}/some/image:latest")
            assert client.fetch_manifest(CONTEXT, reference) is not None
        assert (host, registry.port) in proxy.asked


def test_this_host_and_exceptions_are_not_proxied(stored: StoredImage) -> None:
    with SocksServer() as proxy, Upstream(by_path(image(stored))) as registry:
        url = f"socks5://{proxy.authority}"
        with registry_client(environ={"HTTP_PROXY": url, "HTTPS_PROXY": url}) as client:
            reference = parse_reference(f"{registry.authority}/some/image:latest")
            assert client.fetch_manifest(CONTEXT, reference) is not None
        assert proxy.connections == 0


def failure(proxy: SocksServer, userinfo: str = "") -> UpstreamError:
    environ = {"HTTPS_PROXY": f"socks5://{userinfo}{proxy.authority}"}
    with registry_client(environ=environ, tls_verify=None, clock=FakeClock()) as client:
        with pytest.raises(
            UpstreamError, match=f"^{REGISTRY}: the proxy on the way to it gives no connection: "
        ) as caught:
            client.fetch_manifest(CONTEXT, parse_reference(f"{REGISTRY}/some/image:latest"))
        assert proxy.connections == (LIMITS.attempts if caught.value.retryable else 1)
        assert caught.value.phase == "connect"
        assert "secret" not in str(caught.value)
        return caught.value


@pytest.mark.parametrize(
    ("reply", "words", "retryable"),
    [
        (1, "it failed", True),
        (2, "rules", False),
        (3, "network", True),
        (4, "host cannot be reached", True),
        (5, "refused", True),
        (6, "too long", True),
        (7, "does not connect", False),
        (8, "kind of address", False),
        (99, "nobody knows", True),
    ],
)
def test_a_refusal_is_told_as_the_proxys(reply: int, words: str, *, retryable: bool) -> None:
    with SocksServer(reply=reply) as proxy:
        error = failure(proxy)
        assert words in str(error)
        assert error.retryable is retryable


@pytest.mark.parametrize(
    ("login", "userinfo", "words"),
    [
        ((b"me", b"x"), "", "it wants a login"),
        ((b"me", b"x"), "me:secret@", "it does not accept the login"),
    ],
)
def test_a_login_that_is_missing_or_wrong_is_told(login: tuple[bytes, bytes], userinfo: str, words: str) -> None:
    with SocksServer(login=login) as proxy:
        error = failure(proxy, userinfo)
        assert words in str(error)
        assert not error.retryable


@pytest.mark.parametrize(
    ("answer", "words", "retryable"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak SOCKS5", False),
        (b"\x04\x5a", "does not speak SOCKS5", False),
        (b"\x05\x00\x04\x00\x00\x01" + bytes(6), "does not speak SOCKS5", False),
        (b"\x05\x00\x05\x00\x00\x09" + bytes(6), "does not speak SOCKS5", False),
        (b"", "closed the connection", True),
        (b"\x05\x00\x05\x00\x00\x01\x00", "closed the connection", True),
    ],
)
def test_what_is_no_proxy_is_told(answer: bytes, words: str, *, retryable: bool) -> None:
    with SocksServer(answer=answer) as proxy:
        error = failure(proxy)
        assert words in str(error)
        assert error.retryable is retryable


def test_a_proxy_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with Upstream(answering(500)) as silent:  # it waits for a line to end
        environ = {"HTTPS_PROXY": f"socks5://{silent.authority}"}
        with (
            registry_client(environ=environ, tls_verify=None, clock=FakeClock(), limits=IMPATIENT) as client,
            pytest.raises(UpstreamError, match="the proxy on the way to it fails") as caught,
        ):
            client.fetch_manifest(CONTEXT, parse_reference(f"{REGISTRY}/some/image:latest"))
        assert caught.value.retryable


@pytest.mark.demand("AUTH-realm-ssrf")
def test_behind_it_an_address_is_judged_all_the_same() -> None:
    with SocksServer(WAYS) as proxy, Upstream(answering(500), host=WAYS[REGISTRY]) as registry:
        registry.handler = redirecting("http://169.254.169.254/latest/meta-data")
        url = f"socks5h://{proxy.authority}"
        with (
            registry_client(environ={"HTTP_PROXY": url, "HTTPS_PROXY": url}) as client,
            pytest.raises(UpstreamError, match="private network"),
        ):
            client.fetch_manifest(CONTEXT, parse_reference(f"{REGISTRY}:{registry.port}/some/image:latest"))
        assert {host for host, _ in proxy.asked} == {REGISTRY}
