"""Content descriptors, by which a manifest names blobs (OCI image-spec, descriptor.md).

Digest and size are parsed strictly, because content is verified by them. The other members decide nothing about the
content, and are ignored if they are malformed (contrib/adr/0017).
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
"""Bytes of a blob: the largest size of a file (off_t). Blobs are streamed, so that large ones take no more memory."""
_DECIDING: Final = frozenset({"mediaType", "digest", "size"})


class Descriptor(Struct, frozen=True):
    """A blob or manifest by its digest. ``size`` is in bytes; ``media_type`` is "" if it is unknown."""

    media_type: str
    digest: Digest
    size: int
    urls: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash(self.digest)  # a mapping of annotations cannot be hashed


class _Written(Struct, frozen=True, rename="camel"):
    """A descriptor as a document has it."""

    digest: str
    size: int
    media_type: Any = None
    urls: Any = None
    annotations: Any = None


def parse_descriptor(value: object, path: KeyPath, *, max_size: int = MAX_BLOB_SIZE) -> Descriptor:
    """A descriptor from parsed JSON that stands at ``path``.

    ``max_size`` (bytes) is the largest size that it may claim. :class:`MalformedDocumentError` if its digest, size or
    keys are malformed or ambiguous.
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
    """A digest from parsed JSON that stands at ``path``; :class:`MalformedDocumentError` if it is none."""
    try:
        return parse_digest(convert(value, str, path))
    except InvalidDigestError as error:
        raise MalformedDocumentError(str(error), path) from error
