"""Referrers: the manifests in a repository that are about another one, as a registry lists them. Pure.

Reads the pages of the referrers API, and the index that clients keep under a tag where a registry has no such API.
Must not ask for them, which ``client`` does. Spec: OCI distribution-spec 1.1, "Listing Referrers" and "Referrers Tag
Schema".
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

from container_image_proxy.errors import InvalidManifestError, RegistryError, UnknownManifestError, UpstreamError
from container_image_proxy.image.manifest import Index, parse_manifest
from container_image_proxy.image.media_types import OCI_INDEX
from container_image_proxy.registry.http.headers import parse_next_link
from container_image_proxy.registry.http.target import parse_target

if TYPE_CHECKING:
    from collections.abc import Iterable

    from container_image_proxy.errors import Error
    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.manifest import IndexEntry, UntrustedManifest
    from container_image_proxy.registry.endpoints import Repository
    from container_image_proxy.registry.http.reply import Reply

MAX_REFERRERS: Final = 128
"""Of one type, which is as many as an image may have signatures: each is fetched."""
MAX_PAGES: Final = 16
"""A registry may list without end. Each page may be as large as a manifest."""
_TAG_DIGITS: Final = 64  # the specification cuts the digest's hex digits there, so that sha512 fits into a tag
_NO_API: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_ACCEPTABLE})
# Some clients enter the type of the artifact's configuration instead of its own, which for most is that of nothing.
_UNSPECIFIED: Final = frozenset({"", "application/vnd.oci.empty.v1+json"})


def first_page(digest: Digest, artifact_type: str) -> str:
    """The path below the repository that lists the referrers of ``digest``.

    A registry may leave out those of other types than ``artifact_type``, unless that is empty.
    """
    query = f"?artifactType={quote(artifact_type, safe='')}" if artifact_type else ""
    return f"referrers/{digest}{query}"


def next_page(reply: Reply, repository: Repository) -> str | None:
    """The path below the repository of the page that follows ``reply``; None if that is the last one (RFC 8288).

    Raises :class:`RegistryError` if the next page lies elsewhere, where our credentials must not go.
    """
    link = parse_next_link(", ".join(reply.header_lines("Link")))
    if link is None:
        return None
    here = reply.request.target
    there = parse_target(link, here)
    root = f"/v2/{repository.path}/"
    path = there.request_target.partition("?")[0]
    leads_up = ".." in unquote(path).split("/")
    if there.origin != here.origin or not path.startswith(f"{root}referrers/") or leads_up:
        raise reply.fault(RegistryError, f"{reply.endpoint} continues its list of referrers outside of the repository")
    return there.request_target.removeprefix(root)


def is_without_api(error: Error) -> bool:
    """Whether ``error`` is how a registry without the referrers API answers: 404, or what older ones say to what they
    do not know.
    """
    status = error.upstream_status if isinstance(error, UpstreamError) else None
    return isinstance(error, UnknownManifestError) or status in _NO_API


def referrers_tag(digest: Digest) -> str:
    """The tag of the index in which clients list the referrers of ``digest`` where the registry has no API."""
    return f"{digest.algorithm}-{digest.hex[:_TAG_DIGITS]}"


def parse_referrers(untrusted: UntrustedManifest, where: str) -> Index:
    """Read a list of referrers from ``where``, which messages name.

    Raises :class:`InvalidManifestError` for anything that is not an OCI index.
    """
    try:
        index = parse_manifest(untrusted)
    except InvalidManifestError as error:
        raise error.retold(f"{where}: the list of referrers cannot be read: {error}") from error
    if not isinstance(index, Index) or index.media_type != OCI_INDEX:
        raise InvalidManifestError(f"{where}: the list of referrers is not an OCI index")
    return index


def select_referrers(found: Iterable[IndexEntry], artifact_type: str) -> tuple[IndexEntry, ...]:
    """The entries that are, or may be, of ``artifact_type``: a registry need not filter, whatever it was asked.

    Raises :class:`InvalidManifestError` for more than ``MAX_REFERRERS``.
    """
    wanted = tuple(one for one in found if one.artifact_type in _UNSPECIFIED | {artifact_type})
    if len(wanted) > MAX_REFERRERS:
        raise InvalidManifestError(f"the image has more than {MAX_REFERRERS} referrers of type {artifact_type}")
    return wanted
