"""``docker://name[:tag][@digest]``: an image in a registry (containers-transports(5)).

With both tag and digest, the digest is fetched, and policy knows the image by it; the tag is for people.
Must not speak HTTP, which the registry client does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, Self

from msgspec import Struct

from container_image_proxy.concurrency.memory import unmetered
from container_image_proxy.errors import InvalidReferenceError
from container_image_proxy.image.convert import to_oci
from container_image_proxy.image.reference import Reference, parse_reference, policy_identity, policy_namespaces
from container_image_proxy.registry.signatures.storage import SignatureStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.config.lookaside import LookasideConfiguration
    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.manifest import Descriptor, Index, Manifest, UntrustedManifest
    from container_image_proxy.image.signature import Findings, SignatureKind
    from container_image_proxy.registry.client import RegistryClient
    from container_image_proxy.registry.endpoints import Repository
    from container_image_proxy.transports.source import Access, BlobReader, ImageSource

_START: Final = "//"


class DockerReference(Struct, frozen=True):
    """``named`` is the name as it was written, with the default tag if it has neither tag nor digest."""

    transport: ClassVar[str] = "docker"
    may_be_signed: ClassVar[bool] = True
    depends_on_directory: ClassVar[bool] = False
    named: Reference

    @classmethod
    def parse(cls, within: str) -> Self:
        """Read ``//name[:tag][@digest]``; the tag is ``latest`` if neither is given.

        Raises :class:`InvalidReferenceError`.
        """
        if not within.startswith(_START):
            raise InvalidReferenceError(f"docker:{within[:100]} does not start with docker://")
        return cls(parse_reference(within.removeprefix(_START)).with_default_tag())

    def __str__(self) -> str:
        return f"{self.transport}:{_START}{self.named.familiar}"

    @property
    def docker_reference(self) -> Reference:
        """The name that is fetched, with either a tag or a digest."""
        digest = self.named.digest
        return self.named if digest is None else self.named.repository.with_digest(digest)

    @property
    def pinned_digest(self) -> Digest | None:
        """The digest in the reference."""
        return self.named.digest

    @property
    def policy_identity(self) -> str:
        """The full name that is fetched."""
        return policy_identity(self.docker_reference)

    @property
    def policy_namespaces(self) -> tuple[str, ...]:
        """The repository, the paths above it, the host, and the wildcards that match the host."""
        return policy_namespaces(self.docker_reference)

    @property
    def registry(self) -> str:
        """The registry in the name. Mirrors come from registries.conf."""
        return self.named.domain

    def verify_place(self) -> None:
        """Nothing is verified: the image does not lie on this host."""

    def prepare(self, access: Access) -> None:
        """Load the HTTP library, certificates and credentials."""
        access.registry().prepare(self.docker_reference)

    def open_source(
        self,
        access: Access,
        earlier: ImageSource | None = None,  # noqa: ARG002 - what a tag names has to be asked for
        state: bytes = b"",  # noqa: ARG002 - there is none
    ) -> ImageSource:
        """See :class:`SourceReference`."""
        return RegistrySource(self.docker_reference, access.registry(), access.lookaside)

    def to_oci(self, manifest: Manifest, state: bytes) -> Manifest:  # noqa: ARG002 - the blobs are those it names
        """See :class:`SourceReference`."""
        return to_oci(manifest)


class RegistrySource:
    """An :class:`ImageSource` over an image in a registry. The client is shared, and outlives it.

    A manifest that an index names is asked for where the index came from, and so are the image's blobs. Other places
    are asked if that fails.
    """

    state: Final = b""

    def __init__(self, reference: Reference, registry: RegistryClient, lookaside: LookasideConfiguration) -> None:
        self._reference = reference
        self._registry = registry
        self._supplier: Repository | None = None
        self._signatures = SignatureStorage(lookaside, registry)

    def fetch_manifest(
        self,
        context: Context,
        digest: Digest | None = None,
        *,
        unless: Digest | None = None,
        take: Callable[[int], object] = unmetered,
    ) -> UntrustedManifest | None:
        """See :class:`ImageSource`."""
        find = self._registry.metered(take).find_manifest
        manifest, self._supplier = find(context, self._reference, digest, unless=unless, first=self._supplier)
        return manifest

    def open_blob(self, context: Context, descriptor: Descriptor, offset: int = 0) -> BlobReader:
        """See :class:`ImageSource`. The ``urls`` of a descriptor are never fetched."""
        return self._registry.open_blob(context, self._reference, descriptor, first=self._supplier, offset=offset)

    def open_part(self, context: Context, descriptor: Descriptor, offset: int, stop: int) -> BlobReader:
        """See :class:`PartSource`."""
        first = self._supplier
        return self._registry.open_blob(context, self._reference, descriptor, first=first, offset=offset, stop=stop)

    def fetch_tagged(self, context: Context, tag: str, take: Callable[[int], object]) -> UntrustedManifest:
        """See :class:`AttachmentSource`."""
        registry = self._registry.metered(take)
        place = self._supplier or registry.first_place(self._reference)
        return registry.fetch_manifest(context, place.with_tag(tag))

    def list_referrers(self, context: Context, digest: Digest, take: Callable[[int], object]) -> tuple[Index, ...]:
        """See :class:`AttachmentSource`."""
        registry = self._registry.metered(take)
        return registry.list_referrers(context, self._supplier or registry.first_place(self._reference), digest)

    def measure_blob(self, context: Context, digest: Digest) -> int:
        """See :class:`MeasuringSource`."""
        return self._registry.measure_blob(context, self._reference, digest, first=self._supplier)

    def fetch_signatures(
        self,
        context: Context,
        digest: Digest,
        kinds: Collection[SignatureKind],
        *,
        take: Callable[[int], object] = unmetered,
    ) -> Iterator[Findings]:
        """See :class:`ImageSource`."""
        place = self._supplier or self._registry.first_place(self._reference)
        self._signatures.registry = self._registry.metered(take)
        return self._signatures.fetch(context, place, digest, kinds)

    def close(self) -> None:
        """Nothing is held here."""
