"""TLS: who is trusted, to whom we show who we are, and how far "insecure" goes."""

from __future__ import annotations

import ssl
import warnings
from pathlib import Path

import pytest

from container_image_proxy.config.registries import Registries, Registry
from container_image_proxy.errors import ConfigurationError, RegistryError, UpstreamError
from container_image_proxy.image.digest import parse_digest
from container_image_proxy.image.manifest import Descriptor
from container_image_proxy.image.reference import Reference, parse_reference
from tests.support.authority import Authority
from tests.support.layouts import StoredImage, single_image
from tests.support.names import resolve_names
from tests.support.readers import read_all
from tests.support.registry_client import FakeClock, registry_client
from tests.support.upstream import Upstream, by_path, content, image, redirecting, sending

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
            client.fetch_manifest(reference_at(upstream))
        assert upstream.requests == []
        insecure = Registries((Registry(upstream.authority, upstream.authority, insecure=True),))
        with registry_client(registries=insecure, tls_verify=None) as client:
            assert client.fetch_manifest(reference_at(upstream)) is not None
        with registry_client(registries=insecure, tls_verify=True) as client, pytest.raises(RegistryError):
            client.fetch_manifest(reference_at(upstream))


def test_an_expired_certificate_is_refused(stored: StoredImage, authority: Authority, tmp_path: Path) -> None:
    issued = authority.issue("127.0.0.1", expired=True)
    with Upstream(by_path(image(stored)), tls=issued.server_context()) as upstream:
        certificates = trust(tmp_path, authority, upstream.authority)
        with (
            registry_client(certificates=certificates, tls_verify=None) as client,
            pytest.raises(RegistryError, match="certificate has expired"),
        ):
            client.fetch_manifest(reference_at(upstream))


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
            pytest.raises(UpstreamError, match="TLS failed"),
        ):
            client.fetch_manifest(reference_at(upstream))
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
            pytest.raises(RegistryError, match="malformed"),
        ):
            client.fetch_manifest(reference_at(upstream))


def test_without_insecure_http_is_never_spoken(stored: StoredImage) -> None:
    with Upstream(by_path(image(stored))) as upstream:
        with (
            registry_client(tls_verify=None, clock=FakeClock()) as client,
            pytest.raises(UpstreamError, match="TLS failed") as caught,
        ):
            client.fetch_manifest(reference_at(upstream))
        assert caught.value.phase == "connect"
        assert upstream.requests == []


def test_who_spoke_tls_once_is_not_asked_in_the_clear_later(authority: Authority, stored: StoredImage) -> None:
    with registry_client(tls_verify=False, clock=FakeClock()) as client:
        secure = Upstream(by_path(image(stored)), tls=authority.issue("127.0.0.1").server_context())
        with secure:
            assert client.fetch_manifest(reference_at(secure)) is not None
        with Upstream(by_path(image(stored)), port=secure.port) as plain:
            with pytest.raises(UpstreamError):
                client.fetch_manifest(reference_at(plain))
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
            read_all(client.open_blob(reference_at(registry, "insecure.example.org"), layer))
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
                reader = client.open_blob(reference_at(registry, "registry.example.org"), layer)
                assert read_all(reader) == stored.layers[0]
            shown = [server.client_certificates for server in (registry, storage)]
    assert shown == [[True], [False]], "our certificate is for the registry, not for its storage"


def test_a_client_certificate_that_is_asked_for_and_missing(
    stored: StoredImage, authority: Authority, tmp_path: Path
) -> None:
    tls = authority.issue("127.0.0.1").server_context(clients=authority.certificate)
    with Upstream(by_path(image(stored)), tls=tls) as upstream:
        certificates = trust(tmp_path, authority, upstream.authority)
        with (
            registry_client(certificates=certificates, tls_verify=None, clock=FakeClock()) as client,
            pytest.raises(UpstreamError),
        ):
            client.fetch_manifest(reference_at(upstream))


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
            client.fetch_manifest(reference_at(upstream))


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
            assert client.fetch_manifest(reference_at(upstream))
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
            client.fetch_manifest(reference_at(upstream))
        with registry_client(certificates=certificates, tls_verify=None) as client:
            assert client.fetch_manifest(reference_at(upstream)) is not None
