"""Mirrors: their order, their failures, and that a dead one costs its time-out once."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from container_image_proxy.concurrency.context import Context
from container_image_proxy.config.limits import MIB, Limits
from container_image_proxy.config.registries import Mirror, Registries, Registry
from container_image_proxy.errors import (
    DigestMismatchError,
    RegistryError,
    RegistryUnavailableError,
    UnknownBlobError,
    UnknownManifestError,
    UpstreamTimeoutError,
)
from container_image_proxy.image.digest import digest_of, parse_digest
from container_image_proxy.image.manifest import Descriptor
from container_image_proxy.image.reference import parse_reference
from container_image_proxy.registry.api import DistributionApi
from container_image_proxy.registry.client import RegistryClient
from container_image_proxy.registry.endpoints import Repository
from container_image_proxy.registry.http.reply import Reply
from tests.support.authority import Authority
from tests.support.contexts import CONTEXT
from tests.support.layouts import OCI_MANIFEST, StoredImage, single_image
from tests.support.names import resolve_names
from tests.support.readers import read_all
from tests.support.registries import free_port
from tests.support.registry_client import IMPATIENT, FakeClock, registry_client
from tests.support.upstream import (
    Connection,
    Handler,
    Upstream,
    answering,
    breaking,
    by_path,
    chunked,
    content,
    image,
    redirecting,
    resetting,
    stalling,
)

NAME = "origin.example.org/some/image"
REFERENCE = parse_reference(f"{NAME}:latest")


@pytest.fixture
def stored(tmp_path: Path) -> StoredImage:
    return single_image(tmp_path / "layout")


def mirrored(origin: str, *mirrors: str) -> Registries:
    """The image's registry is at ``origin`` (host:port), with mirrors before it."""
    endpoints = tuple(Mirror(f"{mirror}/some/image") for mirror in mirrors)
    return Registries((Registry(NAME, f"{origin}/some/image", mirrors=endpoints),))


def upstreams(*servers: Upstream) -> Registries:
    *mirrors, origin = (server.authority for server in servers)
    return mirrored(origin, *mirrors)


def fetch(client: RegistryClient, descriptor: Descriptor) -> bytes:
    return read_all(client.open_blob(CONTEXT, REFERENCE, descriptor))


def descriptor_of(blob: bytes) -> Descriptor:
    return Descriptor("", digest_of(blob), len(blob))


@pytest.mark.demand("mirror-down")
@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(answering(404), id="404"),
        pytest.param(answering(500), id="500"),
        pytest.param(answering(401), id="401"),
        pytest.param(answering(401, headers={"WWW-Authenticate": 'Bearer realm="ftp://a:21/"'}), id="401-nonsense"),
        pytest.param(answering(400), id="400"),
        pytest.param(answering(200, b"x" * (5 * MIB)), id="oversize"),
        pytest.param(answering(200, headers={"Content-Length": "9" * 5000}), id="oversize-number"),
        pytest.param(redirecting("ftp://a:21/"), id="redirect-nonsense"),
        pytest.param(resetting, id="reset"),
        pytest.param(answering(200, b"<html>please log in</html>", {"Content-Type": "text/html"}), id="html"),
        pytest.param(answering(200, b"<html>", {"Content-Type": OCI_MANIFEST}), id="html-labelled-manifest"),
        pytest.param(answering(200), id="empty"),
        pytest.param(answering(200, b'{"status": "ok"}', {"Content-Type": "application/json"}), id="other-json"),
        pytest.param(answering(200, b'{"errors": [{"code": "DENIED"}]}', {"Content-Type": OCI_MANIFEST}), id="errors"),
        pytest.param(answering(200, b"[]"), id="array"),
        pytest.param(answering(200, b"null"), id="null"),
        pytest.param(answering(200, b'{"schemaVersion": 2, "layers": [{}]}'), id="half-a-manifest"),
        pytest.param(answering(200, b"\x1f\x8b\x08"), id="garbage"),
        pytest.param(answering(200, b'{"schemaVersion": 2', {"Content-Length": "19"}), id="cut"),
    ],
)
def test_the_next_source_is_asked_when_a_mirror_fails(stored: StoredImage, broken: Handler) -> None:
    with Upstream(broken) as mirror, Upstream(by_path(image(stored))) as origin:
        with registry_client(registries=upstreams(mirror, origin), clock=FakeClock()) as client:
            manifest = client.fetch_manifest(CONTEXT, REFERENCE)
            assert manifest is not None
            assert manifest.raw == stored.manifest
        assert mirror.requests
        assert origin.requests


