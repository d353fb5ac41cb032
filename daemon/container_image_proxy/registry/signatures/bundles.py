"""Sigstore bundles as newer cosign attaches them: small artifacts that refer to the image's digest.

An artifact that says that it is something else than a signature is left out: by lying, its author can only remove a
signature of his own. Must not verify any. Spec: cosign's BUNDLE_SPEC.
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
    from container_image_proxy.image.signature import UntrustedSignature
    from container_image_proxy.registry.client import RegistryClient
    from container_image_proxy.registry.endpoints import Repository

_PREDICATE: Final = "dev.sigstore.bundle.predicateType"


def fetch_bundles(
    context: Context, registry: RegistryClient, repository: Repository, digest: Digest
) -> Iterator[UntrustedSignature | Error]:
    """The bundles that sign the manifest with ``digest`` in ``repository``, as :func:`fetch_attached` yields them.

    Attestations (an SBOM, a provenance) are bundles as well, with another predicate.
    """
    for referrer in registry.fetch_referrers(context, repository, digest, BUNDLE_MEDIA_TYPE):
        predicate = referrer.annotations.get(_PREDICATE, SIGN_PREDICATE)
        # An artifact that does not tell its predicate may be a signature. What it really says is verified later.
        if referrer.media_type != OCI_MANIFEST or predicate != SIGN_PREDICATE:
            continue
        try:
            yield from fetch_attached(context, registry, repository.with_digest(referrer.digest), BUNDLE_MEDIA_TYPE)
        except Error as error:
            if is_passing(error):
                raise
            yield error
