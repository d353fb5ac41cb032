"""Images whose layers are signatures, each a small blob, as cosign keeps them in a registry beside the image proper.

Bounded in count and size; every byte is held against its digest, and nothing is verified beyond that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from container_image_proxy.errors import InvalidManifestError, RegistryError, UnknownBlobError, UnknownManifestError
from container_image_proxy.image.manifest import Manifest, parse_manifest
from container_image_proxy.policy.signature_blob import MAX_SIGNATURES, UntrustedSignature

if TYPE_CHECKING:
    from collections.abc import Iterator

    from container_image_proxy.image.manifest import Descriptor
    from container_image_proxy.registry.client import RegistryClient
    from container_image_proxy.registry.endpoints import Repository

MAX_SIGNATURE_SIZE: Final = 4 << 20


def fetch_attached(registry: RegistryClient, place: Repository, media_type: str) -> Iterator[UntrustedSignature]:
    """The layers of ``media_type`` of the image at ``place``; none if there is no such image.

    Raises :class:`UpstreamError` or :class:`IntegrityError`, also for one that is too much.
    """
    for layer in _layers(registry, place, media_type):
        if layer.size > MAX_SIGNATURE_SIZE:
            raise InvalidManifestError(f"{place.reference}: a signature has more than {MAX_SIGNATURE_SIZE} bytes")
        blob = _fetch_blob(registry, place, layer)
        yield UntrustedSignature("sigstore", blob, layer.media_type, layer.annotations, f"docker://{place.reference}")


def _fetch_blob(registry: RegistryClient, place: Repository, layer: Descriptor) -> bytes:
    try:
        return registry.fetch_blob(place, layer)
    except UnknownBlobError as error:  # not for the client to take for a blob of its own
        raise RegistryError(f"{place.reference}: the registry lacks a signature: {error}", phase="signature") from error


def _layers(registry: RegistryClient, place: Repository, media_type: str) -> tuple[Descriptor, ...]:
    try:
        untrusted = registry.fetch_manifest(place)
    except UnknownManifestError:
        return ()
    manifest = parse_manifest(untrusted) if untrusted is not None else None
    if not isinstance(manifest, Manifest):
        raise InvalidManifestError(f"{place.reference} is not an image of signatures")
    if len(manifest.layers) > MAX_SIGNATURES:
        raise InvalidManifestError(f"{place.reference} has more than {MAX_SIGNATURES} signatures")
    return tuple(layer for layer in manifest.layers if layer.media_type == media_type)
