"""``dir:path``: an image as ``skopeo copy ... dir:path`` writes it (containers-transports(5)).

``manifest.json`` is the manifest or index, ``HEX.manifest.json`` a manifest that an index names by its digest, and
``HEX`` a blob. ``signature-N`` are the manifest's signatures, ``HEX.signature-N`` those of a named one. In version 1.0
of the format a blob is ``HEX.tar``. The file ``version`` is not read, as by all other readers. The directory is not
trusted: see :mod:`directory`. Must not verify signatures.
"""

from __future__ import annotations

from contextlib import closing
from itertools import count
from typing import TYPE_CHECKING, ClassVar, Final, Self

from container_image_proxy.concurrency.memory import unmetered
from container_image_proxy.errors import IntegrityError, SourceError, UnknownManifestError
from container_image_proxy.image.manifest import UntrustedManifest
from container_image_proxy.image.schema1 import without_signatures
from container_image_proxy.image.signature import (
    MAX_SIGNATURE_SIZE,
    MAX_SIGNATURES,
    Findings,
    SignatureFailure,
    UntrustedSignature,
    parse_signature_blob,
)
from container_image_proxy.transports.directory import Directory, PathReference, resolve_path

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.errors import Error
    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.manifest import Descriptor
    from container_image_proxy.image.signature import SignatureKind
    from container_image_proxy.transports.regions import RegionReader
    from container_image_proxy.transports.source import Access, ImageSource

_WHAT: Final = "image directory"
_MANIFEST: Final = "manifest.json"
_ANY_KIND: Final[frozenset[SignatureKind]] = frozenset({"simple", "sigstore"})


class DirectoryReference(PathReference, frozen=True):
    """A directory, which is one image or the images of one index."""

    transport: ClassVar[str] = "dir"
    may_be_signed: ClassVar[bool] = True

    @classmethod
    def parse(cls, within: str) -> Self:
        """Read a path. It need not exist yet, or be readable. Raises :class:`InvalidReferenceError`."""
        return cls(within, resolve_path(within, cls.transport))

    def __str__(self) -> str:
        return f"{self.transport}:{self.path}"

    @property
    def policy_namespaces(self) -> tuple[str, ...]:
        """The directories above the image's."""
        return super().policy_namespaces[1:]

    def verify_place(self) -> None:
        """See :class:`SourceReference`."""
        Directory(self, _WHAT).verify()

    def open_source(
        self,
        access: Access,  # noqa: ARG002 - a directory needs nothing
        earlier: ImageSource | None = None,
        state: bytes = b"",  # noqa: ARG002 - there is none
    ) -> ImageSource:
        """See :class:`SourceReference`."""
        return earlier if isinstance(earlier, DirectorySource) and earlier.is_current else DirectorySource(self)


class DirectorySource:
    """An :class:`ImageSource` over an image's directory, which it keeps open."""

    state: Final = b""

    def __init__(self, reference: DirectoryReference) -> None:
        self._directory = Directory(reference, _WHAT)

    @property
    def is_current(self) -> bool:
        """Whether the directory that is open is the one that the reference names now."""
        return self._directory.is_current

    def fetch_manifest(
        self,
        context: Context,
        digest: Digest | None = None,
        *,
        unless: Digest | None = None,
        take: Callable[[int], object] = unmetered,
    ) -> UntrustedManifest | None:
        """See :class:`ImageSource`. The format has no media types but a document's own."""
        if digest is not None:
            name = f"{digest.hex}.{_MANIFEST}"
            if not self._directory.has((name,)):
                raise UnknownManifestError(f"{self._directory.path} has no manifest {digest}")
            return UntrustedManifest(self._directory.read(context, (name,), take), "")
        raw = without_signatures(self._directory.read(context, (_MANIFEST,), take))
        return None if unless is not None and unless.matches(raw) else UntrustedManifest(raw, "")

    def open_blob(self, context: Context, descriptor: Descriptor, offset: int = 0) -> RegionReader:
        """See :class:`ImageSource`."""
        return self._directory.open_reader(context, self._blob_file(descriptor.digest), offset)

    def measure_blob(self, context: Context, digest: Digest) -> int:
        """See :class:`MeasuringSource`."""
        with closing(self._directory.open_reader(context, self._blob_file(digest))) as reader:
            return reader.size

    def _blob_file(self, digest: Digest) -> tuple[str]:
        """The name of a blob's file, in the present version of the format or in version 1.0."""
        former = f"{digest.hex}.tar"
        is_former = not self._directory.has((digest.hex,)) and self._directory.has((former,))
        return (former if is_former else digest.hex,)

    def fetch_signatures(
        self,
        context: Context,
        digest: Digest,
        kinds: Collection[SignatureKind],
        *,
        take: Callable[[int], object] = unmetered,
    ) -> Iterator[Findings]:
        """See :class:`ImageSource`. The directory is one place. A signature that cannot be had hides no other."""
        if not kinds:
            return
        # skopeo copy --all writes the signatures of an index's manifests under the manifests' digests.
        prefix = f"{digest.hex}." if self._directory.has((f"{digest.hex}.{_MANIFEST}",)) else ""
        signatures: list[UntrustedSignature] = []
        failures: list[Error] = []
        for position in count(1):
            name = f"{prefix}signature-{position}"
            if not self._directory.has((name,)):
                break
            if position > MAX_SIGNATURES:
                failures.append(SourceError(f"{self._directory.path} has more than {MAX_SIGNATURES} signatures"))
                break
            place = f"{self._directory.path}/{name}"
            try:
                blob = self._directory.read(context, (name,), take, MAX_SIGNATURE_SIZE)
                signatures.append(parse_signature_blob(blob, place))
            except (SourceError, IntegrityError) as error:
                failures.append(error)
        yield Findings(tuple(signatures), tuple(SignatureFailure(error, _ANY_KIND) for error in failures))

    def close(self) -> None:
        """Close the directory."""
        self._directory.close()
