"""URLs that a registry or an administrator wrote are asked for byte for byte: a signature may be over them."""

from __future__ import annotations

import pytest

from container_image_proxy.errors import RegistryError
from container_image_proxy.image.digest import digest_of
from container_image_proxy.image.manifest import Descriptor
from container_image_proxy.image.reference import Reference, parse_reference
from tests.support.bundles import BUNDLE, list_of
from tests.support.contexts import CONTEXT
from tests.support.layouts import OCI_INDEX
from tests.support.readers import read_all
from tests.support.registry_client import registry_client
from tests.support.upstream import Connection, ReceivedRequest, Upstream, answering, by_path, content, redirecting

BLOB = b"the blob"
DESCRIPTOR = Descriptor("", digest_of(BLOB), len(BLOB))
SIGNED = [
    "/data%7Esig%2Dx?Policy=a%7Eb%2Dc&Signature=Zm9v%2Fbar%3D",
    "/x?response-content-disposition=attachment%3B%20filename%3D%22a%2eb%22&Signature=a%2fb",
    "/a%2fb/..%2fc/%2e%2E/./../d?x=1",
    "//double//slash?x=%7e",
    "/data?filename*=UTF-8''a%27b&Signature=x|y",
    '/d[1]?x={1}&y=^`\\"<>',
    "/empty-query?",
    "/not%zzhex?%",
    "/semi;colon=1?a=(b)&c=d+e&f=%41",
]


def reference_at(upstream: Upstream) -> Reference:
    return parse_reference(f"{upstream.authority}/some/image:latest")


def blob_through(location: str, storage: Upstream) -> str:
    """The request target by which a redirected blob was asked for."""
    with Upstream(redirecting(location)) as registry, registry_client() as client:
        assert read_all(client.open_blob(CONTEXT, reference_at(registry), DESCRIPTOR)) == BLOB
    (request,) = storage.requests
    return request.target


@pytest.mark.demand("redirect-cdn")
@pytest.mark.parametrize("signed", SIGNED)
def test_a_signed_url_is_asked_for_byte_for_byte(signed: str) -> None:
    with Upstream(content(BLOB), host="127.0.0.3") as storage:
        assert blob_through(f"http://{storage.authority}{signed}#fragment", storage) == signed


@pytest.mark.parametrize("signed", SIGNED)
def test_so_it_is_through_a_proxy(signed: str) -> None:
    location = f"http://storage.invalid:81{signed}"

    def forward(request: ReceivedRequest, connection: Connection) -> None:
        if "storage" in request.target:
            connection.answer(200, BLOB)
        else:
            (answering(502) if request.method == "CONNECT" else redirecting(location))(request, connection)

    with (
        Upstream(forward) as proxy,
        registry_client(environ={"HTTP_PROXY": proxy.url, "HTTPS_PROXY": proxy.url}) as client,
    ):
        reference = parse_reference("registry.invalid:80/some/image:latest")
        assert read_all(client.open_blob(CONTEXT, reference, DESCRIPTOR)) == BLOB
        assert proxy.requests[-1].target == location
        assert proxy.requests[-1].headers["host"] == "storage.invalid:81"


def test_the_host_is_told_as_the_url_has_it() -> None:
    with Upstream(content(BLOB), host="127.0.0.3") as storage:
        blob_through(f"http://127.0.0.3:{storage.port:05}/x", storage)
        assert storage.requests[0].headers["host"] == f"127.0.0.3:{storage.port:05}"


def test_bytes_that_no_request_line_holds_are_encoded() -> None:
    with Upstream(content(BLOB), host="127.0.0.3") as storage:
        location = f"http://{storage.authority}/\u00c3\u00bc b?c d\u00fc"  # as the bytes are sent
        assert blob_through(location, storage) == "/%C3%BC%20b?c%20d%FC"


