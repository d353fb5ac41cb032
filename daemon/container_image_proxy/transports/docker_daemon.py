"""``docker-daemon:name:tag``, ``:name@digest`` or ``:sha256:hex``: an image that a Docker daemon has.

The daemon exports an image as ``docker save`` writes it. The stream goes into a spool file once, where it is read as a
docker-archive: its manifest comes last, and blobs are asked for in any order (contrib/adr/0036). Podman's service works
as well. Spec: containers-transports(5).
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, ClassVar, Final, Self

import msgspec
from msgspec import Struct

from container_image_proxy.concurrency.memory import unmetered
from container_image_proxy.errors import DigestMismatchError, InvalidReferenceError
from container_image_proxy.image.digest import Digest, parse_digest
from container_image_proxy.image.reference import Reference, parse_reference, policy_identity, policy_namespaces
from container_image_proxy.transports.archives.archive import Archive
from container_image_proxy.transports.docker_archive import DockerArchiveSource
from container_image_proxy.transports.engine import IMAGE_ID, Engine
from container_image_proxy.transports.regions import Region
from container_image_proxy.transports.source import Unsigned

if TYPE_CHECKING:
    from collections.abc import Callable

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.image.manifest import Descriptor, Manifest, UntrustedManifest
    from container_image_proxy.transports.archives.spool import Spool, SpoolDirectory
    from container_image_proxy.transports.regions import RegionReader
    from container_image_proxy.transports.source import Access, ImageSource

_OTHER_DIGEST: Final = re.compile(r"sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")


class DockerDaemonReference(Struct, frozen=True):
    """``image`` is a name with tag or digest, or an ID."""

    transport: ClassVar[str] = "docker-daemon"
    may_be_signed: ClassVar[bool] = False
    registry: ClassVar[None] = None
    depends_on_directory: ClassVar[bool] = False
    pinned_digest: ClassVar[None] = None  # the digest of a name is that of a manifest which a registry had
    image: Reference | Digest

    @classmethod
    def parse(cls, within: str) -> Self:
        """Read a name with tag or digest, or ``sha256:hex``. Raises :class:`InvalidReferenceError`."""
        if IMAGE_ID.fullmatch(within):
            return cls(parse_digest(within))
        if _OTHER_DIGEST.fullmatch(within):
            raise InvalidReferenceError("docker-daemon: image IDs are sha256 digests")
        reference = parse_reference(within)
        if reference.familiar.partition(":")[0].partition("@")[0] == "sha256":
            raise InvalidReferenceError("docker-daemon: sha256: begins an image ID, which has 64 hex digits")
        if reference.is_name_only:
            raise InvalidReferenceError(f"docker-daemon:{within[:100]} has neither a tag nor a digest")
        if reference.tag is not None and reference.digest is not None:
            raise InvalidReferenceError(
                f"docker-daemon:{within[:100]} has both a tag and a digest; the daemon takes one"
            )
        return cls(reference)

    def __str__(self) -> str:
        return f"{self.transport}:{self.image.familiar if isinstance(self.image, Reference) else self.image}"

    @property
    def docker_reference(self) -> Reference | None:
        """The name; None for an ID."""
        return self.image if isinstance(self.image, Reference) else None

    @property
    def policy_identity(self) -> str:
        """The full name; empty for an ID, which is in no namespace."""
        return policy_identity(self.image) if isinstance(self.image, Reference) else ""

    @property
    def policy_namespaces(self) -> tuple[str, ...]:
        """As for docker://; none for an ID."""
        return policy_namespaces(self.image) if isinstance(self.image, Reference) else ()

    def verify_place(self) -> None:
        """Nothing is verified: the first request finds out whether the daemon is there."""

    def prepare(self, access: Access) -> None:
        """Load the HTTP library, and read where the daemon is."""
        import container_image_proxy.registry.http.service  # noqa: F401, PLC0415

        access.engine()

    def open_source(self, access: Access, earlier: ImageSource | None = None, state: bytes = b"") -> ImageSource:
        """See :class:`SourceReference`. What ``earlier`` has exported is used if it still is the image."""
        exported = earlier.share() if isinstance(earlier, DockerDaemonSource) else None
        return DockerDaemonSource(self, Engine(access.engine()), access.spools, exported, state)

    def to_oci(self, manifest: Manifest, state: bytes) -> Manifest:  # noqa: ARG002 - it was made here
        """See :class:`SourceReference`."""
        return manifest