def test_of_a_mirror_that_sends_another_manifest_than_was_asked_for_nothing_is_believed(stored: StoredImage) -> None:
    other = b'{"schemaVersion": 2, "config": {}, "layers": []}'
    with Upstream(answering(200, other)) as mirror, Upstream(by_path(image(stored))) as origin:
        digest = parse_digest(stored.digest)
        with registry_client(registries=upstreams(mirror, origin), clock=FakeClock()) as client:
            manifest = client.fetch_manifest(CONTEXT, REFERENCE.repository.with_digest(digest))
            assert manifest is not None
            assert manifest.raw == stored.manifest
        assert len(mirror.requests) == 1


@pytest.mark.demand("mirror-down")
def test_what_mirrors_sent_instead_of_a_manifest_is_told_beside_the_origins_failure() -> None:
    portal = answering(200, b"<html>", {"Content-Type": "text/html"})
    with (
        Upstream(portal) as mirror,
        Upstream(answering(404)) as origin,
        registry_client(registries=upstreams(mirror, origin)) as client,
    ):
        told = f"before it: .*{mirror.authority} sent no usable manifest"
        with pytest.raises(UnknownManifestError, match=told):
            client.fetch_manifest(CONTEXT, REFERENCE)


def test_a_mirror_that_answers_spares_the_origin(stored: StoredImage) -> None:
    with Upstream(by_path(image(stored))) as mirror, Upstream(answering(500)) as origin:
        with registry_client(registries=upstreams(mirror, origin)) as client:
            assert client.fetch_manifest(CONTEXT, REFERENCE) is not None
            assert fetch(client, descriptor_of(stored.layers[0])) == stored.layers[0]
        assert origin.connections == []


