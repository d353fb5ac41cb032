"""``docker-daemon:name:tag``, ``:name@digest`` or ``:sha256:hex``: an image that a Docker daemon has.

Podman's service speaks the same API. The daemon exports an image as ``docker save`` writes it. The stream goes into a
spool file once, where it is read as a docker-archive: its manifest comes last, and blobs are asked for in any order.
Docker Engine API, "Inspect an image", "Export an image"; containers-transports(5).
"""

from __future__ import annotations

import re
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Final, Self
from urllib.parse import quote

import msgspec
from msgspec import Struct

from container_image_proxy.concurrency.memory import unmetered
from container_image_proxy.errors import (
    DigestMismatchError,
    EngineError,
    InvalidReferenceError,
    MalformedDocumentError,
    UnknownManifestError,
)
from container_image_proxy.image.digest import Digest, parse_digest
from container_image_proxy.image.documents import convert
from container_image_proxy.image.reference import Reference, parse_reference, policy_identity, policy_namespaces
from container_image_proxy.image.strict_json import parse_json
from container_image_proxy.transports.archives.archive import Archive
from container_image_proxy.transports.archives.regions import Region
from container_image_proxy.transports.docker_archive import DockerArchiveSource
from container_image_proxy.transports.source import Unsigned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.config.engine import EngineAddress
    from container_image_proxy.image.manifest import Descriptor, Manifest, UntrustedManifest
    from container_image_proxy.registry.http.service import Answer
    from container_image_proxy.transports.archives.regions import RegionReader
    from container_image_proxy.transports.archives.spool import Spool, SpoolDirectory
    from container_image_proxy.transports.source import Access, ImageSource

_ID: Final = re.compile(r"sha256:[0-9a-f]{64}")
_OTHER_DIGEST: Final = re.compile(r"sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")
_API_VERSION: Final = re.compile(r"[0-9]{1,3}\.[0-9]{1,3}")
_MAX_INSPECTION: Final = 4 << 20
_CONNECT_TIMEOUT: Final = 10.0
_PATIENCE: Final = 60.0
"""Seconds that the daemon may take to say what it has, and between two pieces of an export."""
_EXPORT_PATIENCE: Final = 900.0
"""Seconds until an export begins: podman writes all of it into a file before it sends the first byte."""
_NOT_FOUND: Final = 404
_OK: Final = 200


class DockerDaemonReference(Struct, frozen=True):
    """``image`` is its name with tag or digest, or its ID."""

    transport: ClassVar[str] = "docker-daemon"
    may_be_signed: ClassVar[bool] = False
    registry: ClassVar[None] = None
    depends_on_directory: ClassVar[bool] = False
    pinned_digest: ClassVar[None] = None  # the digest of a name is that of a manifest which a registry had
    image: Reference | Digest

    @classmethod
    def parse(cls, within: str) -> Self:
        """Read a name with tag or digest, or ``sha256:hex``; :class:`InvalidReferenceError`."""
        if _ID.fullmatch(within):
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
        """The name, unless it is an ID."""
        return self.image if isinstance(self.image, Reference) else None

    @property
    def policy_identity(self) -> str:
        """The full name; nothing for an ID, which is in no namespace."""
        return policy_identity(self.image) if isinstance(self.image, Reference) else ""

    @property
    def policy_namespaces(self) -> tuple[str, ...]:
        """As for docker://, or nothing for an ID."""
        return policy_namespaces(self.image) if isinstance(self.image, Reference) else ()

    def verify_place(self) -> None:
        """Whether the daemon is there is found out by the first request."""

    def prepare(self, access: Access) -> None:
        """Load the HTTP library, and read where the daemon is."""
        import container_image_proxy.registry.http.service  # noqa: F401, PLC0415

        access.engine()

    def open_source(self, access: Access, earlier: ImageSource | None = None, state: bytes = b"") -> ImageSource:
        """See :class:`SourceReference`. What an earlier source has exported is used as long as it is the same image."""
        exported = earlier.share() if isinstance(earlier, DockerDaemonSource) else None
        return DockerDaemonSource(self, Engine(access.engine()), access.spools, exported, state)

    def to_oci(self, manifest: Manifest, state: bytes) -> Manifest:  # noqa: ARG002 - it was made here
        """See :class:`SourceReference`."""
        return manifest


class _Inspection(Struct, frozen=True):
    id: str = msgspec.field(name="Id")


