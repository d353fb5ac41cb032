"""Images whose layers are signatures, each a small blob, as cosign keeps them in a registry beside the image proper.

Bounded in size, by the caller in count; every byte is held against its digest, and nothing is verified beyond that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from container_image_proxy.errors import (
    Error,
    InvalidManifestError,
    RegistryError,
    UnknownBlobError,
    UnknownManifestError,
    UpstreamError,
)
from container_image_proxy.image.manifest import Manifest, parse_manifest
from container_image_proxy.image.signature import MAX_SIGNATURE_SIZE, UntrustedSignature

if TYPE_CHECKING:
    from collections.abc import Iterator

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.image.manifest import Descriptor
    from container_image_proxy.registry.client import RegistryClient
    from container_image_proxy.registry.endpoints import Repository


def fetch_attached(
    context: Context, registry: RegistryClient, place: Repository, media_type: str
) -> Iterator[UntrustedSignature | Error]:
    """The layers of ``media_type`` of the image at ``place``; none if there is no such image.

    Instead of a layer that cannot be had, why not. Raises :class:`UpstreamError` or :class:`IntegrityError` when it is
    useless to ask for more.
    """
    for layer in _layers(context, registry, place, media_type):
        try:
            blob = _fetch_blob(context, registry, place, layer)
        except Error as error:
            if is_passing(error):
                raise
            yield error
        else:
            source = f"docker://{place.reference}"
            yield UntrustedSignature("sigstore", blob, layer.media_type, layer.annotations, source)


def is_passing(error: Error) -> bool:
    """Whether a failure is of the place, which will not do better for the next signature, and not of one signature."""
    return isinstance(error, UpstreamError) and error.retryable


def _fetch_blob(context: Context, registry: RegistryClient, place: Repository, layer: Descriptor) -> bytes:
    if layer.size > MAX_SIGNATURE_SIZE:
        raise InvalidManifestError(f"{place.reference} names a signature of over {MAX_SIGNATURE_SIZE} bytes")
    try:
        return registry.fetch_blob(context, place, layer)
    except UnknownBlobError as error:  # not for the client to take for a blob of its own
        reason = f"{place.reference} names a signature that the registry lacks: {error}"
        raise RegistryError(reason, phase="signature") from error


def _layers(context: Context, registry: RegistryClient, place: Repository, media_type: str) -> tuple[Descriptor, ...]:
    try:
        untrusted = registry.fetch_manifest(context, place)
    except UnknownManifestError:
        return ()
    try:
        manifest = parse_manifest(untrusted)
    except InvalidManifestError as error:
        raise error.retold(f"{place.reference} cannot be read as an image of signatures: {error}") from error
    if not isinstance(manifest, Manifest):
        raise InvalidManifestError(f"{place.reference} is an index, and not an image of signatures")
    return tuple(layer for layer in manifest.layers if layer.media_type == media_type)
