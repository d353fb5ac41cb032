"""TLS: who is trusted, to whom we show who we are, and how far "insecure" goes."""

from __future__ import annotations

import contextlib
import socket
import ssl
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from container_image_proxy.config.registries import Registries, Registry
from container_image_proxy.errors import ConfigurationError, RegistryError, UpstreamError
from container_image_proxy.image.digest import parse_digest
from container_image_proxy.image.manifest import Descriptor
from container_image_proxy.image.reference import Reference, parse_reference
from tests.support.authority import Authority, Issued
from tests.support.contexts import CONTEXT
from tests.support.layouts import StoredImage, single_image
from tests.support.names import has_ipv6_loopback, resolve_names
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
    sending,
)

pytestmark = pytest.mark.demand("TLS-basics")


@pytest.fixture
def stored(tmp_path: Path) -> StoredImage:
    return single_image(tmp_path / "layout")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def reference_at(upstream: Upstream, host: str = "127.0.0.1") -> Reference:
    return parse_reference(f"{host}:{upstream.port}/some/image:latest")


def trust(tmp_path: Path, authority: Authority, name: str) -> Path:
    """certs.d with the authority for this registry."""
    directory = tmp_path / "certs.d" / name
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "ca.crt").write_bytes(authority.certificate.read_bytes())
    return tmp_path / "certs.d"


def test_a_self_signed_certificate_is_refused_unless_insecure(stored: StoredImage, tmp_path: Path) -> None:
    unknown = Authority(tmp_path, "nobody knows it")
    with Upstream(by_path(image(stored)), tls=unknown.issue("127.0.0.1").server_context()) as upstream:
        with registry_client(tls_verify=None) as client, pytest.raises(RegistryError, match="not trusted"):
            client.fetch_manifest(CONTEXT, reference_at(upstream))
        assert upstream.requests == []
        insecure = Registries((Registry(upstream.authority, upstream.authority, insecure=True),))
        with registry_client(registries=insecure, tls_verify=None) as client:
            assert client.fetch_manifest(CONTEXT, reference_at(upstream)) is not None
        with registry_client(registries=insecure, tls_verify=True) as client, pytest.raises(RegistryError):
            client.fetch_manifest(CONTEXT, reference_at(upstream))


def test_an_expired_certificate_is_refused(stored: StoredImage, authority: Authority, tmp_path: Path) -> None:
    issued = authority.issue("127.0.0.1", expired=True)
    with Upstream(by_path(image(stored)), tls=issued.server_context()) as upstream:
        certificates = trust(tmp_path, authority, upstream.authority)
        with (
            registry_client(certificates=certificates, tls_verify=None) as client,
            pytest.raises(RegistryError, match="certificate has expired"),
        ):
            client.fetch_manifest(CONTEXT, reference_at(upstream))


def test_old_tls_is_refused(stored: StoredImage, authority: Authority, tmp_path: Path) -> None:
    context = authority.issue("127.0.0.1").server_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with Upstream(by_path(image(stored)), tls=context) as upstream:
        certificates = trust(tmp_path, authority, upstream.authority)
        with (
            registry_client(certificates=certificates, tls_verify=None, clock=FakeClock()) as client,
            pytest.raises(RegistryError, match="TLS failed") as caught,
        ):
            client.fetch_manifest(CONTEXT, reference_at(upstream))
        assert not caught.value.retryable
        assert upstream.requests == []


@pytest.mark.demand("h2/ALPN")
def test_a_server_that_speaks_http_2_only_is_a_clean_error(authority: Authority, tmp_path: Path) -> None:
    context = authority.issue("127.0.0.1").server_context()
    context.set_alpn_protocols(["h2"])
    settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    with Upstream(sending(settings), tls=context) as upstream:
        certificates = trust(tmp_path, authority, upstream.authority)
        with (
            registry_client(certificates=certificates, tls_verify=None) as client,
            pytest.raises(RegistryError, match="does not begin as HTTP/1 does"),
        ):
            client.fetch_manifest(CONTEXT, reference_at(upstream))


def test_without_insecure_http_is_never_spoken(stored: StoredImage) -> None:
    with Upstream(by_path(image(stored))) as upstream:
        with (
            registry_client(tls_verify=None, clock=FakeClock()) as client,
            pytest.raises(UpstreamError, match="TLS failed") as caught,
        ):
            client.fetch_manifest(CONTEXT, reference_at(upstream))
        assert caught.value.phase == "connect"
        assert upstream.requests == []


