"""Images that a client opens by name and keeps open: which names it may open, and what an open image gives.

An instance opens the images that it serves, for those who may have them. A process that serves its parent alone opens
whatever the parent names. An open image stays what it was when it was opened, though its tag may move.
Must not know any protocol (contrib/adr/0040).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

from msgspec import Struct

from container_image_proxy.core.proxy import Proxy, ServedImage
from container_image_proxy.core.snapshot_store import SnapshotStore
from container_image_proxy.errors import (
    Error,
    InvalidInputError,
    InvalidManifestError,
    MalformedDocumentError,
    PeerDeniedError,
    UnknownBlobError,
    UnknownImageError,
    shown,
)
from container_image_proxy.image.convert import to_oci
from container_image_proxy.image.digest import parse_digest
from container_image_proxy.image.documents import convert
from container_image_proxy.image.manifest import Manifest
from container_image_proxy.image.strict_json import parse_tolerant_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.core.peer import Peer
    from container_image_proxy.core.serving import Serving
    from container_image_proxy.core.snapshots import Snapshot
    from container_image_proxy.core.verified_stream import VerifiedBlob
    from container_image_proxy.image.descriptor import Descriptor
    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.platform import Platform
    from container_image_proxy.transports.source import SourceReference


_ANY_REGISTRY: Final = "docker://localhost/warm-up"


class _Configuration(Struct, frozen=True):
    config: dict[str, Any] | None = None


class Images(Protocol):
    """What can be opened under one configuration."""

    def open(self, context: Context, name: str, peer: Peer) -> OpenImage:
        """The image that ``name`` means to the peer, as it is now. The caller closes it.

        Raises :class:`ImageNotFoundError` only if the image's source says that there is none,
        :class:`UnknownImageError` or :class:`PeerDeniedError` if the peer may not have it, and what
        :meth:`Proxy.resolve` raises.
        """


class NamedImages:
    """The images of an instance, by their names, or by exactly the references that the instance has for them."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def open(self, context: Context, name: str, peer: Peer) -> OpenImage:
        """As in :class:`Images`."""
        serving = self._serving
        # Several images may have one reference, and the peer may have one of them alone.
        meant = [one for one, image in serving.images.items() if name in {one, str(image.reference)}]
        meant += [one for one in serving.images if name == serving.settings.images[one].reference]
        if not meant:
            allowed = ", ".join(one for one in serving.images if serving.permits(peer, one))
            raise UnknownImageError(f"this instance has no image {shown(name)}; you may open {allowed or 'none'}")
        chosen = next((one for one in meant if serving.permits(peer, one)), None)
        if chosen is None:
            raise PeerDeniedError(f"{peer} is not allowed to have image {meant[0]!r}")
        return OpenImage(serving.proxy, serving.proxy.resolve(context, chosen))


class AnyImages:
    """Any image that a client names as ``transport:reference``, for a process that works for its parent alone.

    ``make_proxy`` makes a proxy of ``images`` with a ``store`` of their own. Each image has a proxy, which goes with
    it: names come and go. ``parse`` reads a name. ``grant`` is called with each registry that is named, for which the
    credentials of the command line are then good.
    """

    def __init__(
        self,
        serving: Serving,
        make_proxy: Callable[..., Proxy],
        platform: Platform,
        parse: Callable[[str], SourceReference],
        grant: Callable[[str], object],
    ) -> None:
        self._serving = serving
        self._make_proxy = make_proxy
        self._platform = platform
        self._parse = parse
        self._grant = grant

    def open(self, context: Context, name: str, peer: Peer) -> OpenImage:  # noqa: ARG002 - the protocol's
        """As in :class:`Images`."""
        reference = self._parse(name)
        if reference.registry is not None:
            self._grant(reference.registry)
        image = ServedImage(name, reference, self._platform, fresh_for=0)
        proxy = self._make_proxy(images={name: image}, store=SnapshotStore(None))
        return OpenImage(proxy, proxy.resolve(context, name), is_own=True)

    def warm_up(self) -> None:
        """Load what the first image will wait for: the HTTP library, and the system's certificates.

        Nothing is contacted.
        """
        reference, sources = self._parse(_ANY_REGISTRY), self._serving.sources
        with suppress(Error):  # an image that needs it meets with the same error, and its client is told
            reference.prepare(sources)
            reference.open_source(sources).close()

    def close(self) -> None:
        """Close the connections to registries."""
        self._serving.close()


class OpenImage:
    """A verified image, whose source stays open with it. Thread-safe, except that :meth:`close` is the last call.

    ``is_own`` says that ``proxy`` serves no other image, and is closed with this one.
    """

    def __init__(self, proxy: Proxy, snapshot: Snapshot, *, is_own: bool = False) -> None:
        self._proxy = proxy
        self._snapshot = snapshot
        self._is_own = is_own
        snapshot.lease.hold()

    @property
    def name(self) -> str:
        """The image's name in the instance, or the reference that it was opened by."""
        return self._snapshot.name

    @property
    def size(self) -> int:
        """The bytes of memory that it takes, about."""
        return self._snapshot.stored.size

    @property
    def digest(self) -> Digest:
        """The digest of the manifest that the source has."""
        return self._snapshot.manifest_digest

    @property
    def manifest(self) -> bytes:
        """The manifest that the source has, in OCI form.

        Its layers may be compressed, and those of :attr:`layers` not: that is so for an image in a store.
        """
        verified = self._snapshot.verified.manifest
        if self._snapshot.original is None and isinstance(verified, Manifest):
            return to_oci(verified).raw
        return self._snapshot.manifest.raw

    @property
    def layers(self) -> tuple[Descriptor, ...]:
        """The layers that the blobs are: those of a store are uncompressed."""
        return (self._snapshot.original or self._snapshot.manifest).layers

    def read_config(self, context: Context) -> bytes:
        """The configuration, byte for byte."""
        return self.open_blob(context, self._snapshot.manifest.config).read_all()

    def read_runtime_config(self, context: Context) -> object:
        """The configuration's part for running the image (image-spec config.md, ``config``); empty without one.

        Raises :class:`InvalidManifestError` if the configuration is malformed.
        """
        try:
            value = parse_tolerant_json(self.read_config(context), "it")
            return convert(value, _Configuration).config or {}
        except MalformedDocumentError as error:
            raise InvalidManifestError(f"the image's configuration is malformed: {error}") from error

    def find_blob(self, digest: str, size: int | None = None) -> Descriptor:
        """The image's own blob with that digest.

        Raises :class:`InvalidDigestError`, :class:`UnknownBlobError`, and :class:`InvalidInputError` if ``size`` is
        given and is not the blob's.
        """
        wanted = parse_digest(digest)
        found = next((blob for blob in self._snapshot.manifest.blobs if blob.digest == wanted), None)
        if found is None:
            raise UnknownBlobError(f"{wanted} is no blob of {self.name}; GetLayerInfoPiped lists its layers")
        if size not in (None, found.size):
            raise InvalidInputError(f"{wanted} has {found.size} bytes, not {size}")
        return found

    def open_blob(self, context: Context, descriptor: Descriptor) -> VerifiedBlob:
        """The verified stream of one of its blobs, which the caller closes."""
        return self._proxy.open_blob(context, self._snapshot, descriptor)

    def close(self) -> None:
        """Release what it holds. Blobs that are being read can be read to their end."""
        self._snapshot.lease.let_go()
        if self._is_own:
            self._proxy.close()