class _ExportInput:
    """The export of an image as an :class:`ArchiveInput`."""

    def __init__(self, engine: Engine, image_id: str) -> None:
        self.place = f"{image_id} of {engine.name}"
        self._engine = engine
        self._image_id = image_id

    @property
    def is_current(self) -> bool:
        """True: an ID always names the same image."""
        return True

    @property
    def is_repeatable(self) -> bool:
        """False: the daemon may have removed the image since."""
        return False

    def load(self, context: Context, spools: SpoolDirectory) -> tuple[Region, Spool | None]:
        """Export the image into a spool file."""
        spool = spools.create(self.place)
        try:
            with self._engine.export(context, self._image_id) as answer:
                spool.append(context, answer)
        except BaseException:
            spool.close()
            raise
        return Region(spool.number, 0, spool.size), spool

    def verify_unchanged(self) -> None:
        """Nothing is verified: nobody else writes to a spool file."""

    def close(self) -> None:
        """Nothing is open but the spool file, which the archive owns."""


class _State(Struct, frozen=True):
    """The ID of an image, and the digest of the manifest that was made for it."""

    image_id: str
    manifest: str


class DockerDaemonSource(Unsigned):
    """An :class:`ImageSource` over an image of the daemon's. It is exported when a manifest or blob is needed.

    ``exported`` is an image that was exported before, by its ID. The source owns it.
    """

    def __init__(
        self,
        reference: DockerDaemonReference,
        engine: Engine,
        spools: SpoolDirectory,
        exported: tuple[str, DockerArchiveSource] | None,
        state: bytes,
    ) -> None:
        self._image = reference.image
        self._name = str(reference.image)
        self._engine = engine
        self._spools = spools
        self._lock = threading.Lock()
        self._export = exported
        self._known = _parse_state(state)

    @property
    def state(self) -> bytes:
        """Which image it was, so that the same image need not be exported again."""
        return msgspec.json.encode(self._known) if self._known is not None else b""

    def share(self) -> tuple[str, DockerArchiveSource] | None:
        """What was exported, for another source to own as well; None if nothing was."""
        with self._lock:
            if self._export is None:
                return None
            image_id, source = self._export
            shared = source.share()
        return None if shared is None else (image_id, shared)

    def describe(self, context: Context) -> str:
        """See :class:`DescribedSource`. The ID is told, for which nothing is exported."""
        return f"image {self._engine.find(context, self._name)} of {self._engine.name}"

    def fetch_manifest(
        self,
        context: Context,
        digest: Digest | None = None,
        *,
        unless: Digest | None = None,
        take: Callable[[int], object] = unmetered,
    ) -> UntrustedManifest | None:
        """See :class:`ImageSource`. The manifest is made here."""
        image_id = self._engine.find(context, self._name)
        # The ID says that the image is the same, so that nothing need be exported (contrib/adr/0036).
        if digest is None and unless is not None and self._known == _State(image_id, str(unless)):
            return None
        exported = self._exported(image_id)
        manifest = exported.fetch_manifest(context, digest, unless=unless, take=take)
        # Policy knows an image by the ID that the reference has. The daemon's word for it is not enough.
        if isinstance(self._image, Digest) and not exported.is_known_as(context, self._image):
            raise DigestMismatchError(f"{self._engine.name} exports another image for {self._image}")
        self._known = _State(image_id, str(exported.manifest_digest))
        return manifest

    def open_blob(self, context: Context, descriptor: Descriptor, offset: int = 0) -> RegionReader:
        """See :class:`ImageSource`. An image that was known before is exported by its ID: its name may have moved."""
        with self._lock:
            export = self._export
        if export is not None:
            image_id = export[0]
        elif self._known is not None:
            image_id = self._known.image_id
        else:
            image_id = self._engine.find(context, self._name)
        return self._exported(image_id).open_blob(context, descriptor, offset)

    def close(self) -> None:
        """Release what was exported."""
        with self._lock:
            export, self._export = self._export, None
        if export is not None:
            export[1].close()

    def _exported(self, image_id: str) -> DockerArchiveSource:
        """The image with that ID. It is exported when it is read. An export of another image is released."""
        with self._lock:
            old = self._export
            if old is not None and old[0] == image_id:
                return old[1]
            archive = Archive(_ExportInput(self._engine, image_id), self._spools, first_counts=True)
            source = DockerArchiveSource(archive, None)
            self._export = image_id, source
        if old is not None:
            old[1].close()
        return source


def _parse_state(raw: bytes) -> _State | None:
    """Read the state of an earlier source; None for anything else, because state is untrusted."""
    try:
        state = msgspec.json.decode(raw, type=_State)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    return state if IMAGE_ID.fullmatch(state.image_id) else None
