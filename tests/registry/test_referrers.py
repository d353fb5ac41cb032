"""Lists of referrers: by the API, page by page, and by the tag where a registry has no API."""

from __future__ import annotations

from typing import Any

import pytest

from container_image_proxy.config.registries import Mirror, Registries, Registry
from container_image_proxy.errors import InvalidManifestError, RegistryAuthError, RegistryError, UpstreamError
from container_image_proxy.image.digest import digest_of
from container_image_proxy.image.manifest import Descriptor
from container_image_proxy.image.reference import parse_reference
from tests.support.bundles import BUNDLE, list_of
from tests.support.contexts import CONTEXT
from tests.support.layouts import DOCKER_LIST, OCI_EMPTY, OCI_INDEX, OCI_MANIFEST, encode
from tests.support.registry_client import registry_client
from tests.support.upstream import Connection, Handler, ReceivedRequest, Upstream, answering, by_path

SUBJECT = digest_of(b"the subject")
PATH = f"/v2/some/os/referrers/{SUBJECT}"
DOCKER_LISTING = encode({"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": []})
TAG = f"/manifests/sha256-{SUBJECT.hex}"


def entry(content: str, artifact_type: Any = BUNDLE) -> dict[str, Any]:
    made = {"mediaType": OCI_MANIFEST, "digest": str(digest_of(content.encode())), "size": 3}
    return made | ({"artifactType": artifact_type} if artifact_type is not ... else {})


def listing(*contents: str, link: str | None = None, media_type: str = OCI_INDEX) -> Handler:
    headers = {"Content-Type": media_type} | ({"Link": link} if link else {})
    return answering(200, list_of(*map(entry, contents)), headers)


def fetch(upstream: Upstream) -> tuple[Descriptor, ...]:
    with registry_client() as client:
        return client.fetch_referrers(CONTEXT, parse_reference(f"{upstream.authority}/some/os:1"), SUBJECT, BUNDLE)


def names(found: tuple[Descriptor, ...]) -> set[str]:
    known = {str(digest_of(name.encode())): name for name in "abcdef"}
    return {known[str(one.digest)] for one in found}


def test_referrers_are_asked_for_by_type_and_filtered_here_too() -> None:
    index = list_of(entry("a"), entry("b", "application/sbom"), entry("c", ...), entry("d", OCI_EMPTY), entry("e", 7))
    with Upstream(by_path({PATH: answering(200, index, {"Content-Type": OCI_INDEX})})) as upstream:
        assert names(fetch(upstream)) == {"a", "c", "d", "e"}
        (request,) = upstream.requests
        assert request.target == f"{PATH}?artifactType=application%2Fvnd.dev.sigstore.bundle.v0.3%2Bjson"
        assert request.headers["accept"] == OCI_INDEX


def paged(first_link: str) -> Handler:
    def handle(request: ReceivedRequest, connection: Connection) -> None:
        handler = listing("b") if request.target.endswith("last=a") else listing("a", link=first_link)
        handler(request, connection)

    return handle


@pytest.mark.parametrize("link", [f'<{PATH}?last=a>; rel="next"', '<?last=a>; rel="next"'])
def test_all_pages_are_read(link: str) -> None:
    with Upstream(paged(link)) as upstream:
        assert names(fetch(upstream)) == {"a", "b"}
        assert len(upstream.requests) == 2


@pytest.mark.parametrize(
    "link",
    [
        "<http://127.0.0.2:1/v2/some/os/referrers/x?last=a>; rel=next",
        f"<https://{{authority}}{PATH}?last=a>; rel=next",
        "</v2/other/os/referrers/x?last=a>; rel=next",
        "</v2/some/os/manifests/x?last=a>; rel=next",
        "</v2/some/os/referrers/../../../other/os/referrers/x>; rel=next",
        "</v2/some/os/referrers/%2e%2e/%2E./manifests/x>; rel=next",
        "<ftp://x/>; rel=next",
    ],
)
def test_a_page_elsewhere_is_not_fetched(link: str) -> None:
    with Upstream(answering(500)) as upstream:
        upstream.handler = listing("a", link=link.format(authority=upstream.authority))
        with pytest.raises(RegistryError):
            fetch(upstream)
        assert len(upstream.requests) == 1


@pytest.mark.demand("LIM-signatures")
def test_endless_pages_and_too_many_referrers_are_refused() -> None:
    with Upstream(listing("a", link="<?more>; rel=next")) as upstream:
        with pytest.raises(RegistryError, match="more than 16 pages"):
            fetch(upstream)
        assert len(upstream.requests) == 16
    with Upstream(listing(*map(str, range(128)))) as upstream:
        assert len(fetch(upstream)) == 128
    with Upstream(listing(*map(str, range(129)))) as upstream, pytest.raises(InvalidManifestError, match="than 128"):
        fetch(upstream)
    huge = answering(200, b" " * (5 << 20), {"Content-Type": OCI_INDEX})
    with Upstream(huge) as upstream, pytest.raises(InvalidManifestError, match="over"):
        fetch(upstream)


@pytest.mark.parametrize("status", [400, 404, 405, 406])
def test_without_the_api_the_tag_has_the_list(status: int) -> None:
    with Upstream(by_path({PATH: answering(status), TAG: listing("a")})) as upstream:
        assert names(fetch(upstream)) == {"a"}
        assert [path for path in upstream.paths() if path != "/v2/"] == [PATH, f"/v2/some/os{TAG}"]


def test_the_tag_of_a_longer_digest_is_cut() -> None:
    digest = digest_of(b"the subject", "sha512")
    routes = {f"/manifests/sha512-{digest.hex[:64]}": listing("a")}
    with Upstream(by_path(routes)) as upstream, registry_client() as client:
        assert client.fetch_referrers(CONTEXT, parse_reference(f"{upstream.authority}/some/os:1"), digest, BUNDLE)


def test_without_api_and_tag_there_are_none() -> None:
    with Upstream(by_path({})) as upstream:
        assert fetch(upstream) == ()


@pytest.mark.parametrize(
    ("api", "tag", "expected"),
    [
        (answering(403), None, RegistryAuthError),
        (answering(500), None, UpstreamError),
        (answering(200, b"<html>", {"Content-Type": "text/html"}), None, InvalidManifestError),
        (answering(200, b"{}", {"Content-Type": OCI_INDEX}), None, InvalidManifestError),
        (answering(200, DOCKER_LISTING, {"Content-Type": DOCKER_LIST}), None, InvalidManifestError),
        (answering(404), answering(500), UpstreamError),
        (answering(404), answering(200, b"{}", {"Content-Type": OCI_MANIFEST}), InvalidManifestError),
    ],
)
def test_every_other_failure_is_one(api: Handler, tag: Handler | None, expected: type[Exception]) -> None:
    with Upstream(by_path({PATH: api, TAG: tag or listing("a")})) as upstream, pytest.raises(expected):
        fetch(upstream)


def test_a_mirror_without_the_api_is_no_answer_for_the_origin() -> None:
    name = "origin.example.org/some/os"
    with Upstream(by_path({})) as mirror, Upstream(by_path({PATH: listing("a")})) as origin:
        endpoints = (Mirror(f"{mirror.authority}/some/os"),)
        registries = Registries((Registry(name, f"{origin.authority}/some/os", mirrors=endpoints),))
        with registry_client(registries=registries) as client:
            assert names(client.fetch_referrers(CONTEXT, parse_reference(f"{name}:1"), SUBJECT, BUNDLE)) == {"a"}
