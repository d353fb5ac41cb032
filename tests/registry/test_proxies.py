"""HTTP proxies of the environment: used, never gone around, and told nothing that is not theirs."""

from __future__ import annotations

import contextlib
import socket
import threading
from functools import partial
from pathlib import Path

import pytest

from container_image_proxy.concurrency.cancellation import SLICE
from container_image_proxy.errors import UpstreamError
from container_image_proxy.image.digest import parse_digest
from container_image_proxy.image.manifest import Descriptor
from container_image_proxy.image.reference import parse_reference
from tests.support.authority import Authority
from tests.support.contexts import CONTEXT
from tests.support.layouts import StoredImage, single_image
from tests.support.names import resolve_names
from tests.support.readers import read_all
from tests.support.registry_client import LIMITS, FakeClock, registry_client
from tests.support.upstream import (
    Connection,
    ReceivedRequest,
    Upstream,
    answering,
    by_path,
    content,
    image,
    redirecting,
)

REGISTRY, STORAGE = "registry.example.org", "storage.example.org"
NAMES = {"proxy.example.org": "127.0.0.9"}  # the proxy alone resolves the others
ADDRESSES = {REGISTRY: "127.0.0.2", STORAGE: "127.0.0.3"}
PROXY_LOGIN = "Basic dTpwcm94eS1zZWNyZXQ="


@pytest.fixture
def stored(tmp_path: Path) -> StoredImage:
    return single_image(tmp_path / "layout")


def tunnelling(request: ReceivedRequest, connection: Connection, delay: float = 0.0) -> None:
    """CONNECT to a name that only the proxy knows."""
    host, _, port = request.target.rpartition(":")
    with socket.create_connection((ADDRESSES[host], int(port))) as there:
        connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        connection.pause(delay)
        back = threading.Thread(target=_pump, args=(there, connection.socket))
        back.start()
        _pump(connection.socket, there)
        back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@pytest.mark.demand("ENV-proxy")
