"""Sigstore bundles as newer cosign attaches them: small artifacts that refer to the image's digest.

Finds and bounds, verifies nothing. Artifacts that say they are something else than a signature are left out: whoever
wrote that can only take a signature away from himself. Format: cosign's BUNDLE_SPEC.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from container_image_proxy.policy.bundle import BUNDLE_MEDIA_TYPE
from container_image_proxy.policy.statement import SIGN_PREDICATE
from container_image_proxy.transports.attached import fetch_attached

if TYPE_CHECKING:
    from collections.abc import Iterator

    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.manifest import Descriptor
    from container_image_proxy.image.reference import Reference
    from container_image_proxy.policy.signature_blob import UntrustedSignature
    from container_image_proxy.registry.client import RegistryClient

_PREDICATE: Final = "dev.sigstore.bundle.predicateType"


def fetch_bundles(registry: RegistryClient, reference: Reference, digest: Digest) -> Iterator[UntrustedSignature]:
    """The bundles that sign the manifest with ``digest`` in the repository of ``reference``.

    Raises :class:`UpstreamError` or :class:`IntegrityError`.
    """
    for referrer in registry.fetch_referrers(reference, digest, BUNDLE_MEDIA_TYPE):
        if _may_sign(referrer):
            place = reference.repository.with_digest(referrer.digest)
            yield from fetch_attached(registry, place, BUNDLE_MEDIA_TYPE)


def _may_sign(referrer: Descriptor) -> bool:
    return referrer.annotations.get(_PREDICATE, SIGN_PREDICATE) == SIGN_PREDICATE