def test_who_spoke_tls_once_is_not_asked_in_the_clear_later(authority: Authority, stored: StoredImage) -> None:
    with registry_client(tls_verify=False, clock=FakeClock()) as client:
        secure = Upstream(by_path(image(stored)), tls=authority.issue("127.0.0.1").server_context())
        with secure:
            assert client.fetch_manifest(CONTEXT, reference_at(secure)) is not None
        with Upstream(by_path(image(stored)), port=secure.port) as plain:
            with pytest.raises(UpstreamError):
                client.fetch_manifest(CONTEXT, reference_at(plain))
            assert plain.requests == []


def test_insecure_is_for_one_host_only(
    stored: StoredImage, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_names(monkeypatch, {"insecure.example.org": "127.0.0.2", "storage.example.org": "127.0.0.3"})
    layer = Descriptor("", parse_digest(stored.layer_digests[0]), len(stored.layers[0]))
    tls = authority.issue("storage.example.org").server_context()
    with Upstream(content(stored.layers[0]), host="127.0.0.3", tls=tls) as storage:
        location = f"https://storage.example.org:{storage.port}/blob"
        with (
            Upstream(redirecting(location), host="127.0.0.2") as registry,
            registry_client(tls_verify=False) as client,
            pytest.raises(UpstreamError, match="not trusted"),
        ):
            read_all(client.open_blob(CONTEXT, reference_at(registry, "insecure.example.org"), layer))
        assert storage.requests == []


def test_an_authority_of_the_registry_holds_for_where_it_sends_us(
    stored: StoredImage, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_names(monkeypatch, {"registry.example.org": "127.0.0.2", "storage.example.org": "127.0.0.3"})
    layer = Descriptor("", parse_digest(stored.layer_digests[0]), len(stored.layers[0]))
    storage_tls = authority.issue("storage.example.org").server_context(clients=authority.certificate)
    storage_tls.verify_mode = ssl.CERT_OPTIONAL
    registry_tls = authority.issue("registry.example.org").server_context(clients=authority.certificate)
    client_certificate = authority.issue("our-client")
    with Upstream(content(stored.layers[0]), host="127.0.0.3", tls=storage_tls) as storage:
        location = f"https://storage.example.org:{storage.port}/blob"
        with Upstream(redirecting(location), host="127.0.0.2", tls=registry_tls) as registry:
            name = f"registry.example.org:{registry.port}"
            certificates = trust(tmp_path, authority, name)
            (certificates / name / "client.cert").write_bytes(client_certificate.certificate.read_bytes())
            (certificates / name / "client.key").write_bytes(client_certificate.key.read_bytes())
            with registry_client(certificates=certificates, tls_verify=None) as client:
                reader = client.open_blob(CONTEXT, reference_at(registry, "registry.example.org"), layer)
                assert read_all(reader) == stored.layers[0]
            shown = [server.client_certificates for server in (registry, storage)]
    assert shown == [[True], [False]], "our certificate is for the registry, not for its storage"


# --- who may vouch for a server --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chain:
    """A server's certificate, whoever issued it, and the files that a server sends and an administrator may trust."""

    server: Issued
    root: Path
    intermediate: Path

    def context(self, *, is_whole: bool = True) -> ssl.SSLContext:
        sent = self.server.certificate.with_name("sent.pem")
        parts = (self.server.certificate, self.intermediate) if is_whole else (self.server.certificate,)
        sent.write_bytes(b"".join(part.read_bytes() for part in parts))
        return Issued(sent, self.server.key).server_context()


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    for name in ("root", "intermediate"):
        (tmp_path / name).mkdir()
    root = Authority(tmp_path / "root", "the root")
    intermediate = Authority(tmp_path / "intermediate", "the issuer", root)
    return Chain(intermediate.issue("127.0.0.1"), root.certificate, intermediate.certificate)


def fetch_trusting(upstream: Upstream, stored: StoredImage, tmp_path: Path, *anchors: Path) -> None:
    """Fetch the manifest from a server for which certs.d has these certificates."""
    directory = tmp_path / "certs.d" / upstream.authority
    directory.mkdir(parents=True)
    for number, anchor in enumerate(anchors):
        (directory / f"{number}.crt").write_bytes(anchor.read_bytes())
    with registry_client(certificates=tmp_path / "certs.d", tls_verify=None, clock=FakeClock()) as client:
        manifest = client.fetch_manifest(CONTEXT, reference_at(upstream))
        assert manifest is not None
        assert manifest.raw == stored.manifest


@pytest.mark.parametrize("anchor", ["root", "intermediate", "server"])
def test_every_certificate_of_the_chain_can_be_the_trust_anchor(
    stored: StoredImage, chain: Chain, tmp_path: Path, anchor: str
) -> None:
    path = chain.server.certificate if anchor == "server" else getattr(chain, anchor)
    with Upstream(by_path(image(stored)), tls=chain.context()) as upstream:
        fetch_trusting(upstream, stored, tmp_path, path)


@pytest.mark.parametrize("anchor", ["intermediate", "server"])
def test_whose_issuer_is_not_sent_is_trusted_if_it_or_its_issuer_is(
    stored: StoredImage, chain: Chain, tmp_path: Path, anchor: str
) -> None:
    path = chain.server.certificate if anchor == "server" else chain.intermediate
    with Upstream(by_path(image(stored)), tls=chain.context(is_whole=False)) as upstream:
        fetch_trusting(upstream, stored, tmp_path, path)


def test_a_certificate_that_is_its_own_issuer_is_trusted_where_it_lies(
    stored: StoredImage, authority: Authority, tmp_path: Path
) -> None:
    issued = authority.issue_for_itself("127.0.0.1")
    with Upstream(by_path(image(stored)), tls=issued.server_context()) as upstream:
        fetch_trusting(upstream, stored, tmp_path, issued.certificate)


def test_a_short_key_is_trusted_where_an_authority_vouches_for_it(
    stored: StoredImage, authority: Authority, tmp_path: Path
) -> None:
    issued = authority.issue("127.0.0.1", key=rsa.generate_private_key(65537, 1024))  # noqa: S505 - that is the point
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.load_cert_chain(issued.certificate, issued.key)
    with Upstream(by_path(image(stored)), tls=context) as upstream:
        fetch_trusting(upstream, stored, tmp_path, authority.certificate)


@pytest.mark.parametrize("anchor", ["sibling", "expired", "other-name", "root-but-not-the-issuer"])
def test_a_certificate_in_certs_d_vouches_for_nothing_else(
    stored: StoredImage, chain: Chain, authority: Authority, tmp_path: Path, anchor: str
) -> None:
    """No certificate of a server is an authority, and to be an anchor mends neither date nor name."""
    issued = {
        "sibling": authority.issue("127.0.0.1"),
        "expired": authority.issue("127.0.0.1", expired=True),
        "other-name": authority.issue("127.0.0.2"),
        "root-but-not-the-issuer": chain.server,
    }[anchor]
    trusted = {
        "sibling": authority.issue("127.0.0.3").certificate,
        "root-but-not-the-issuer": chain.root,
    }.get(anchor, issued.certificate)
    with Upstream(by_path(image(stored)), tls=issued.server_context()) as upstream:
        with pytest.raises(RegistryError, match="its certificate is not trusted"):
            fetch_trusting(upstream, stored, tmp_path, trusted)
        assert upstream.requests == []


@pytest.mark.parametrize("host", ["127.0.0.1", "[0:0:0:0:0:0:0:1]"])
def test_an_insecure_registry_may_speak_http_however_its_address_is_spelled(stored: StoredImage, host: str) -> None:
    if host.startswith("[") and not has_ipv6_loopback():
        pytest.skip("this host has no ::1")
    bound = "::1" if host.startswith("[") else host
    with Upstream(by_path(image(stored)), host=bound) as upstream, registry_client(tls_verify=False) as client:
        assert client.fetch_manifest(CONTEXT, reference_at(upstream, host)) is not None


def test_what_a_tls_port_answers_to_http_does_not_hide_why_tls_failed() -> None:
    """As nginx does, after a handshake that failed for want of a client certificate."""
    html = b"<html>400 The plain HTTP request was sent to HTTPS port</html>"
    in_the_clear = answering(400, html, {"Content-Type": "text/html"})

    def serve(connection: Connection) -> None:
        with contextlib.suppress(OSError):
            if connection.socket.recv(1, socket.MSG_PEEK) == b"\x16":
                connection.socket.recv(65536)
                connection.send(record(21, b"\x02\x28"))
            else:
                connection.socket.recv(65536)
                in_the_clear(ReceivedRequest("GET", "/", {}, b"", 0), connection)
        connection.close()

    with Upstream(in_the_clear) as upstream:
        upstream._serve = serve  # type: ignore[method-assign]
        with (
            registry_client(tls_verify=False) as client,
            pytest.raises(RegistryError, match="it may demand a client certificate") as caught,
        ):
            client.fetch_manifest(CONTEXT, reference_at(upstream))
        assert not caught.value.retryable


def test_a_registry_that_speaks_http_only_is_told_by_its_own_answer() -> None:
    html = answering(400, b"<html>", {"Content-Type": "text/html"})
    with (
        Upstream(html) as upstream,
        registry_client(tls_verify=False) as client,
        pytest.raises(RegistryError, match="answered 400"),
    ):
        client.fetch_manifest(CONTEXT, reference_at(upstream))


# --- which failures are final ----------------------------------------------------------------------------------------


def final_failure(upstream: Upstream, certificates: Path | None = None) -> RegistryError:
    """The error for a manifest, which must have been told at once."""
    clock = FakeClock()
    with registry_client(certificates=certificates, tls_verify=None, clock=clock) as client:
        with pytest.raises(RegistryError) as caught:
            client.fetch_manifest(CONTEXT, reference_at(upstream))
        assert not caught.value.retryable
        assert clock.slept == [], "what cannot pass is not waited for"
        assert len(upstream.connections) == 1
        return caught.value


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_certificate_that_is_demanded_and_missing_is_told_at_once(
    stored: StoredImage, authority: Authority, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    tls = authority.issue("127.0.0.1").server_context(clients=authority.certificate)
    tls.minimum_version = tls.maximum_version = version
    with Upstream(by_path(image(stored)), tls=tls) as upstream:
        error = final_failure(upstream, trust(tmp_path, authority, upstream.authority))
        assert "demand" in str(error)
        assert "client certificate" in str(error)


def test_a_client_certificate_of_another_authority_is_told_at_once(
    stored: StoredImage, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other", "another authority").issue("our-client")
    tls = authority.issue("127.0.0.1").server_context(clients=authority.certificate)
    with Upstream(by_path(image(stored)), tls=tls) as upstream:
        certificates = trust(tmp_path, authority, upstream.authority)
        (certificates / upstream.authority / "me.cert").write_bytes(other.certificate.read_bytes())
        (certificates / upstream.authority / "me.key").write_bytes(other.key.read_bytes())
        assert "does not accept our client certificate" in str(final_failure(upstream, certificates))


@contextlib.contextmanager
def answering_hello(answer: bytes) -> Iterator[Upstream]:
    """A server that answers every ClientHello with these bytes, and hangs up."""
    with Upstream(answering(500)) as upstream:

        def serve(connection: Connection) -> None:
            with contextlib.suppress(OSError):
                connection.socket.recv(65536)
                connection.send(answer)
            connection.close()

        upstream._serve = serve  # type: ignore[method-assign]
        yield upstream


def record(kind: int, content: bytes) -> bytes:
    """A TLS 1.2 record."""
    return bytes([kind, 3, 3]) + len(content).to_bytes(2, "big") + content


HELLO = b"\x03\x03" + bytes(range(32)) + b"\0" + b"\xc0\x2f" + b"\0"  # ECDHE-RSA-AES128-GCM-SHA256, no extensions
OLD_SERVER = record(22, b"\x02" + len(HELLO).to_bytes(3, "big") + HELLO)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (OLD_SERVER, "knows no secure renegotiation"),
        (record(21, b"\x02\x28"), "refuses the handshake"),
        (record(21, b"\x02\x46"), "no TLS that is new enough"),
        (record(21, b"\x02\x70"), "TLS failed: "),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak TLS"),
    ],
    ids=["no-renegotiation-info", "handshake-failure", "protocol-version", "unrecognized-name", "plain-text"],
)
def test_what_two_sides_cannot_agree_upon_is_told_at_once(answer: bytes, words: str) -> None:
    with answering_hello(answer) as upstream:
        assert words in str(final_failure(upstream))


@pytest.mark.parametrize(
    "answer", [b"", OLD_SERVER[:20], record(21, b"\x02\x50")], ids=["nothing", "cut", "internal-error"]
)
def test_a_handshake_that_breaks_off_is_tried_again(answer: bytes) -> None:
    with answering_hello(answer) as upstream, registry_client(tls_verify=None, clock=FakeClock()) as client:
        with pytest.raises(UpstreamError) as caught:
            client.fetch_manifest(CONTEXT, reference_at(upstream))
        assert caught.value.retryable
        assert caught.value.phase == "connect"
        assert len(upstream.connections) == LIMITS.attempts


def test_a_file_that_is_no_client_certificate_is_named(
    stored: StoredImage, authority: Authority, tmp_path: Path
) -> None:
    with Upstream(by_path(image(stored)), tls=authority.issue("127.0.0.1").server_context()) as upstream:
        certificates = trust(tmp_path, authority, upstream.authority)
        (certificates / upstream.authority / "client.cert").write_text("no certificate")
        (certificates / upstream.authority / "client.key").write_text("no key")
        with (
            registry_client(certificates=certificates, tls_verify=None) as client,
            pytest.raises(ConfigurationError, match=r"client\.cert"),
        ):
            client.fetch_manifest(CONTEXT, reference_at(upstream))


@pytest.mark.parametrize(
    "content", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"]
)
def test_a_useless_authority_is_passed_over_with_a_warning_and_those_beside_it_count(
    stored: StoredImage, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    with Upstream(by_path(image(stored)), tls=authority.issue("127.0.0.1").server_context()) as upstream:
        certificates = trust(tmp_path, authority, upstream.authority)
        for name in ("a.crt", "z.crt"):
            (certificates / upstream.authority / name).write_text(content)
        with registry_client(certificates=certificates, tls_verify=None) as client:
            assert client.fetch_manifest(CONTEXT, reference_at(upstream))
        told = [record.getMessage() for record in caplog.records]
        assert [message.rpartition("/")[2] for message in told] == [
            f"{name}: holds no usable CA certificate, ignored (PEM is expected)" for name in ("a.crt", "z.crt")
        ]


def test_the_environment_of_requests_changes_nothing(
    stored: StoredImage, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Upstream(by_path(image(stored)), tls=authority.issue("127.0.0.1").server_context()) as upstream:
        certificates = trust(tmp_path, authority, upstream.authority)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.certificate))
        monkeypatch.setenv("CURL_CA_BUNDLE", str(authority.certificate))
        with registry_client(tls_verify=None) as client, pytest.raises(RegistryError, match="not trusted"):
            client.fetch_manifest(CONTEXT, reference_at(upstream))
        with registry_client(certificates=certificates, tls_verify=None) as client:
            assert client.fetch_manifest(CONTEXT, reference_at(upstream)) is not None


# --- files that were replaced -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ca.crt", "another.crt"])
def test_an_authority_that_was_put_there_meanwhile_counts_at_once(
    stored: StoredImage, authority: Authority, tmp_path: Path, name: str
) -> None:
    (tmp_path / "new").mkdir()
    renewed = Authority(tmp_path / "new", "the renewed one")
    with Upstream(by_path(image(stored)), tls=renewed.issue("127.0.0.1").server_context()) as upstream:
        certificates = trust(tmp_path, authority, upstream.authority)
        with registry_client(certificates=certificates, tls_verify=None) as client:
            with pytest.raises(RegistryError, match="not trusted"):
                client.fetch_manifest(CONTEXT, reference_at(upstream))
            (certificates / upstream.authority / name).write_bytes(renewed.certificate.read_bytes())
            assert client.fetch_manifest(CONTEXT, reference_at(upstream)) is not None


def test_a_client_certificate_that_was_renewed_meanwhile_counts_at_once(
    stored: StoredImage, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other", "nobody knows it")
    tls = authority.issue("127.0.0.1").server_context(clients=authority.certificate)
    with Upstream(by_path(image(stored)), tls=tls) as upstream:
        certificates = trust(tmp_path, authority, upstream.authority)
        place = certificates / upstream.authority

        def hand_out(issuer: Authority) -> None:
            issued = issuer.issue("client")
            (place / "client.cert").write_bytes(issued.certificate.read_bytes())
            (place / "client.key").write_bytes(issued.key.read_bytes())

        hand_out(stranger)
        with registry_client(certificates=certificates, tls_verify=None) as client:
            with pytest.raises(RegistryError, match="certificate"):
                client.fetch_manifest(CONTEXT, reference_at(upstream))
            hand_out(authority)
            assert client.fetch_manifest(CONTEXT, reference_at(upstream)) is not None