@pytest.mark.parametrize("location", ["http://127.0.0.3:1/a\x00b", "http://127.0.0.3:1/a\x7fb"])
def test_control_characters_in_a_location_are_refused_with_the_head(location: str) -> None:
    with Upstream(redirecting(location)) as registry, registry_client() as client:
        with pytest.raises(RegistryError, match="a header line of its answer is malformed") as caught:
            read_all(client.open_blob(CONTEXT, reference_at(registry), DESCRIPTOR))
        assert "127.0.0.3" not in str(caught.value)


@pytest.mark.parametrize("location", ["ftp://127.0.0.3/", "//"])
def test_a_redirect_that_nobody_could_follow_is_told_as_one_and_not_shown(location: str) -> None:
    with Upstream(redirecting(location)) as registry, registry_client() as client:
        with pytest.raises(RegistryError, match="redirects to a URL that cannot be asked for: it ") as caught:
            read_all(client.open_blob(CONTEXT, reference_at(registry), DESCRIPTOR))
        assert caught.value.endpoint == registry.authority
        assert "127.0.0.3" not in str(caught.value)


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/elsewhere%2f?x=%7e", "/elsewhere%2f?x=%7e"),
        ("../other?x=%7e", "/v2/some/image/other?x=%7e"),
        ("?x=%7e", f"/v2/some/image/blobs/{DESCRIPTOR.digest}?x=%7e"),
    ],
)
def test_a_relative_redirect_is_resolved_and_otherwise_left_alone(location: str, target: str) -> None:
    def handle(request: ReceivedRequest, connection: Connection) -> None:
        (content(BLOB) if request.target == target else redirecting(location))(request, connection)

    with Upstream(handle) as registry, registry_client() as client:
        assert read_all(client.open_blob(CONTEXT, reference_at(registry), DESCRIPTOR)) == BLOB
        assert [request.target for request in registry.requests][1:] == [target]


def test_a_token_realm_keeps_its_own_query() -> None:
    with Upstream(answering(500)) as registry:
        realm = f"{registry.url}/token%7e/?tenant=a%2fb&x="

        def handle(request: ReceivedRequest, connection: Connection) -> None:
            if request.path == "/token%7e/":
                connection.answer(200, b'{"token": "t"}')
            elif "authorization" in request.headers:
                connection.answer(200, BLOB)
            else:
                connection.answer(401, headers={"WWW-Authenticate": f'Bearer realm="{realm}",service="s%7e"'})

        registry.handler = handle
        with registry_client() as client:
            assert read_all(client.open_blob(CONTEXT, reference_at(registry), DESCRIPTOR)) == BLOB
        asked = next(request.target for request in registry.requests if request.path == "/token%7e/")
        assert asked.startswith("/token%7e/?tenant=a%2fb&x=&service=s%257e&scope=")


def test_the_next_page_is_asked_for_byte_for_byte() -> None:
    subject = digest_of(b"the subject")
    path = f"/v2/some/image/referrers/{subject}"

    def handle(request: ReceivedRequest, connection: Connection) -> None:
        link = {} if "last" in request.target else {"Link": f"<{path}?last=a%7eb%2fc>; rel=next"}
        connection.answer(200, list_of(), {"Content-Type": OCI_INDEX, **link})

    with Upstream(handle) as registry, registry_client() as client:
        assert client.fetch_referrers(CONTEXT, reference_at(registry), subject, BUNDLE) == ()
        assert registry.requests[-1].target == f"{path}?last=a%7eb%2fc"


@pytest.mark.demand("AUTH-userinfo-url")
def test_a_signature_storage_is_asked_by_the_administrators_very_url_and_login() -> None:
    with Upstream(by_path({"/signature-1": content(b"the signature")})) as storage, registry_client() as client:
        url = f"http://me:se%63ret@{storage.authority}/sig%7es/os@sha256=ab/signature-1?token=a%2fb"
        assert client.fetch_document(CONTEXT, url, limit=100) == b"the signature"
        (request,) = storage.requests
        assert request.target == "/sig%7es/os@sha256=ab/signature-1?token=a%2fb"
        assert request.headers["authorization"] == "Basic bWU6c2VjcmV0"
