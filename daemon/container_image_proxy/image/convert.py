"""Converts Docker schema 2 manifests to OCI manifests.

Only media types change. Each blob, the configuration included, keeps its digest, so that everything that the converted
manifest names can be fetched and verified (contrib/adr/0003). OCI image-spec, media-types.md "Compatibility Matrix".
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from msgspec.structs import replace

from container_image_proxy.errors import InvalidManifestError, shown
from container_image_proxy.image.digest import digest_of
from container_image_proxy.image.manifest import Descriptor, Manifest
from container_image_proxy.image.media_types import DOCKER_MANIFEST, OCI_CONFIG, OCI_LAYER_OF, OCI_MANIFEST

if TYPE_CHECKING:
    from collections.abc import Iterable


def to_oci(manifest: Manifest) -> Manifest:
    """The same image as an OCI manifest. An OCI manifest is returned unchanged, byte for byte.

    The bytes depend on the manifest only. :class:`InvalidManifestError` for a layer whose type has no OCI counterpart.
    """
    if manifest.media_type != DOCKER_MANIFEST:
        return manifest
    # The configuration's own media type is not checked: tools write any, even none. In a Docker manifest it can only be
    # an image's configuration.
    config = replace(manifest.config, media_type=OCI_CONFIG, annotations={})
    layers = []
    for position, layer in enumerate(manifest.layers):
        media_type = OCI_LAYER_OF.get(layer.media_type)
        if media_type is None:
            raise InvalidManifestError(
                f"layers[{position}] has the media type {shown(layer.media_type)}, which has no OCI counterpart"
            )
        # Docker's descriptors have no annotations, so that any here have no meaning. They are left out.
        layers.append(replace(layer, media_type=media_type, annotations={}))
    raw = serialise(config, layers)
    return Manifest(raw, OCI_MANIFEST, digest_of(raw), config, tuple(layers))


def serialise(config: Descriptor, layers: Iterable[Descriptor]) -> bytes:
    """The JSON text of the OCI manifest with this configuration and these layers."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": as_json(config),
        "layers": [as_json(layer) for layer in layers],
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def as_json(descriptor: Descriptor) -> dict[str, object]:
    """A descriptor as a JSON object, without annotations."""
    fields: dict[str, object] = {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }
    if descriptor.urls:
        fields["urls"] = descriptor.urls
    return fields
