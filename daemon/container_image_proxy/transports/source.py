"""What every transport gives: a reference, a source that hands out the image's bytes, and a reader for each blob.

A source locates and bounds, and vouches for nothing. Everything that it returns is untrusted until ``core`` has
verified it against digests and policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from msgspec import Struct, field

from container_image_proxy.concurrency.lazy import Lazy
from container_image_proxy.concurrency.memory import unmetered
from container_image_proxy.config.engine import DEFAULT_HOST, parse_engine_host
from container_image_proxy.image.image_reference import ImageReference
from container_image_proxy.transports.archives.spool import SpoolDirectory

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.config.engine import EngineAddress
    from container_image_proxy.config.lookaside import LookasideConfiguration
    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.manifest import Descriptor, Index, Manifest, UntrustedManifest
    from container_image_proxy.image.schema1 import Schema1Manifest
    from container_image_proxy.image.schema1_conversion import UnpackedLayer
    from container_image_proxy.image.signature import Findings, SignatureKind
    from container_image_proxy.registry.client import RegistryClient
    from container_image_proxy.transports.archives.sharing import OpenArchives


MAX_STATE_SIZE: Final = 1 << 20
"""Bytes of a source's state that are kept: snapshots share what their store may have. More is not kept at all."""


class Access(Struct, frozen=True):
    """What the configuration says of reaching images, beside their references. A transport takes what it needs.

    ``registry`` makes the client when first called: that loads an HTTP library. ``spools`` is where archives are
    unpacked, ``archives`` has those that are open, ``shared_blobs`` is where layouts have their blobs if that is not in
    themselves, ``engine`` where the Docker daemon is.
    """

    registry: Lazy[RegistryClient]
    lookaside: LookasideConfiguration
    spools: SpoolDirectory = field(default_factory=lambda: SpoolDirectory(None))
    shared_blobs: Path | None = None
    archives: Lazy[OpenArchives] = field(default_factory=lambda: Lazy(_open_archives))
    engine: Lazy[EngineAddress] = field(default_factory=lambda: Lazy(lambda: parse_engine_host(DEFAULT_HOST)))


def _open_archives() -> OpenArchives:
    from container_image_proxy.transports.archives.sharing import OpenArchives  # noqa: PLC0415 - few have archives

    return OpenArchives()


class SourceReference(ImageReference, Protocol):
    """An :class:`ImageReference` that knows how to reach what it names."""

    @property
    def registry(self) -> str | None:
        """``host[:port]`` of the registry that the image is fetched from; None if the image lies on this host."""

    @property
    def depends_on_directory(self) -> bool:
        """Whether a process that runs in another directory would find another image."""

    def verify_place(self) -> None:
        """Raise :class:`SourceError` if the image is to lie on this host, and there is nothing to be read there."""

    def prepare(self, access: Access) -> None:
        """Do what the first request would wait for and nobody has to be asked for. Raises what that would."""

    def open_source(self, access: Access, earlier: ImageSource | None = None, state: bytes = b"") -> ImageSource:
        """The source of what the reference names now. Nothing is read or contacted before it is asked for something.

        ``earlier``, if given, is an open source of this reference: it is returned itself where what it has open is what
        the reference still names. ``state`` is that of an earlier source, perhaps of an earlier process. It is
        untrusted, and what cannot be used of it is not.
        """

    def to_oci(self, manifest: Manifest, state: bytes) -> Manifest:
        """The OCI manifest that is served for a verified one. A source has all the blobs that it names.

        ``state`` is that of the source that delivered ``manifest``. Raises :class:`InvalidManifestError`.
        """


class BlobReader(Protocol):
    """A blob's bytes in their order, unverified. One thread uses it, and closes it before its source is closed."""

    @property
    def offset(self) -> int:
        """Where in the blob the next byte is from, in bytes."""

    @property
    def place(self) -> str:
        """Where the bytes come from, for errors."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill the beginning of ``buffer``, which is not empty: how many bytes, none only at the end.

        Raises :class:`UnknownBlobError`, :class:`UpstreamError` or :class:`IntegrityError`.
        """

    def reject(self) -> None:
        """Take note that the content was wrong: whoever supplied it is asked last from now on."""

    def close(self) -> None:
        """Free what the reader holds. May be called again."""


