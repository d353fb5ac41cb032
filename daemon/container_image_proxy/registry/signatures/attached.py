"""Images whose layers are signatures, each a small blob, as cosign keeps them in a registry beside the image proper.

Each signature is bounded in size, and compared with its digest. The caller bounds their number.
Must not verify any. Spec: cosign's SIGNATURE_SPEC, "Storage".
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

    For a layer that cannot be had, the error is yielded in its place. Raises :class:`UpstreamError` or
    :class:`IntegrityError` when it is useless to ask for more.
    """
    try:
        untrusted = registry.fetch_manifest(context, place)
    except UnknownManifestError:
        return
    try:
        manifest = parse_manifest(untrusted)
    except InvalidManifestError as error:
        raise error.retold(f"{place.reference} cannot be read as an image of signatures: {error}") from error
    if not isinstance(manifest, Manifest):
        raise InvalidManifestError(f"{place.reference} is an index, and not an image of signatures")
    for layer in manifest.layers:
        if layer.media_type != media_type:
            continue
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
    """Whether a failure is the place's, and not one signature's: the next signature would meet with the same."""
    return isinstance(error, UpstreamError) and error.retryable


def _fetch_blob(context: Context, registry: RegistryClient, place: Repository, layer: Descriptor) -> bytes:
    if layer.size > MAX_SIGNATURE_SIZE:
        raise InvalidManifestError(f"{place.reference} names a signature of over {MAX_SIGNATURE_SIZE} bytes")
    try:
        return registry.fetch_blob(context, place, layer)
    except UnknownBlobError as error:
        # As it is, a client would be told that a blob that it asked for is not there (404).
        raise RegistryError(f"{place.reference} names a signature that the registry lacks: {error}") from error
