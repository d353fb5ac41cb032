"""What all answers with content have in common: entity tags and digests, and blobs, whole or in part.

A part has the digest of everything before it as ``Prefix-Digest``, in the form of RFC 9530. A client that holds those
bytes compares it, and knows that it has the beginning of the right blob (contrib/adr/0030).
Spec: RFC 9110 sections 8.8, 13.1 and 14, RFC 9530.
"""

from __future__ import annotations

import base64
import functools
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from container_image_proxy.faces.http.problem import Answer
from container_image_proxy.faces.http.ranges import content_range, may_resume, parse_range
from container_image_proxy.image.digest import digest_of

if TYPE_CHECKING:
    from container_image_proxy.core.serving import Serving
    from container_image_proxy.core.snapshots import Snapshot
    from container_image_proxy.faces.http.request import ClientRequest
    from container_image_proxy.image.descriptor import Descriptor
    from container_image_proxy.image.digest import Digest

OCTETS: Final = "application/octet-stream"
_HTTP_DIGEST_NAMES: Final = {"sha256": "sha-256", "sha512": "sha-512"}


def blob_answer(
    request: ClientRequest,
    serving: Serving,
    snapshot: Snapshot,
    descriptor: Descriptor,
    headers: tuple[tuple[str, str], ...],
) -> Answer:
    """The answer with a blob, or the part of it that is asked for, as a stream; 304 if the client has it.

    Raises :class:`UnsatisfiableRangeError`, and for a part what reading it raises.
    """
    etag = f'"{descriptor.digest}"'
    headers = (*headers, ("ETag", etag), ("Repr-Digest", repr_digest(descriptor.digest)), ("Accept-Ranges", "bytes"))
    if is_known(request, headers):
        return not_modified(headers)
    whole = (*headers, ("Content-Length", str(descriptor.size)))
    span = parse_range(request.range, descriptor.size) if may_resume(request.if_range, etag) else None
    part = None if span is None else serving.proxy.open_part(request.context, snapshot, descriptor, span)
    if part is None:
        open_blob = functools.partial(serving.proxy.open_blob, request.context, snapshot, descriptor)
        return Answer(HTTPStatus.OK, whole, open_blob)
    described = (
        ("Content-Length", str(len(part.span))),
        ("Content-Range", content_range(part.span, descriptor.size)),
        ("Prefix-Digest", repr_digest(part.prefix)),
    )
    return Answer(HTTPStatus.PARTIAL_CONTENT, (*headers, *described), part.pieces)


def document_answer(
    request: ClientRequest,
    body: bytes,
    media_type: str,
    headers: tuple[tuple[str, str], ...] = (),
    *,
    digest: Digest | None = None,
) -> Answer:
    """The answer with a body in memory, whose ``digest`` may be known; 304 if the client has it."""
    if is_known(request, headers):
        return not_modified(headers)
    described = (
        ("Content-Type", media_type),
        ("Content-Length", str(len(body))),
        ("Repr-Digest", repr_digest(digest or digest_of(body))),
    )
    return Answer(HTTPStatus.OK, (*headers, *described), body)


def is_known(request: ClientRequest, headers: tuple[tuple[str, str], ...]) -> bool:
    """Whether ``If-None-Match`` names the answer's entity tag (RFC 9110 section 13.1.2, weak comparison)."""
    if request.if_none_match is None or (etag := dict(headers).get("ETag")) is None:
        return False
    known = [tag.strip().removeprefix("W/") for tag in request.if_none_match.split(",")]
    return "*" in known or etag in known


def not_modified(headers: tuple[tuple[str, str], ...]) -> Answer:
    """The answer to a client that has the content already: 304, without what describes content that is not sent."""
    omitted = {"Content-Type", "Content-Length", "Repr-Digest", "Accept-Ranges"}
    return Answer(HTTPStatus.NOT_MODIFIED, tuple(pair for pair in headers if pair[0] not in omitted), b"")


@functools.lru_cache(maxsize=64)
def repr_digest(digest: Digest) -> str:
    """The digest as RFC 9530 section 2 writes it: ``sha-256=:BASE64:``."""
    return f"{_HTTP_DIGEST_NAMES[digest.algorithm]}=:{base64.b64encode(bytes.fromhex(digest.hex)).decode()}:"
