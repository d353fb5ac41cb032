"""Docker schema 2 manifests as OCI manifests.

Changes media types only: every blob, the configuration too, keeps its digest, so that whatever the converted manifest
names can be fetched and verified (contrib/adr/0003). OCI image-spec, media-types.md "Compatibility Matrix".
"""

from __future__ import annotations

import json
from dataclasses import replace

from container_image_proxy.errors import InvalidManifestError
from container_image_proxy.image.digest import digest_of
from container_image_proxy.image.manifest import Descriptor, Manifest
from container_image_proxy.image.media_types import DOCKER_MANIFEST, OCI_CONFIG_OF, OCI_LAYER_OF, OCI_MANIFEST


def to_oci(manifest: Manifest) -> Manifest:
    """The same image as an OCI manifest; one that already is returns unchanged, byte for byte.

    The bytes depend on the manifest alone. :class:`InvalidManifestError` for a blob whose type has no OCI counterpart.
    """
    if manifest.media_type != DOCKER_MANIFEST:
        return manifest
    config = _converted(manifest.config, OCI_CONFIG_OF)
    layers = tuple(_converted(layer, OCI_LAYER_OF) for layer in manifest.layers)
    raw = _serialised(config, layers)
    return Manifest(raw, OCI_MANIFEST, digest_of(raw), config, layers)


def _converted(descriptor: Descriptor, media_types: dict[str, str]) -> Descriptor:
    media_type = media_types.get(descriptor.media_type)
    if media_type is None:
        raise InvalidManifestError(
            f"{descriptor.digest}: the media type {descriptor.media_type!r} has no OCI counterpart"
        )
    return replace(descriptor, media_type=media_type)


def _serialised(config: Descriptor, layers: tuple[Descriptor, ...]) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _fields(config),
        "layers": [_fields(layer) for layer in layers],
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def _fields(descriptor: Descriptor) -> dict[str, object]:
    fields: dict[str, object] = {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }
    if descriptor.urls:
        fields["urls"] = descriptor.urls
    if descriptor.annotations:
        fields["annotations"] = dict(descriptor.annotations)
    return fields
