"""Content descriptors: what a manifest says of the blobs, and an index of the manifests, that it names.

Owns their shape and reading. A descriptor is a claim: whoever reads the content verifies it against digest and size.
OCI image-spec, descriptor.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from container_image_proxy.errors import InvalidDigestError, InvalidManifestError
from container_image_proxy.image.digest import Digest, parse_digest
from container_image_proxy.image.platform import Platform
from container_image_proxy.image.strict_json import as_object

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_BLOB_SIZE: Final = 2**63 - 1
_KEYS: Final = frozenset({"mediaType", "digest", "size", "urls", "annotations", "platform", "data", "artifactType"})
_PLATFORM_KEYS: Final = frozenset({"os", "architecture", "variant", "os.version", "os.features"})
_MEDIA_TYPE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")
_ABSOLUTE_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob or manifest by its digest; ``size`` is in bytes, ``platform`` and ``artifact_type`` ("" if it is not told)
    are given only in an index.
    """

    media_type: str
    digest: Digest
    size: int
    urls: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    platform: Platform | None = None
    artifact_type: str = ""


def parse_descriptor(value: object, where: str, *, max_size: int = MAX_BLOB_SIZE) -> Descriptor:
    """Read a descriptor out of parsed JSON; :class:`InvalidManifestError` for anything malformed.

    ``where`` names it in that error; ``max_size`` (bytes) is the largest size it may claim. Keys not ours are ignored.
    """
    fields = as_object(value, where, _KEYS)
    return Descriptor(
        media_type=_parse_media_type(fields.get("mediaType"), f"{where}.mediaType"),
        digest=_parse_digest(fields.get("digest"), f"{where}.digest"),
        size=_parse_size(fields.get("size"), f"{where}.size", max_size),
        urls=_parse_urls(fields.get("urls"), f"{where}.urls"),
        annotations=_parse_annotations(fields.get("annotations"), f"{where}.annotations"),
        platform=_parse_platform(fields.get("platform"), f"{where}.platform"),
        artifact_type=_parse_artifact_type(fields.get("artifactType")),
    )


def as_list(value: object, where: str) -> list[object]:
    """``value`` if it is an array; ``null``, which is how Go writes an empty one, counts as such."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidManifestError(f"{where} is not an array")
    return value


def _parse_media_type(value: object, where: str) -> str:
    if not isinstance(value, str) or not _MEDIA_TYPE.fullmatch(value):
        raise InvalidManifestError(f"{where} is not a media type")
    return value


def _parse_artifact_type(value: object) -> str:
    """A hint for choosing; what is no text tells nothing."""
    return value if isinstance(value, str) else ""


def _parse_digest(value: object, where: str) -> Digest:
    if not isinstance(value, str):
        raise InvalidManifestError(f"{where} is not a digest")
    try:
        return parse_digest(value)
    except InvalidDigestError as error:
        raise InvalidManifestError(f"{where}: {error}") from error


def _parse_size(value: object, where: str, max_size: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidManifestError(f"{where} is not a whole number of bytes")
    if not 0 <= value <= max_size:
        raise InvalidManifestError(f"{where} is not between 0 and {max_size} bytes")
    return value


def _parse_urls(value: object, where: str) -> tuple[str, ...]:
    urls = as_list(value, where)
    if not all(isinstance(url, str) and _ABSOLUTE_URI.fullmatch(url) for url in urls):
        raise InvalidManifestError(f"{where} holds something that is not an absolute URL")
    return tuple(str(url) for url in urls)


def _parse_annotations(value: object, where: str) -> Mapping[str, str]:
    if value is None:
        return {}
    annotations = as_object(value, where)
    if not all(isinstance(text, str) for text in annotations.values()):
        raise InvalidManifestError(f"{where} has a value that is not text")
    return {key: str(text) for key, text in annotations.items()}


def _parse_platform(value: object, where: str) -> Platform | None:
    if value is None:
        return None
    fields = as_object(value, where, _PLATFORM_KEYS)
    os, architecture, variant = fields.get("os"), fields.get("architecture"), fields.get("variant", "")
    if not isinstance(os, str) or not isinstance(architecture, str) or not isinstance(variant, str):
        raise InvalidManifestError(f"{where} needs os and architecture, and every name in it must be text")
    return Platform(os, architecture, variant)
