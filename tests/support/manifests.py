"""Manifests and indexes as JSON values that tests then bend."""

from __future__ import annotations

import json
from typing import Any

from container_image_proxy.image.digest import digest_of
from container_image_proxy.image.manifest import Index, Manifest, UntrustedManifest, parse_manifest
from container_image_proxy.image.media_types import DOCKER_CONFIG, DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST

OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"

JSONObject = dict[str, Any]


def descriptor(media_type: str, content: bytes = b"{}", **more: object) -> JSONObject:
    return {"mediaType": media_type, "digest": str(digest_of(content)), "size": len(content), **more}


def oci_manifest(**more: object) -> JSONObject:
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG),
        "layers": [descriptor(OCI_LAYER, b"layer")],
        **more,
    }


def docker_manifest(**more: object) -> JSONObject:
    return {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": descriptor(DOCKER_CONFIG),
        "layers": [descriptor(DOCKER_LAYER, b"layer")],
        **more,
    }


def oci_index(*manifests: JSONObject, **more: object) -> JSONObject:
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(manifests), **more}


def instance(name: str, platform: str | None = "linux/amd64", **more: object) -> JSONObject:
    """An index's entry; ``name`` makes its digest its own."""
    made = descriptor(OCI_MANIFEST, name.encode(), **more)
    if platform is not None:
        made["platform"] = dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False))
    return made


def untrusted(document: object, media_type: str = "") -> UntrustedManifest:
    return UntrustedManifest(json.dumps(document).encode(), media_type)


def manifest_of(document: JSONObject) -> Manifest:
    parsed = parse_manifest(untrusted(document, document["mediaType"]))
    assert isinstance(parsed, Manifest)
    return parsed


def index_of(document: JSONObject) -> Index:
    parsed = parse_manifest(untrusted(document, document["mediaType"]))
    assert isinstance(parsed, Index)
    return parsed