@pytest.mark.demand("AUTH-proxy-header")
def test_https_goes_through_a_tunnel_and_the_proxys_login_stays_there(
    stored: StoredImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_names(monkeypatch, NAMES)
    authority = Authority(tmp_path)
    layer = Descriptor("", parse_digest(stored.layer_digests[0]), len(stored.layers[0]))
    contexts = {name: authority.issue(name).server_context() for name in ADDRESSES}
    with (
        Upstream(content(stored.layers[0]), host=ADDRESSES[STORAGE], tls=contexts[STORAGE]) as storage,
        Upstream(answering(500), host=ADDRESSES[REGISTRY], tls=contexts[REGISTRY]) as registry,
        Upstream(tunnelling, host="127.0.0.9") as proxy,
    ):
        location = f"https://{STORAGE}:{storage.port}/blob"
        registry.handler = by_path(image(stored) | {f"/blobs/{layer.digest}": redirecting(location)})
        directory = tmp_path / "certs.d" / f"{REGISTRY}:{registry.port}"
        directory.mkdir(parents=True)
        (directory / "ca.crt").write_bytes(authority.certificate.read_bytes())
        environ = {"HTTPS_PROXY": f"http://u:proxy-secret@proxy.example.org:{proxy.port}"}
        reference = parse_reference(f"{REGISTRY}:{registry.port}/some/image:latest")
        with registry_client(tls_verify=None, certificates=tmp_path / "certs.d", environ=environ) as client:
            assert client.fetch_manifest(CONTEXT, reference) is not None
            assert read_all(client.open_blob(CONTEXT, reference, layer)) == stored.layers[0]
        assert {request.method for request in proxy.requests} == {"CONNECT"}
        assert {request.headers["proxy-authorization"] for request in proxy.requests} == {PROXY_LOGIN}
        for request in (*registry.requests, *storage.requests):
            assert "proxy-authorization" not in request.headers


@pytest.mark.demand("ENV-proxy")
def test_a_handshake_behind_a_tunnel_has_all_of_its_time(
    stored: StoredImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_names(monkeypatch, NAMES)
    tls = Authority(tmp_path).issue(REGISTRY).server_context()
    with (
        Upstream(by_path(image(stored)), host=ADDRESSES[REGISTRY], tls=tls) as registry,
        Upstream(partial(tunnelling, delay=2 * SLICE), host="127.0.0.9") as proxy,
    ):
        environ = {"HTTPS_PROXY": f"http://proxy.example.org:{proxy.port}"}
        reference = parse_reference(f"{REGISTRY}:{registry.port}/some/image:latest")
        with registry_client(tls_verify=False, environ=environ) as client:
            assert client.fetch_manifest(CONTEXT, reference) is not None
        assert [request.method for request in proxy.requests] == ["CONNECT"]


@pytest.mark.demand("ENV-proxy")
@pytest.mark.demand("AUTH-proxy-header")
def test_http_goes_to_the_proxy_whole(stored: StoredImage, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_names(monkeypatch, NAMES)
    serve = by_path(image(stored))

    def forward(request: ReceivedRequest, connection: Connection) -> None:
        (answering(502) if request.method == "CONNECT" else serve)(request, connection)

    with Upstream(forward, host="127.0.0.9") as proxy:
        url = f"http://u:proxy-secret@proxy.example.org:{proxy.port}"
        reference = parse_reference(f"{REGISTRY}:5000/some/image:latest")
        with registry_client(environ={"HTTP_PROXY": url, "HTTPS_PROXY": url}) as client:
            assert client.fetch_manifest(CONTEXT, reference) is not None
        assert proxy.requests[-1].target == f"http://{REGISTRY}:5000/v2/some/image/manifests/latest"


@pytest.mark.demand("proxy-407")
@pytest.mark.parametrize("status", [407, 502, 403])
def test_a_proxy_that_refuses_is_an_error_and_not_gone_around(
    stored: StoredImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    resolve_names(monkeypatch, NAMES | ADDRESSES)
    tls = Authority(tmp_path).issue(REGISTRY).server_context()
    with (
        Upstream(by_path(image(stored)), host=ADDRESSES[REGISTRY], tls=tls) as registry,
        Upstream(answering(status, b"the-body"), host="127.0.0.9") as proxy,
    ):
        environ = {"HTTPS_PROXY": f"http://u:proxy-secret@proxy.example.org:{proxy.port}"}
        reference = parse_reference(f"{REGISTRY}:{registry.port}/some/image:latest")
        with (
            registry_client(environ=environ, tls_verify=True, clock=FakeClock()) as client,
            pytest.raises(UpstreamError, match=f"the proxy on the way to it answered {status}") as caught,
        ):
            client.fetch_manifest(CONTEXT, reference)
        assert caught.value.retryable is (status == 502)
        assert len(proxy.requests) == (LIMITS.attempts if status == 502 else 1)
        assert "secret" not in str(caught.value)
        assert registry.connections == []


@pytest.mark.demand("proxy-407")
def test_a_proxy_that_refuses_what_it_should_forward_is_not_taken_for_the_registry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolve_names(monkeypatch, NAMES)
    with Upstream(answering(407), host="127.0.0.9") as proxy:
        url = f"http://proxy.example.org:{proxy.port}"
        with (
            registry_client(environ={"HTTP_PROXY": url, "HTTPS_PROXY": url}) as client,
            pytest.raises(UpstreamError, match=f"the proxy on the way to {REGISTRY}:5000 answered 407"),
        ):
            client.fetch_manifest(CONTEXT, parse_reference(f"{REGISTRY}:5000/some/image:latest"))


@pytest.mark.demand("ENV-proxy")
def test_no_request_and_no_foreign_environment_chooses_a_proxy(
    stored: StoredImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Upstream(answering(500), host="127.0.0.9") as proxy, Upstream(by_path(image(stored))) as registry:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        with registry_client() as client:
            assert (
                client.fetch_manifest(CONTEXT, parse_reference(f"{registry.authority}/some/image:latest")) is not None
            )
        assert proxy.connections == []


@pytest.mark.demand("AUTH-realm-ssrf")
def test_behind_a_proxy_an_address_is_judged_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_names(monkeypatch, NAMES | {REGISTRY: "127.0.0.2"})
    with Upstream(answering(500), host="127.0.0.9") as proxy:
        proxy.handler = redirecting("http://169.254.169.254/latest/meta-data")
        url = f"http://proxy.example.org:{proxy.port}"
        with registry_client(environ={"HTTP_PROXY": url}) as client, pytest.raises(UpstreamError):
            client.fetch_manifest(CONTEXT, parse_reference(f"{REGISTRY}:5000/some/image:latest"))
        assert not any("169.254" in request.target for request in proxy.requests)
