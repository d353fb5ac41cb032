"""Content descriptors: what a manifest says of the blobs, and an index of the manifests, that it names.

Owns their shape and reading. A descriptor is a claim: whoever reads the content verifies it against digest and size,
which are therefore read strictly. The other members decide nothing about the content: of those, what has the wrong
form is passed over. OCI image-spec, descriptor.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct, field

from container_image_proxy.errors import InvalidDigestError, MalformedDocumentError
from container_image_proxy.image.digest import Digest, parse_digest
from container_image_proxy.image.documents import annotations_of, convert, text_of, texts_of
from container_image_proxy.image.strict_json import verify_keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from container_image_proxy.errors import KeyPath

MAX_BLOB_SIZE: Final = 2**63 - 1
"""Bytes of a blob: what a file or an HTTP length can have. Blobs are streamed, so that a large one takes no memory."""
_DECIDING: Final = frozenset({"mediaType", "digest", "size"})


class Descriptor(Struct, frozen=True):
    """A blob or manifest by its digest; ``size`` is in bytes, ``media_type`` is "" if it is not told."""

    media_type: str
    digest: Digest
    size: int
    urls: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash(self.digest)  # annotations have no hash


class _Written(Struct, frozen=True, rename="camel"):
    """A descriptor as it stands in a document."""

    digest: str
    size: int
    media_type: Any = None
    urls: Any = None
    annotations: Any = None


def parse_descriptor(value: object, path: KeyPath, *, max_size: int = MAX_BLOB_SIZE) -> Descriptor:
    """Read a descriptor out of parsed JSON; :class:`MalformedDocumentError` if the content cannot be verified by it.

    ``path`` is where it stands; ``max_size`` (bytes) is the largest size it may claim.
    """
    verify_keys(value, _DECIDING, path)
    written = convert(value, _Written, path)
    if not 0 <= written.size <= max_size:
        raise MalformedDocumentError(f"must be between 0 and {max_size} bytes", (*path, "size"))
    return Descriptor(
        media_type=text_of(written.media_type),
        digest=read_digest(written.digest, (*path, "digest")),
        size=written.size,
        urls=texts_of(written.urls),
        annotations=annotations_of(written.annotations),
    )


def read_digest(value: object, path: KeyPath) -> Digest:
    """``value`` if it is a digest that content can be verified by; :class:`MalformedDocumentError` otherwise."""
    try:
        return parse_digest(convert(value, str, path))
    except InvalidDigestError as error:
        raise MalformedDocumentError(str(error), path) from error
