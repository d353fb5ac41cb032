"""``docker://name[:tag][@digest]``: an image in a registry (containers-transports(5)).

Reads the reference and joins it to the registry client, which does all the rest. With both tag and digest the digest is
what is fetched and what policy knows the image by; the tag is for the reader.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from msgspec import Struct

from container_image_proxy.errors import InvalidReferenceError
from container_image_proxy.image.image_reference import ImageReference
from container_image_proxy.image.reference import parse_reference, policy_identity, policy_namespaces
from container_image_proxy.registry.signatures.storage import SignatureStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from container_image_proxy.config.lookaside import LookasideConfiguration
    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.manifest import Descriptor, UntrustedManifest
    from container_image_proxy.image.reference import Reference
    from container_image_proxy.image.signature import Findings, SignatureKind
    from container_image_proxy.registry.client import RegistryClient
    from container_image_proxy.registry.endpoints import Repository
    from container_image_proxy.transports.source import BlobReader

TRANSPORT: Final = "docker"
_START: Final = "//"


def parse(within: str) -> ImageReference:
    """Read ``//name[:tag][@digest]``; the tag is ``latest`` if neither is given.

    Raises :class:`InvalidReferenceError`.
    """
    if not within.startswith(_START):
        raise InvalidReferenceError(f"docker:{within[:100]} does not start with docker://")
    reference = parse_reference(within.removeprefix(_START)).with_default_tag()
    fetched = reference.repository.with_digest(reference.digest) if reference.digest is not None else reference
    return ImageReference(
        transport=TRANSPORT,
        within=_START + reference.familiar,
        docker_reference=fetched,
        policy_identity=policy_identity(fetched),
        policy_namespaces=policy_namespaces(fetched),
    )


class RegistryAccess(Struct, frozen=True):
    """What reaching registries takes. ``client`` makes it when first called: that loads an HTTP library."""

    client: Callable[[], RegistryClient]
    lookaside: LookasideConfiguration


def open_source(
    reference: ImageReference, access: RegistryAccess, supplier: object, take: Callable[[int], object]
) -> RegistrySource:
    """The source of a reference that :func:`parse` made; nothing is contacted yet.

    ``supplier`` is None or that of an earlier source.
    """
    if reference.docker_reference is None:
        raise InvalidReferenceError(f"{reference} is no docker:// reference")
    known = cast("Repository | None", supplier)
    return RegistrySource(reference.docker_reference, access.client().metered(take), access.lookaside, known)


class RegistrySource:
    """An image in a registry; the client, which is shared, outlives it.

    One manifest that an index names is asked for where the index came from, and so are the image's blobs; others are
    asked when that fails.
    """

    def __init__(
        self,
        reference: Reference,
        registry: RegistryClient,
        lookaside: LookasideConfiguration,
        supplier: Repository | None = None,
    ) -> None:
        self._reference = reference
        self._registry = registry
        self.supplier = supplier
        self._signatures = SignatureStorage(lookaside, registry)

    def fetch_manifest(self, digest: Digest | None = None, *, unless: Digest | None = None) -> UntrustedManifest | None:
        """See :class:`ImageSource`."""
        find = self._registry.find_manifest
        manifest, self.supplier = find(self._reference, digest, unless=unless, first=self.supplier)
        return manifest

    def open_blob(self, descriptor: Descriptor) -> BlobReader:
        """See :class:`ImageSource`. The ``urls`` of a descriptor are never fetched."""
        return self._registry.open_blob(self._reference, descriptor, first=self.supplier)

    def fetch_signatures(self, digest: Digest, kinds: Collection[SignatureKind]) -> Iterator[Findings]:
        """See :class:`ImageSource`."""
        place = self.supplier or self._registry.first_place(self._reference)
        return self._signatures.fetch(place, digest, kinds)

    def close(self) -> None:
        """Nothing is held here."""