@pytest.mark.demand("mirror-down")
def test_a_defect_of_ours_that_one_source_provokes_is_logged_and_the_next_is_asked(
    stored: StoredImage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = DistributionApi.get

    def get(self: DistributionApi, context: Context, repository: Repository, path: str, **more: Any) -> Reply:
        reply = real(self, context, repository, path, **more)
        if repository.is_mirror:
            reply.close()
            raise LookupError("a defect")
        return reply

    monkeypatch.setattr(DistributionApi, "get", get)
    with (
        Upstream(by_path(image(stored))) as mirror,
        Upstream(by_path(image(stored))) as origin,
        registry_client(registries=upstreams(mirror, origin), clock=FakeClock()) as client,
    ):
        assert fetch(client, descriptor_of(stored.layers[0])) == stored.layers[0]
        assert client.fetch_manifest(CONTEXT, REFERENCE) is not None
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [LookupError] * 2


@pytest.mark.demand("mirror-down")
@pytest.mark.demand("DIG-manifest-by-digest")
def test_a_corrupt_manifest_turns_to_the_next_source(stored: StoredImage) -> None:
    pinned = REFERENCE.with_digest(parse_digest(stored.digest))
    lying = answering(200, b'{"layers": []}', {"Docker-Content-Digest": stored.digest})
    with Upstream(lying) as mirror, Upstream(by_path(image(stored))) as origin:
        with registry_client(registries=upstreams(mirror, origin)) as client:
            manifest = client.fetch_manifest(CONTEXT, pinned)
            assert manifest is not None
            assert manifest.raw == stored.manifest
        with registry_client(registries=upstreams(mirror)) as client, pytest.raises(DigestMismatchError):
            client.fetch_manifest(CONTEXT, pinned)


@pytest.mark.demand("mirror-down")
def test_when_all_fail_the_origins_error_tells_of_the_mirrors() -> None:
    with Upstream(answering(400)) as mirror, Upstream(answering(404)) as origin:
        with (
            registry_client(registries=upstreams(mirror, origin)) as client,
            pytest.raises(UnknownManifestError) as caught,
        ):
            client.fetch_manifest(CONTEXT, REFERENCE)
        message = str(caught.value)
        assert message.index("no such manifest") < message.index(f"{mirror.authority} answered 400")


@pytest.mark.demand("stall-mid-blob")
@pytest.mark.demand("mirror-down")
def test_a_mirror_that_stalls_in_mid_blob_costs_its_timeout_once() -> None:
    blobs = [random.Random(seed).randbytes(MIB + 100_000) for seed in range(5)]  # noqa: S311 - no secret
    stall = {f"/blobs/{digest_of(blob)}": breaking(blob, 600_000, then=Connection.wait_for_end) for blob in blobs}
    whole = {f"/blobs/{digest_of(blob)}": content(blob) for blob in blobs}
    with Upstream(by_path(stall)) as mirror, Upstream(by_path(whole)) as origin:
        with registry_client(registries=upstreams(mirror, origin), limits=IMPATIENT) as client:
            for blob in blobs:
                assert fetch(client, descriptor_of(blob)) == blob
        assert len(mirror.requests) == 1
        first, *others = origin.requests
        assert first.headers["range"] == f"bytes=600000-{len(blobs[0]) - 1}", "not a byte is fetched twice"
        assert not any("range" in request.headers for request in others)


@pytest.mark.demand("stall-headers")
def test_a_mirror_that_does_not_answer_costs_its_timeout_once_and_is_tried_again_later(stored: StoredImage) -> None:
    clock = FakeClock()
    with Upstream(stalling) as mirror, Upstream(by_path(image(stored))) as origin:
        registries = upstreams(mirror, origin)
        with registry_client(registries=registries, limits=IMPATIENT, clock=clock) as client:
            for _ in range(5):
                assert client.fetch_manifest(CONTEXT, REFERENCE) is not None
            asked = len(mirror.connections)
            clock.time += IMPATIENT.endpoint_rest + 1
            assert client.fetch_manifest(CONTEXT, REFERENCE) is not None
            assert len(mirror.connections) > asked
            assert len(origin.requests) == 6


@pytest.mark.demand("mirror-corrupt-blob")
@pytest.mark.parametrize("wrong", [b"", b"short"])
def test_a_blob_of_another_size_turns_to_the_next_source_before_the_first_byte(
    stored: StoredImage, wrong: bytes
) -> None:
    layer = stored.layers[0]
    with (
        Upstream(answering(200, wrong)) as mirror,
        Upstream(content(layer)) as origin,
        registry_client(registries=upstreams(mirror, origin)) as client,
    ):
        assert fetch(client, descriptor_of(layer)) == layer


@pytest.mark.demand("mirror-corrupt-blob")
@pytest.mark.demand("DIG-blob-trailing")
@pytest.mark.parametrize(("size", "kept"), [(3000, 0), (0, 0), (3 * MIB, 2 * MIB)])
def test_from_a_mirror_that_adds_a_byte_the_last_chunk_is_not_taken(size: int, kept: int) -> None:
    """Nothing is asked for beyond the blob's end, and the mirror is asked last from then on."""
    blob = random.Random(size).randbytes(size)  # noqa: S311 - no secret
    with Upstream(chunked(blob + b"x")) as mirror, Upstream(content(blob)) as origin:
        with registry_client(registries=upstreams(mirror, origin), clock=FakeClock()) as client:
            for _ in range(2):
                assert fetch(client, descriptor_of(blob)) == blob
        assert len(mirror.requests) == 1
        first, second = (request.range(size) for request in origin.requests)
        assert second is None
        assert (first or (0, 0))[0] >= kept


def test_a_blob_that_nobody_has_is_unknown() -> None:
    with Upstream(answering(404)) as mirror, Upstream(answering(404)) as origin:
        with registry_client(registries=upstreams(mirror, origin)) as client, pytest.raises(UnknownBlobError):
            fetch(client, descriptor_of(b"x"))
        for upstream in (mirror, origin):
            assert [path for path in upstream.paths() if path != "/v2/"] == [upstream.paths()[0]]


def test_who_had_the_manifest_is_asked_first_for_its_blobs(stored: StoredImage) -> None:
    routes = image(stored)
    with Upstream(answering(404)) as mirror, Upstream(by_path(routes)) as origin:
        with registry_client(registries=upstreams(mirror, origin)) as client:
            _, supplier = client.find_manifest(CONTEXT, REFERENCE)
            for blob in stored.blobs.values():
                assert read_all(client.open_blob(CONTEXT, REFERENCE, descriptor_of(blob), first=supplier)) == blob
        assert len([path for path in mirror.paths() if path != "/v2/"]) == 1


@pytest.mark.demand("mirror-down")
def test_a_mirror_that_refuses_connections(stored: StoredImage) -> None:
    with Upstream(by_path(image(stored))) as origin:
        registries = mirrored(origin.authority, f"127.0.0.1:{free_port()}")
        with registry_client(registries=registries) as client:
            assert client.fetch_manifest(CONTEXT, REFERENCE) is not None
    with (
        registry_client(registries=registries, clock=FakeClock()) as client,
        pytest.raises(RegistryUnavailableError, match="Connection refused") as caught,
    ):
        client.fetch_manifest(CONTEXT, REFERENCE)
    assert caught.value.phase == "connect"
    assert caught.value.retryable


@pytest.mark.demand("dns-fail")
def test_names_that_do_not_resolve(stored: StoredImage, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_names(monkeypatch, {})
    with (
        Upstream(by_path(image(stored))) as origin,
        registry_client(registries=mirrored(origin.authority, "no.such.name")) as client,
    ):
        assert client.fetch_manifest(CONTEXT, REFERENCE) is not None
    with (
        registry_client(registries=mirrored("no.such.name"), clock=FakeClock()) as client,
        pytest.raises(RegistryUnavailableError, match="cannot be resolved"),
    ):
        client.fetch_manifest(CONTEXT, REFERENCE)


@pytest.mark.demand("dns-fail")
def test_a_resolver_that_does_not_answer(stored: StoredImage, monkeypatch: pytest.MonkeyPatch) -> None:

    released = threading.Event()
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *args: object, **options: object) -> object:
        if host == "slow.example.org":
            released.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real(host, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    limits = Limits(connect_timeout=0.2)
    try:
        with Upstream(by_path(image(stored))) as origin:
            registries = mirrored(origin.authority, "slow.example.org")
            with registry_client(registries=registries, limits=limits) as client:
                assert client.fetch_manifest(CONTEXT, REFERENCE) is not None
    finally:
        released.set()


@pytest.mark.demand("dns-fail")
def test_an_address_that_is_a_black_hole_does_not_hide_the_one_behind_it(
    stored: StoredImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A listener whose queue is full drops what else comes: the connection hangs, as in a network that loses packets.
    with socket.create_server(("127.0.0.5", 0), backlog=0) as hole:
        port = hole.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)  # noqa: FBT003 - the interface
            filler.connect_ex(("127.0.0.5", port))
        try:
            resolve_names(monkeypatch, {"two.example.org": ["127.0.0.5", "127.0.0.6"]})
            with (
                Upstream(by_path(image(stored)), host="127.0.0.6", port=port),
                registry_client(registries=mirrored(f"two.example.org:{port}")) as client,
            ):
                assert client.fetch_manifest(CONTEXT, REFERENCE) is not None
        finally:
            for filler in fillers:
                filler.close()


@pytest.mark.demand("tls-fail")
def test_a_mirror_with_a_bad_certificate(stored: StoredImage, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    good = authority.issue("127.0.0.1")
    bad = authority.issue("other.example.org")
    with (
        Upstream(by_path(image(stored)), tls=bad.server_context()) as mirror,
        Upstream(by_path(image(stored)), tls=good.server_context()) as origin,
    ):
        for server in (mirror, origin):
            directory = tmp_path / "certs.d" / server.authority
            directory.mkdir(parents=True)
            (directory / "ca.crt").write_bytes(authority.certificate.read_bytes())
        certificates = tmp_path / "certs.d"
        with registry_client(
            registries=upstreams(mirror, origin), certificates=certificates, tls_verify=None
        ) as client:
            assert client.fetch_manifest(CONTEXT, REFERENCE) is not None
        assert mirror.requests == []
        with (
            registry_client(registries=upstreams(mirror), certificates=certificates, tls_verify=None) as client,
            pytest.raises(RegistryError, match=r"not trusted.*not valid for") as caught,
        ):
            client.fetch_manifest(CONTEXT, REFERENCE)
        assert not caught.value.retryable


def test_all_sources_too_slow_is_a_timeout() -> None:
    limits = Limits(first_byte_timeout=0.2, idle_timeout=0.2, attempts=2)
    with (
        Upstream(stalling) as mirror,
        Upstream(stalling) as origin,
        registry_client(registries=upstreams(mirror, origin), limits=limits) as client,
        pytest.raises(UpstreamTimeoutError),
    ):
        client.fetch_manifest(CONTEXT, REFERENCE)


def test_documents_come_without_credentials_and_absence_is_no_error() -> None:
    routes: dict[str, Handler] = {"/signature-1": content(b"signed"), "/broken": answering(400)}
    servers: Sequence[str] = ("/signature-1", "/signature-2")
    with Upstream(by_path(routes)) as upstream, registry_client(credentials={"127.0.0.1": ("u", "p")}) as client:
        found = [client.fetch_document(CONTEXT, upstream.url + path, limit=6) for path in servers]
        assert found == [b"signed", None]
        with pytest.raises(RegistryError, match="over 5 bytes"):
            client.fetch_document(CONTEXT, f"{upstream.url}/signature-1", limit=5)
        with pytest.raises(RegistryError):
            client.fetch_document(CONTEXT, f"{upstream.url}/broken", limit=5)
        assert not any("authorization" in request.headers for request in upstream.requests)