class ImageSource(Protocol):
    """One image where it lies, opened once for all that is done with it. Several threads may use it at once.

    Whatever may wait does so under the ``context`` that it is given. One that ends, ends the wait.
    """

    @property
    def state(self) -> bytes:
        """What a later source of the same image need not find out again, at most ``MAX_STATE_SIZE`` bytes; often none.

        It is complete once :meth:`fetch_manifest` has returned the image's manifest.
        """

    def fetch_manifest(
        self,
        context: Context,
        digest: Digest | None = None,
        *,
        unless: Digest | None = None,
        take: Callable[[int], object] = unmetered,
    ) -> UntrustedManifest | None:
        """The manifest or index the reference names, or the one with ``digest``; at most ``MAX_MANIFEST_SIZE`` bytes.

        None only if the reference is known to name ``unless`` still. ``take`` is asked for the memory of each document
        before it is read, in bytes. The caller checks the digest.
        Raises :class:`UnknownManifestError`, :class:`UpstreamError` or :class:`IntegrityError`.
        """

    def open_blob(self, context: Context, descriptor: Descriptor, offset: int = 0) -> BlobReader:
        """A reader of the blob from ``offset`` on, which is at most its size. It waits under ``context``, too.

        Raises :class:`UnknownBlobError` or :class:`UpstreamError`, unless the reader does so when it is first asked.
        """

    def fetch_signatures(
        self,
        context: Context,
        digest: Digest,
        kinds: Collection[SignatureKind],
        *,
        take: Callable[[int], object] = unmetered,
    ) -> Iterator[Findings]:
        """The signatures of ``kinds`` for the manifest with ``digest``, from one place after the other.

        A place is asked when its turn comes, so that who has seen enough can save the rest. What is not among the
        findings is for certain not there: a place that cannot be asked, or only in part, says so in its ``failures``.
        """

    def close(self) -> None:
        """Free what the source holds. It is called once, and nothing is called afterwards."""


class Unsigned:
    """Base of the sources of a format that has no place for signatures."""

    def fetch_signatures(
        self,
        context: Context,  # noqa: ARG002 - the protocol's
        digest: Digest,  # noqa: ARG002 - the protocol's
        kinds: Collection[SignatureKind],  # noqa: ARG002 - the protocol's
        *,
        take: Callable[[int], object] = unmetered,  # noqa: ARG002 - the protocol's
    ) -> Iterator[Findings]:
        """None, and it is certain that there are none."""
        return iter(())


@runtime_checkable
class PartSource(Protocol):
    """A source that can be told how much of a blob is wanted, since what it delivers beyond that costs."""

    def open_part(self, context: Context, descriptor: Descriptor, offset: int, stop: int) -> BlobReader:
        """A reader of the blob from ``offset`` up to ``stop``, as :meth:`ImageSource.open_blob`.

        It raises :class:`CannotResumeError` where the blob is to be had from its beginning only, and that is far away.
        """


@runtime_checkable
class DescribedSource(Protocol):
    """A source that can say what its reference names without delivering it, which costs."""

    def describe(self, context: Context) -> str:
        """What the reference names now, for people. Raises as :meth:`ImageSource.fetch_manifest`."""


@runtime_checkable
class AttachmentSource(Protocol):
    """A source that has more than the image: what others attached to it, under tags and as referrers.

    ``take`` is as in :class:`ImageSource`.
    """

    def fetch_tagged(self, context: Context, tag: str, take: Callable[[int], object]) -> UntrustedManifest:
        """The manifest with another tag in the image's repository, where the image came from.

        Raises :class:`UnknownManifestError`, :class:`UpstreamError` or :class:`IntegrityError`.
        """

    def list_referrers(self, context: Context, digest: Digest, take: Callable[[int], object]) -> tuple[Index, ...]:
        """The lists of the manifests there that say they are about ``digest``. Raises as :meth:`fetch_tagged`."""


@runtime_checkable
class UnpackedSource(Protocol):
    """A source that has the tars alone of the layers that a manifest of Docker's schema 1 names."""

    def find_tars(self, context: Context, manifest: Schema1Manifest) -> dict[Digest, UnpackedLayer]:
        """What it has for each layer. Raises as :meth:`ImageSource.fetch_manifest`."""


@runtime_checkable
class MeasuringSource(Protocol):
    """A source that can find out how large a blob is, for manifests that do not tell it: those of Docker's schema 1."""

    def measure_blob(self, context: Context, digest: Digest) -> int:
        """The blob's size in bytes, as the place says that has it. Raises what :meth:`ImageSource.open_blob` does."""
