"""What each transport gives: a reference, a source that hands out the image's bytes, and a reader for each blob.

A source finds bytes and bounds their number. Everything that it returns is untrusted until ``core`` has verified it by
digests and policy. Must not know any transport.
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
"""Bytes of a source's state that are kept with a snapshot. A larger state is not kept at all."""


class Access(Struct, frozen=True):
    """What the configuration says about reaching images, beside their references. A transport takes what it needs.

    ``registry`` makes the client when it is first called, which loads the HTTP library. ``spools`` is where archives
    are unpacked, ``archives`` are those that are open. ``shared_blobs`` is the directory of the blobs of layouts, if
    they share one. ``engine`` says where the Docker daemon is.
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
        """``host[:port]`` of the registry from which the image is fetched; None if it lies on this host."""

    @property
    def depends_on_directory(self) -> bool:
        """Whether a process that runs in another directory would find another image."""

    def verify_place(self) -> None:
        """Raise :class:`SourceError` if the image should lie on this host, and nothing can be read there."""

    def prepare(self, access: Access) -> None:
        """Do what the first request would wait for and needs no network. Raises what that request would."""

    def open_source(self, access: Access, earlier: ImageSource | None = None, state: bytes = b"") -> ImageSource:
        """The source of what the reference names now. Nothing is read or contacted before it is asked for something.

        ``earlier``, if given, is an open source of this reference. It is returned if what it has open is still what the
        reference names. ``state`` is that of an earlier source, which may be one of an earlier process. It is
        untrusted: what does not fit is ignored.
        """

    def to_oci(self, manifest: Manifest, state: bytes) -> Manifest:
        """The OCI manifest that is served for a verified one. The source has all blobs that it names.

        ``state`` is that of the source which delivered ``manifest``. Raises :class:`InvalidManifestError`.
        """


class BlobReader(Protocol):
    """A blob's bytes in their order, unverified. One thread uses it, and closes it before its source is closed."""

    @property
    def offset(self) -> int:
        """The position in the blob of the next byte to be read."""

    @property
    def place(self) -> str:
        """Where the bytes come from, for errors."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill the beginning of ``buffer``, which is not empty. Returns the number of bytes, 0 only at the end.

        Raises :class:`UnknownBlobError`, :class:`UpstreamError` or :class:`IntegrityError`.
        """

    def reject(self) -> None:
        """Take note that the content was wrong: the place that sent it is asked last from now on."""

    def close(self) -> None:
        """Release what the reader holds. May be called again."""


class ImageSource(Protocol):
    """One image where it lies, opened once for everything that is done with it. Several threads may use it at once.

    A method that may wait takes a ``context``, whose end is the end of the wait.
    """

    @property
    def state(self) -> bytes:
        """What a later source of the same image need not find out again; empty for most transports.

        It is complete when :meth:`fetch_manifest` has returned the image's manifest. It is kept if it has at most
        ``MAX_STATE_SIZE`` bytes.
        """

    def fetch_manifest(
        self,
        context: Context,
        digest: Digest | None = None,
        *,
        unless: Digest | None = None,
        take: Callable[[int], object] = unmetered,
    ) -> UntrustedManifest | None:
        """The manifest or index that the reference names, or the one with ``digest``.

        It has at most ``MAX_MANIFEST_SIZE`` bytes. None only if the reference is known to name ``unless`` still.
        ``take`` is called with the size in bytes of each document before it is read. The caller verifies the digest.
        Raises :class:`UnknownManifestError`, :class:`UpstreamError` or :class:`IntegrityError`.
        """

    def open_blob(self, context: Context, descriptor: Descriptor, offset: int = 0) -> BlobReader:
        """A reader of the blob from ``offset`` on, which is at most the blob's size. It waits under ``context``.

        Raises :class:`UnknownBlobError` or :class:`UpstreamError`, or else the reader does when it is first read.
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

        A place is asked when its findings are wanted, so that a caller that has seen enough saves the rest. A signature
        that is not among the findings is certainly not there: a place that cannot be asked, or only in part, says so in
        its ``failures``.
        """

    def close(self) -> None:
        """Release what the source holds. It is the last call."""


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
        """No findings: it is certain that there are no signatures."""
        return iter(())


@runtime_checkable
class PartSource(Protocol):
    """A source that can be told which part of a blob is wanted, because it delivers over a network."""

    def open_part(self, context: Context, descriptor: Descriptor, offset: int, stop: int) -> BlobReader:
        """A reader of the blob from ``offset`` up to ``stop``, as :meth:`ImageSource.open_blob`.

        The reader raises :class:`CannotResumeError` if the blob can be had only from its beginning, and too much comes
        before ``offset``.
        """


@runtime_checkable
class DescribedSource(Protocol):
    """A source that can say what its reference names without delivering it, which would take long."""

    def describe(self, context: Context) -> str:
        """What the reference names now, in words. Raises as :meth:`ImageSource.fetch_manifest`."""


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
        """The lists of the manifests there that say that they are about ``digest``. Raises as :meth:`fetch_tagged`."""


@runtime_checkable
class UnpackedSource(Protocol):
    """A source that has the tars alone of the layers that a manifest of Docker's schema 1 names."""

    def find_tars(self, context: Context, manifest: Schema1Manifest) -> dict[Digest, UnpackedLayer]:
        """What it has for each layer. Raises as :meth:`ImageSource.fetch_manifest`."""


@runtime_checkable
class MeasuringSource(Protocol):
    """A source that can find out how large a blob is, for manifests that do not tell it: those of Docker's schema 1."""

    def measure_blob(self, context: Context, digest: Digest) -> int:
        """The blob's size in bytes, as the place says that has it. Raises as :meth:`ImageSource.open_blob`."""
