"""The media types of manifests, configurations and layers, how a manifest's is found, and OCI's for Docker's.

OCI image-spec, media-types.md; Docker's image manifest version 2, schema 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from container_image_proxy.errors import InvalidManifestError, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER_TAR: Final = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_SCHEMA1: Final = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED: Final = "application/vnd.docker.distribution.manifest.v1+prettyjws"

BUNDLE_MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGN_PREDICATE: Final = "https://sigstore.dev/cosign/sign/v1"
"""The predicate type of cosign's statements that an image is signed; such a statement is in a bundle."""

IMAGE_TYPES: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEX_TYPES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
SCHEMA1_TYPES: Final = frozenset({DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED})

_DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs"
_OCI_LAYER: Final = "application/vnd.oci.image.layer"
_OCI_LAYER_OF_DOCKERS: Final = {
    f"{_DOCKER_LAYER}.diff.tar": f"{_OCI_LAYER}.v1.tar",
    f"{_DOCKER_LAYER}.diff.tar.gzip": f"{_OCI_LAYER}.v1.tar+gzip",
    f"{_DOCKER_LAYER}.diff.tar.zstd": f"{_OCI_LAYER}.v1.tar+zstd",
    f"{_DOCKER_LAYER}.foreign.diff.tar": f"{_OCI_LAYER}.nondistributable.v1.tar",
    f"{_DOCKER_LAYER}.foreign.diff.tar.gzip": f"{_OCI_LAYER}.nondistributable.v1.tar+gzip",
    f"{_DOCKER_LAYER}.foreign.diff.tar.zstd": f"{_OCI_LAYER}.nondistributable.v1.tar+zstd",
}
OCI_LAYER_OF_COMPRESSION: Final = {
    None: OCI_LAYER_TAR,
    "gzip": f"{OCI_LAYER_TAR}+gzip",
    "zstd": f"{OCI_LAYER_TAR}+zstd",
}
"""The media type of a layer by the compression of its tar."""
# OCI's types map to themselves, because some tools write them into Docker manifests.
OCI_LAYER_OF: Final = _OCI_LAYER_OF_DOCKERS | {oci: oci for oci in _OCI_LAYER_OF_DOCKERS.values()}


def determine_media_type(document: Mapping[str, object], label: str = "") -> str:
    """The media type of a manifest (parsed JSON), by its members first (contrib/adr/0017).

    ``label`` is the type by which it was delivered, "" if none. It counts only where the members leave a choice.
    :class:`InvalidManifestError` for a document of no known kind.
    """
    kinds, likely = _kinds_by_shape(document)
    # The label comes last: it is not verified, and registries and their storage send wrong ones.
    for told in (document.get("mediaType"), likely, label):
        if isinstance(told, str) and told in kinds:
            return told
    if kinds == IMAGE_TYPES:
        return OCI_MANIFEST  # an artifact's configuration may be of any type
    if kinds == INDEX_TYPES:
        return OCI_INDEX
    # A document without the members of any kind.
    match document.get("schemaVersion"):
        case 1:
            return DOCKER_SCHEMA1 if document.get("signatures") is None else DOCKER_SCHEMA1_SIGNED
        case 2:
            return OCI_MANIFEST
    raise InvalidManifestError(
        "the document is no image manifest: it has neither the members of one nor a known mediaType or schemaVersion"
    )


def _kinds_by_shape(document: Mapping[str, object]) -> tuple[frozenset[str], str]:
    """The types that have the members of this document, and the likely one of them ("" if there is none)."""
    if document.get("manifests") is not None:
        return INDEX_TYPES, ""
    config = document.get("config")
    config = config if isinstance(config, dict) else {}
    # An image's configuration also has a member "config", which is no descriptor.
    if document.get("layers") is not None or not config.keys().isdisjoint({"mediaType", "digest"}):
        likely = {DOCKER_CONFIG: DOCKER_MANIFEST, OCI_CONFIG: OCI_MANIFEST}
        return IMAGE_TYPES, likely.get(str(config.get("mediaType")), "")
    if document.get("fsLayers") is not None:
        return SCHEMA1_TYPES, DOCKER_SCHEMA1 if document.get("signatures") is None else DOCKER_SCHEMA1_SIGNED
    return IMAGE_TYPES | INDEX_TYPES | SCHEMA1_TYPES, ""


def verify_supported(media_type: str) -> str:
    """``media_type`` if it is that of a supported manifest or index; :class:`InvalidManifestError` otherwise."""
    if media_type in IMAGE_TYPES or media_type in INDEX_TYPES or media_type in SCHEMA1_TYPES:
        return media_type
    raise InvalidManifestError(f"{shown(media_type)} is not the media type of an image manifest or index")
