"""Content descriptors: what a manifest says of the blobs, and an index of the manifests, that it names.

Owns their shape and reading. A descriptor is a claim: whoever reads the content verifies it against digest and size,
which are therefore read strictly. The other members decide nothing about the content: of those, what has the wrong
form is passed over. OCI image-spec, descriptor.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct, field

from container_image_proxy.errors import InvalidDigestError, InvalidManifestError
from container_image_proxy.image.digest import Digest, parse_digest
from container_image_proxy.image.strict_json import as_object

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_BLOB_SIZE: Final = 2**63 - 1
_KEYS: Final = frozenset({"mediaType", "digest", "size"})


class Descriptor(Struct, frozen=True):
    """A blob or manifest by its digest; ``size`` is in bytes, ``media_type`` is "" if it is not told."""

    media_type: str
    digest: Digest
    size: int
    urls: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash(self.digest)  # annotations have no hash


def parse_descriptor(value: object, where: str, *, max_size: int = MAX_BLOB_SIZE) -> Descriptor:
    """Read a descriptor out of parsed JSON; :class:`InvalidManifestError` if the content cannot be verified by it.

    ``where`` names it in that error; ``max_size`` (bytes) is the largest size it may claim.
    """
    fields = as_object(value, where, _KEYS)
    return Descriptor(
        media_type=text_of(fields.get("mediaType")),
        digest=read_digest(fields.get("digest"), f"{where}.digest"),
        size=_parse_size(fields.get("size"), f"{where}.size", max_size),
        urls=_texts_in(fields.get("urls")),
        annotations=annotations_of(fields.get("annotations")),
    )


def as_list(value: object, where: str) -> list[object]:
    """``value`` if it is an array; ``null``, which is how Go writes an empty one, counts as such."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidManifestError(f"{where} is not an array")
    return value


def text_of(value: object) -> str:
    """``value`` if it is text; what is not tells nothing."""
    return value if isinstance(value, str) else ""


def annotations_of(value: object) -> Mapping[str, str]:
    """The annotations that are text. ``null`` counts as empty text, as it does to Go."""
    if not isinstance(value, dict):
        return {}
    return {key: text or "" for key, text in value.items() if text is None or isinstance(text, str)}


def _texts_in(value: object) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def read_digest(value: object, where: str) -> Digest:
    """``value`` if it is a digest that content can be verified by; :class:`InvalidManifestError` otherwise."""
    if value is None:
        raise InvalidManifestError(f"{where} is missing")
    if not isinstance(value, str):
        raise InvalidManifestError(f"{where} is not text")
    try:
        return parse_digest(value)
    except InvalidDigestError as error:
        raise InvalidManifestError(f"{where}: {error}") from error


def _parse_size(value: object, where: str, max_size: int) -> int:
    if value is None:
        raise InvalidManifestError(f"{where} is missing")
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidManifestError(f"{where} is not a whole number of bytes")
    if not 0 <= value <= max_size:
        raise InvalidManifestError(f"{where} is not between 0 and {max_size} bytes")
    return value
