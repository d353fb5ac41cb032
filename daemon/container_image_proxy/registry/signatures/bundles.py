"""Sigstore bundles as newer cosign attaches them: small artifacts that refer to the image's digest.

Finds and bounds, verifies nothing. An artifact that says it is something else than a signature is left out: by lying,
its author can only remove a signature of his own. Format: cosign's BUNDLE_SPEC.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from container_image_proxy.errors import Error
from container_image_proxy.image.media_types import BUNDLE_MEDIA_TYPE, OCI_MANIFEST, SIGN_PREDICATE
from container_image_proxy.registry.signatures.attached import fetch_attached, is_passing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.manifest import IndexEntry
    from container_image_proxy.image.signature import UntrustedSignature
    from container_image_proxy.registry.client import RegistryClient
    from container_image_proxy.registry.endpoints import Repository

_PREDICATE: Final = "dev.sigstore.bundle.predicateType"


def fetch_bundles(
    context: Context, registry: RegistryClient, repository: Repository, digest: Digest
) -> Iterator[UntrustedSignature | Error]:
    """The bundles that sign the manifest with ``digest`` in its repository.

    Instead of one that cannot be had, why not. Raises :class:`UpstreamError` or :class:`IntegrityError` when it is
    useless to ask for more.
    """
    for referrer in registry.fetch_referrers(context, repository, digest, BUNDLE_MEDIA_TYPE):
        try:
            if _may_sign(referrer):
                yield from fetch_attached(context, registry, repository.with_digest(referrer.digest), BUNDLE_MEDIA_TYPE)
        except Error as error:
            if is_passing(error):
                raise
            yield error


def _may_sign(referrer: IndexEntry) -> bool:
    """Whether it can hold a bundle: a manifest that is not said to be about something else."""
    return (
        referrer.media_type == OCI_MANIFEST and referrer.annotations.get(_PREDICATE, SIGN_PREDICATE) == SIGN_PREDICATE
    )