class Engine:
    """The daemon's API, as far as it is needed here. Each request has a connection of its own. Thread-safe."""

    def __init__(self, address: EngineAddress) -> None:
        self.name = f"the Docker daemon at {address.name}"
        self._address = address

    def find(self, context: Context, name: str) -> str:
        """The ID of the image with that name; :class:`UnknownManifestError` if there is none."""
        with self._get(context, f"{self._version(context)}/images/{name}/json", name) as answer:
            return _read_inspection(answer.read_all(_MAX_INSPECTION), self.name)

    @contextmanager
    def export(self, context: Context, image_id: str) -> Iterator[Answer]:
        """The image as ``docker save`` has it, as it comes."""
        target = f"{self._version(context)}/images/{image_id}/get"
        with self._get(context, target, image_id, patience=_EXPORT_PATIENCE) as answer:
            yield answer

    def _version(self, context: Context) -> str:
        """The path of the API in the daemon's own version: that without a version will be gone one day."""
        with self._get(context, "/_ping") as answer:
            version = answer.header("Api-Version") or ""
        return f"/v{version}" if _API_VERSION.fullmatch(version) else ""

    @contextmanager
    def _get(self, context: Context, target: str, name: str = "", patience: float = _PATIENCE) -> Iterator[Answer]:
        from container_image_proxy.registry.http.service import Service, ServiceFailure, get  # noqa: PLC0415 - loads much

        address = self._address
        service = Service(address.path, address.host, address.port, address.tls, address.verify)
        try:
            answer = get(
                service, quote(target, safe="/:@"), context, patience=patience, connect_timeout=_CONNECT_TIMEOUT
            )
            try:
                if answer.status == _NOT_FOUND and name:
                    raise UnknownManifestError(f"{self.name} has no image {name}")
                if answer.status != _OK:
                    raise EngineError(
                        f"{self.name} answered {answer.status}",
                        endpoint=address.name,
                        upstream_status=answer.status,
                        retryable=answer.status >= 500,  # noqa: PLR2004
                    )
                yield answer
            finally:
                answer.close()
        except ServiceFailure as error:
            raise EngineError(f"{self.name}: {error}", endpoint=address.name, retryable=error.retryable) from error


def _read_inspection(raw: bytes, where: str) -> str:
    """The image's ID in what the daemon says of it."""
    try:
        found = convert(parse_json(raw, "the image"), _Inspection).id
    except MalformedDocumentError as error:
        raise EngineError(f"{where} describes an image in a way that is not understood: {error}") from error
    if not _ID.fullmatch(found):
        raise EngineError(f"{where} describes an image without an ID")
    return found


class _ExportInput:
    """An image of the daemon's, as the :class:`ArchiveInput` that its export is."""

    def __init__(self, engine: Engine, image_id: str) -> None:
        self.place = f"{image_id} of {engine.name}"
        self._engine = engine
        self._image_id = image_id

    @property
    def is_current(self) -> bool:
        """An ID names the same image for ever."""
        return True

    @property
    def is_repeatable(self) -> bool:
        """The daemon may have removed the image since."""
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
        """A spool file is ours."""

    def close(self) -> None:
        """Nothing is open but the spool file."""


class _Export:
    """An exported image, shared by sources, and closed when the last of them lets go."""

    def __init__(self, engine: Engine, image_id: str, spools: SpoolDirectory) -> None:
        self.image_id = image_id
        self.source = DockerArchiveSource(Archive(_ExportInput(engine, image_id), spools, first_counts=True), None)
        self._lock = threading.Lock()
        self._holders = 1

    def share(self) -> Self:
        """The same, for one more holder."""
        with self._lock:
            self._holders += 1
        return self

    def let_go(self) -> None:
        """Close it if nobody else holds it."""
        with self._lock:
            self._holders -= 1
            is_last = self._holders == 0
        if is_last:
            self.source.close()


class _State(Struct, frozen=True):
    """Of which image the manifest was made."""

    image_id: str
    manifest: str


class DockerDaemonSource(Unsigned):
    """An :class:`ImageSource` over an image of the daemon's. It is exported when a manifest or blob is needed."""

    def __init__(
        self,
        reference: DockerDaemonReference,
        engine: Engine,
        spools: SpoolDirectory,
        exported: _Export | None,
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
        """Which image it was, so that it need not be exported again to find out that it is the same."""
        return msgspec.json.encode(self._known) if self._known is not None else b""

    def share(self) -> _Export | None:
        """What was exported, for another source."""
        with self._lock:
            return self._export.share() if self._export is not None else None

    def describe(self, context: Context) -> str:
        """See :class:`DescribedSource`: the ID, for which nothing is exported."""
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
        if digest is None and unless is not None and self._known == _State(image_id, str(unless)):
            return None
        exported = self._exported(image_id)
        manifest = exported.fetch_manifest(context, digest, unless=unless, take=take)
        if isinstance(self._image, Digest) and not exported.is_known_as(context, self._image):
            raise DigestMismatchError(f"{self._engine.name} exports another image for {self._image}")
        self._known = _State(image_id, str(exported.manifest_digest))
        return manifest

    def open_blob(self, context: Context, descriptor: Descriptor, offset: int = 0) -> RegionReader:
        """See :class:`ImageSource`. An image that was known before is exported by its ID, whatever its name is now."""
        with self._lock:
            known = self._export or self._known
        image_id = known.image_id if known is not None else self._engine.find(context, self._name)
        return self._exported(image_id).open_blob(context, descriptor, offset)

    def close(self) -> None:
        """Let what was exported go."""
        with self._lock:
            export, self._export = self._export, None
        if export is not None:
            export.let_go()

    def _exported(self, image_id: str) -> DockerArchiveSource:
        """The image with that ID; one that was exported before is let go if it is another."""
        with self._lock:
            old = None
            if self._export is None or self._export.image_id != image_id:
                old, self._export = self._export, _Export(self._engine, image_id, self._spools)
            source = self._export.source
        if old is not None:
            old.let_go()
        return source


def _parse_state(raw: bytes) -> _State | None:
    try:
        state = msgspec.json.decode(raw, type=_State)
    except msgspec.DecodeError:
        return None
    return state if _ID.fullmatch(state.image_id) else None
