"""The registry client against Debian's docker-registry: anonymous, Basic, tokens, TLS, lists, conditional requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from container_image_proxy.errors import RegistryAuthError, RegistryError, UnknownBlobError, UnknownManifestError
from container_image_proxy.image.digest import Digest, digest_of, parse_digest
from container_image_proxy.image.manifest import Descriptor, Index, Manifest, parse_manifest
from container_image_proxy.image.reference import Reference, parse_reference
from container_image_proxy.registry.auth.keychain import Credentials
from container_image_proxy.registry.client import RegistryClient
from tests.support.authority import Authority
from tests.support.contexts import CONTEXT
from tests.support.layouts import multi_arch, single_image
from tests.support.readers import read_all
from tests.support.registries import (
    PASSWORD,
    USER,
    DockerRegistry,
    TokenServer,
    docker_registry,
    needs_docker_registry,
)
from tests.support.registry_client import FakeClock, registry_client

pytestmark = needs_docker_registry


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[DockerRegistry]:
    with docker_registry(tmp_path / "registry") as running:
        yield running


def fetch(client: RegistryClient, reference: Reference, digest: Digest | None = None) -> Manifest | Index:
    untrusted = client.fetch_manifest(CONTEXT, reference, digest)
    assert untrusted is not None
    return parse_manifest(untrusted)


def fetch_blob(client: RegistryClient, reference: Reference, descriptor: Descriptor) -> bytes:
    return read_all(client.open_blob(CONTEXT, reference, descriptor))


def verify_image(client: RegistryClient, reference: Reference) -> None:
    """The image arrives with everything that it names."""
    manifest = fetch(client, reference)
    assert isinstance(manifest, Manifest)
    assert len(manifest.blobs) > 1
    for blob in manifest.blobs:
        assert blob.digest.matches(fetch_blob(client, reference, blob))


def test_an_image_by_tag_and_by_digest(registry: DockerRegistry, tmp_path: Path) -> None:
    image = single_image(tmp_path / "layout")
    reference = parse_reference(registry.push(tmp_path / "layout", "some/image:1"))
    with registry_client() as client:
        verify_image(client, reference)
        pinned = reference.with_digest(parse_digest(image.digest))
        assert fetch(client, pinned).raw == image.manifest
        assert client.find_manifest(CONTEXT, reference, unless=parse_digest(image.digest))[0] is None
        assert client.find_manifest(CONTEXT, reference, unless=digest_of(b"another"))[0] is not None


def test_an_index_and_its_manifests(registry: DockerRegistry, tmp_path: Path) -> None:
    images = multi_arch(tmp_path / "layout")
    reference = parse_reference(registry.push(tmp_path / "layout", "list:1"))
    with registry_client() as client:
        index = fetch(client, reference)
        assert isinstance(index, Index)
        for entry in index.manifests:
            assert fetch(client, reference, entry.digest).digest == entry.digest
        assert len(index.manifests) == len(images)


def test_what_does_not_exist(registry: DockerRegistry, tmp_path: Path) -> None:
    single_image(tmp_path / "layout")
    reference = parse_reference(registry.push(tmp_path / "layout", "image:1"))
    with registry_client() as client:
        with pytest.raises(UnknownManifestError, match="has no such manifest"):
            fetch(client, reference.with_tag("2"))
        with pytest.raises(UnknownManifestError):
            fetch(client, parse_reference(f"{registry.authority}/no/such:1"))
        with pytest.raises(UnknownBlobError):
            fetch_blob(client, reference, Descriptor("", digest_of(b"nothing"), 7))


def test_basic_login(tmp_path: Path) -> None:
    single_image(tmp_path / "layout")
    with docker_registry(tmp_path / "registry", htpasswd=True) as registry:
        reference = parse_reference(registry.push(tmp_path / "layout", "private/image:1"))
        with registry_client(credentials={registry.authority: (USER, PASSWORD)}) as client:
            verify_image(client, reference)
        with registry_client() as client, pytest.raises(RegistryAuthError, match="no credentials are configured"):
            fetch(client, reference)
        with (
            registry_client(credentials={registry.authority: (USER, "wrong")}) as client,
            pytest.raises(RegistryAuthError, match="the test's file") as caught,
        ):
            fetch(client, reference)
        assert "wrong" not in str(caught.value)
        assert caught.value.upstream_status == 401


def test_bearer_tokens(tmp_path: Path) -> None:
    single_image(tmp_path / "layout")
    tokens = TokenServer(tmp_path / "tokens")
    clock = FakeClock()
    with tokens.upstream, docker_registry(tmp_path / "registry", token_server=tokens) as registry:
        private = parse_reference(registry.push(tmp_path / "layout", "private/image:1"))
        public = parse_reference(registry.push(tmp_path / "layout", "public/image:1"))
        with registry_client(credentials={registry.authority: (USER, PASSWORD)}, clock=clock) as client:
            tokens.upstream.requests.clear()
            verify_image(client, private)
            assert len(tokens.upstream.requests) == 1, "one token is enough for one repository"
            clock.time += tokens.lifetime + 1
            verify_image(client, private)
            assert len(tokens.upstream.requests) == 2, "an old token is replaced before it fails"
        with registry_client() as client:
            verify_image(client, public)
            with pytest.raises(RegistryAuthError):
                fetch(client, private)


def test_an_identity_token_is_exchanged_for_bearer_tokens(tmp_path: Path) -> None:
    single_image(tmp_path / "layout")
    tokens = TokenServer(tmp_path / "tokens")
    with tokens.upstream, docker_registry(tmp_path / "registry", token_server=tokens) as registry:
        reference = parse_reference(registry.push(tmp_path / "layout", "private/image:1"))
        identity = Credentials("<token>", "", tokens.identity_token, "the test's file")
        with registry_client(credentials={registry.authority: identity}) as client:
            verify_image(client, reference)
        assert tokens.upstream.requests[-1].method == "POST"


@pytest.mark.demand("TLS-basics")
def test_tls_with_an_authority_from_certs_d(tmp_path: Path) -> None:
    single_image(tmp_path / "layout")
    authority = Authority(tmp_path)
    with docker_registry(tmp_path / "registry", certificate=authority.issue("127.0.0.1")) as registry:
        reference = parse_reference(registry.push(tmp_path / "layout", "image:1"))
        certificates = tmp_path / "certs.d" / registry.authority
        certificates.mkdir(parents=True)
        with registry_client(tls_verify=None, certificates=tmp_path / "certs.d") as client:
            with pytest.raises(RegistryError, match="certificate is not trusted") as caught:
                fetch(client, reference)
            assert caught.value.phase == "connect"
            assert not caught.value.retryable
        (certificates / "authority.crt").write_bytes(authority.certificate.read_bytes())
        with registry_client(tls_verify=None, certificates=tmp_path / "certs.d") as client:
            verify_image(client, reference)
        with registry_client(tls_verify=False) as client:
            verify_image(client, reference)
