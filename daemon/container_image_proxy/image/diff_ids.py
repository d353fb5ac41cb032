"""Images whose layers are uncompressed tar archives: their DiffIDs, and manifests that name the layers by them.

A configuration names each layer by its DiffID, the digest of its uncompressed tar (OCI image-spec, config.md "rootfs").
A source that has only the uncompressed layers serves a manifest that names these.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from container_image_proxy.errors import InvalidManifestError, MalformedDocumentError
from container_image_proxy.image.convert import as_json, serialise
from container_image_proxy.image.descriptor import read_digest
from container_image_proxy.image.documents import convert
from container_image_proxy.image.manifest import Descriptor, Manifest, UntrustedManifest, parse_manifest
from container_image_proxy.image.media_types import DOCKER_MANIFEST, OCI_CONFIG, OCI_LAYER_TAR, OCI_MANIFEST
from container_image_proxy.image.strict_json import parse_tolerant_json, verify_keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from container_image_proxy.image.digest import Digest


class _RootFs(Struct, frozen=True):
    diff_ids: list[Any] | None = None


class _Config(Struct, frozen=True):
    rootfs: _RootFs


def parse_diff_ids(config: bytes) -> tuple[Digest, ...]:
    """The DiffIDs in an image's configuration (JSON text), from the lowest layer up.

    :class:`InvalidManifestError` if it is malformed or has no ``rootfs``, as the configuration of an artifact.
    """
    try:
        value: Any = parse_tolerant_json(config, "it")
        rootfs = convert(value, _Config).rootfs
        verify_keys(value, {"rootfs"})
        verify_keys(value["rootfs"], {"diff_ids"}, ("rootfs",))
        ids = enumerate(rootfs.diff_ids or [])
        return tuple(read_digest(one, ("rootfs", "diff_ids", position)) for position, one in ids)
    except MalformedDocumentError as error:
        raise InvalidManifestError(f"the image's configuration: {error}") from error


def with_tar_layers(manifest: Manifest, diff_ids: Sequence[Digest], sizes: Sequence[int]) -> Manifest:
    """The image as an OCI manifest whose layers are uncompressed tars with these digests and sizes (bytes).

    All other members of an OCI manifest are kept, and the configuration of a Docker manifest. The bytes depend on the
    arguments only. :class:`InvalidManifestError` if the manifest has another number of layers.
    """
    if not len(manifest.layers) == len(diff_ids) == len(sizes):
        raise InvalidManifestError(
            f"the manifest has {len(manifest.layers)} layers, and the image's configuration {len(diff_ids)}"
        )
    layers = tuple(Descriptor(OCI_LAYER_TAR, *layer) for layer in zip(diff_ids, sizes, strict=True))
    if manifest.media_type == DOCKER_MANIFEST:
        raw = serialise(replace(manifest.config, media_type=OCI_CONFIG, annotations={}), layers)
    else:
        document: dict[str, object] = {"schemaVersion": 2, "mediaType": OCI_MANIFEST}
        document |= convert(parse_tolerant_json(manifest.raw, "the manifest"), dict[str, Any])
        document["layers"] = [as_json(layer) for layer in layers]
        raw = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    made = parse_manifest(UntrustedManifest(raw, OCI_MANIFEST))  # refuses impossible sizes
    if not isinstance(made, Manifest):
        raise InvalidManifestError("the manifest is an index")
    return made
