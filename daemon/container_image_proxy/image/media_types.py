"""The media types of manifests, configurations and layers: those supported, their guess, and Docker to OCI.

Owns names and the mapping between them, never bytes. OCI image-spec, media-types.md; Docker manifest V2, schema 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from container_image_proxy.errors import InvalidManifestError

if TYPE_CHECKING:
    from collections.abc import Mapping

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_SCHEMA1: Final = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED: Final = "application/vnd.docker.distribution.manifest.v1+prettyjws"

IMAGE_TYPES: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEX_TYPES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
_SCHEMA1_TYPES: Final = frozenset({DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED, "application/json"})  # the last by its spec
_SHOWN: Final = 100

# The first Docker clients to write schema 2 labelled its configuration as plain bytes, other tools as OCI.
OCI_CONFIG_OF: Final = dict.fromkeys((DOCKER_CONFIG, OCI_CONFIG, "application/octet-stream"), OCI_CONFIG)
_DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs"
_OCI_LAYER: Final = "application/vnd.oci.image.layer"
OCI_LAYER_OF: Final = {
    f"{_DOCKER_LAYER}.diff.tar": f"{_OCI_LAYER}.v1.tar",
    f"{_DOCKER_LAYER}.diff.tar.gzip": f"{_OCI_LAYER}.v1.tar+gzip",
    f"{_DOCKER_LAYER}.diff.tar.zstd": f"{_OCI_LAYER}.v1.tar+zstd",
    f"{_DOCKER_LAYER}.foreign.diff.tar": f"{_OCI_LAYER}.nondistributable.v1.tar",
    f"{_DOCKER_LAYER}.foreign.diff.tar.gzip": f"{_OCI_LAYER}.nondistributable.v1.tar+gzip",
    f"{_DOCKER_LAYER}.foreign.diff.tar.zstd": f"{_OCI_LAYER}.nondistributable.v1.tar+zstd",
}


def verify_supported(media_type: str) -> str:
    """``media_type`` if it is exactly that of a manifest or index we read; :class:`InvalidManifestError` otherwise."""
    if media_type in IMAGE_TYPES or media_type in INDEX_TYPES:
        return media_type
    if media_type in _SCHEMA1_TYPES:
        raise InvalidManifestError(
            "Docker schema 1 is not supported: push the image again in OCI format or Docker schema 2"
        )
    raise InvalidManifestError(f"{media_type[:_SHOWN]!r} is not the media type of an image manifest or index")


def guess_media_type(document: Mapping[str, object]) -> str:
    """The type of a manifest that came without one, by its own ``mediaType`` and else by its shape.

    OCI documents carry ``mediaType`` only since image-spec 1.0.2. :class:`InvalidManifestError` if it is no manifest.
    """
    declared = document.get("mediaType")
    if isinstance(declared, str) and declared in IMAGE_TYPES | INDEX_TYPES:
        return declared
    version = document.get("schemaVersion")
    if version == 1:
        return DOCKER_SCHEMA1 if document.get("signatures") is None else DOCKER_SCHEMA1_SIGNED
    if version != 2:  # noqa: PLR2004 - the field's name says what the number is
        raise InvalidManifestError(
            "the document is no image manifest: it has neither a known mediaType nor a known schemaVersion"
        )
    return _guess_version_2(document)


def _guess_version_2(document: Mapping[str, object]) -> str:
    config = document.get("config")
    config_type = config.get("mediaType") if isinstance(config, dict) else None
    if config_type == DOCKER_CONFIG:
        return DOCKER_MANIFEST
    if config_type != OCI_CONFIG and document.get("manifests"):
        return OCI_INDEX
    return OCI_MANIFEST  # an artifact's configuration may be of any type
