"""``tarball:path[:path...]``: an image that is made of tar files, one a layer (containers-transports(5)).

The files have no manifest or configuration. Both are made here, and depend only on the files, their times, and this
host's platform. A file that is compressed with gzip or zstd is a layer as it is. OCI has no media type for other
compressions: a file that has one is unpacked, and its tar is the layer.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar, Final, Self

import msgspec
from msgspec import Struct

from container_image_proxy.concurrency.locks import held
from container_image_proxy.concurrency.memory import unmetered
from container_image_proxy.config.instances import host_platform
from container_image_proxy.errors import (
    InvalidDigestError,
    InvalidReferenceError,
    SourceError,
    UnknownBlobError,
    UnknownManifestError,
    located,
    shown,
)
from container_image_proxy.image.convert import serialise, to_oci
from container_image_proxy.image.descriptor import Descriptor
from container_image_proxy.image.digest import Digest, digest_of, parse_digest
from container_image_proxy.image.manifest import UntrustedManifest
from container_image_proxy.image.media_types import OCI_CONFIG, OCI_LAYER_OF_COMPRESSION, OCI_LAYER_TAR, OCI_MANIFEST
from container_image_proxy.transports.archives.decompression import (
    MAGIC_SIZE,
    decompress,
    detect_compression,
    memory_for,
)
from container_image_proxy.transports.archives.file import ArchiveFile, Identity
from container_image_proxy.transports.archives.unpacking import pieces_of, read_fully, unpack
from container_image_proxy.transports.readers import BytesReader
from container_image_proxy.transports.regions import Region, RegionReader
from container_image_proxy.transports.source import Unsigned

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.image.manifest import Manifest
    from container_image_proxy.transports.archives.spool import Spool, SpoolDirectory
    from container_image_proxy.transports.source import Access, ImageSource

_MAX_FILES: Final = 128
"""As many layers as an image may have that is to be run. Each file is open while the image is served."""
_PIECE: Final = 256 * 1024
_NANOSECONDS: Final = 1_000_000_000


class TarballReference(Struct, frozen=True):
    """``paths`` are as they were written, from the lowest layer up.

    The policy identity is empty, as in containers/image: only the transport's default scope holds these images.
    """

    transport: ClassVar[str] = "tarball"
    may_be_signed: ClassVar[bool] = False
    docker_reference: ClassVar[None] = None
    pinned_digest: ClassVar[None] = None
    registry: ClassVar[None] = None
    policy_identity: ClassVar[str] = ""
    policy_namespaces: ClassVar[tuple[str, ...]] = ()
    paths: tuple[str, ...]

    @classmethod
    def parse(cls, within: str) -> Self:
        """Read ``path[:path...]``. Raises :class:`InvalidReferenceError`."""
        paths = tuple(within.split(":"))
        if "-" in paths:  # containers-transports(5): standard input
            raise InvalidReferenceError(
                f"tarball:{within[:100]}: standard input cannot be served, because it can be read only once: "
                "write it to a file, and name that"
            )
        if "" in paths or "\0" in within:
            raise InvalidReferenceError(f"tarball:{shown(within)}: a path is missing, as in tarball:/srv/os.tar")
        if len(paths) > _MAX_FILES:
            raise InvalidReferenceError(f"tarball: an image has at most {_MAX_FILES} layers")
        return cls(paths)

    def __str__(self) -> str:
        return f"{self.transport}:{':'.join(self.paths)}"

    @property
    def depends_on_directory(self) -> bool:
        """Whether a path is relative."""
        return not all(path.startswith("/") for path in self.paths)

    def verify_place(self) -> None:
        """See :class:`SourceReference`."""
        for file in self.files():
            file.verify_place()

    def prepare(self, access: Access) -> None:
        """Nothing is prepared: all work is reading the files."""

    def open_source(self, access: Access, earlier: ImageSource | None = None, state: bytes = b"") -> ImageSource:
        """See :class:`SourceReference`."""
        is_current = isinstance(earlier, TarballSource) and earlier.is_current
        return earlier if earlier is not None and is_current else TarballSource(self, access.spools, state)

    def to_oci(self, manifest: Manifest, state: bytes) -> Manifest:  # noqa: ARG002 - the blobs are those it names
        """See :class:`SourceReference`."""
        return to_oci(manifest)

    def files(self) -> tuple[ArchiveFile, ...]:
        """The files, not opened yet."""
        return tuple(ArchiveFile(path, os.path.realpath(path)) for path in self.paths)


class _Layer(Struct, frozen=True):
    """What was found out about a file. ``digest`` and ``size`` are those of the layer, ``diff_id`` that of its tar."""

    identity: Identity
    digest: str
    diff_id: str
    size: int
    media_type: str


class TarballSource(Unsigned):
    """An :class:`ImageSource` over tar files, which it keeps open. They are read once, when they are needed."""

    def __init__(self, reference: TarballReference, spools: SpoolDirectory, state: bytes) -> None:
        self._files = reference.files()
        self._spools = spools
        self._known = _parse_state(state)
        self._lock = threading.Lock()
        self._spool: Spool | None = None
        self._layers: list[_Layer] = []
        self._regions: dict[str, tuple[Region, ArchiveFile | None]] = {}

    @property
    def state(self) -> bytes:
        """What was found out about the files."""
        return msgspec.json.encode(self._layers)

    @property
    def is_current(self) -> bool:
        """Whether all files were read, and are still what their paths name."""
        return len(self._layers) == len(self._files) and all(file.is_current for file in self._files)

    def fetch_manifest(
        self,
        context: Context,
        digest: Digest | None = None,
        *,
        unless: Digest | None = None,
        take: Callable[[int], object] = unmetered,  # noqa: ARG002 - a few kilobytes
    ) -> UntrustedManifest | None:
        """See :class:`ImageSource`."""
        if digest is not None:
            raise UnknownManifestError(f"there is no manifest {digest}: tar files have one image, and no index")
        raw, _ = self._make_image(context)
        return None if digest_of(raw) == unless else UntrustedManifest(raw, OCI_MANIFEST)

    def open_blob(self, context: Context, descriptor: Descriptor, offset: int = 0) -> RegionReader | BytesReader:
        """See :class:`ImageSource`."""
        _, config = self._make_image(context)
        if digest_of(config) == descriptor.digest:
            return BytesReader(config, offset)
        if str(descriptor.digest) not in self._regions:
            places = ", ".join(file.place for file in self._files)
            raise UnknownBlobError(f"{descriptor.digest} is no layer of what is now in {places}")
        region, file = self._regions[str(descriptor.digest)]
        if file is None:
            return RegionReader(region, "a spool file", offset)
        return RegionReader(region, file.place, offset, verify=file.verify_unchanged)

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()
        if self._spool is not None:
            self._spool.close()

    def _make_image(self, context: Context) -> tuple[bytes, bytes]:
        """The manifest, and the configuration that it names."""
        with held(self._lock, context):
            for file in self._files[len(self._layers) :]:
                with located(file.place):
                    self._layers.append(self._read(context, file))
            layers = tuple(self._layers)
        config = _make_configuration(layers)
        named = Descriptor(OCI_CONFIG, digest_of(config), len(config))
        descriptors = [Descriptor(layer.media_type, parse_digest(layer.digest), layer.size) for layer in layers]
        return serialise(named, descriptors), config

    def _read(self, context: Context, file: ArchiveFile) -> _Layer:
        """The layer that a file is, found out by reading it unless the state of an earlier source has it."""
        file.close()
        whole = file.open()
        identity = file.identity
        assert identity is not None  # noqa: S101 - for mypy
        try:
            _time(identity.mtime)
        except (ValueError, OverflowError, OSError) as error:
            reason = f"{file.place}: its modification time is outside of the years 1 to 9999, which images have"
            raise SourceError(f"{reason} (touch {shlex.quote(file.place)})") from error
        compression = detect_compression(read_fully(whole.number, 0, MAGIC_SIZE, file.place))
        if compression in OCI_LAYER_OF_COMPRESSION:
            layer = self._known.get(identity) or _examine(context, whole, compression, identity, file.place)
            self._regions[layer.digest] = whole, file
        else:
            if self._spool is None:
                self._spool = self._spools.create(file.place)
            began = self._spool.size
            size = unpack(context, whole, compression or "", self._spool, file.place)
            tar = Region(self._spool.number, began, size)
            layer = _examine(context, tar, None, identity, file.place)
            self._regions[layer.digest] = tar, None
        file.verify_unchanged()
        return layer


def _parse_state(state: bytes) -> dict[Identity, _Layer]:
    """The layers in a state, by the files that they were read from; none if it is no state of ours."""
    try:
        layers = msgspec.json.decode(state, type=tuple[_Layer, ...]) if state else ()
        for layer in layers:
            parse_digest(layer.digest)
            parse_digest(layer.diff_id)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, InvalidDigestError):
        return {}
    types = frozenset(OCI_LAYER_OF_COMPRESSION.values())
    return {one.identity: one for one in layers if one.media_type in types and one.size == one.identity.size}


def _examine(context: Context, region: Region, compression: str | None, identity: Identity, place: str) -> _Layer:
    """Both digests of what a region holds, computed in one pass."""
    of_file, of_tar = hashlib.sha256(), hashlib.sha256()
    next_piece = pieces_of(context, region, place)

    def read(count: int) -> bytes:
        data = next_piece(count)
        of_file.update(data)
        return data

    if compression is not None:
        buffer = memoryview(bytearray(_PIECE))
        with memory_for(context, compression):
            tar = decompress(read, compression, place)
            while count := tar.readinto(buffer):
                of_tar.update(buffer[:count])
    while read(_PIECE):
        """The rest belongs to the file's digest; of a plain tar that is everything."""
    digest = f"sha256:{of_file.hexdigest()}"
    diff_id = digest if compression is None else f"sha256:{of_tar.hexdigest()}"
    media_type = OCI_LAYER_OF_COMPRESSION.get(compression, OCI_LAYER_TAR)
    return _Layer(identity, digest, diff_id, region.size, media_type)


def _make_configuration(layers: Sequence[_Layer]) -> bytes:
    """The configuration, as containers/image makes it (tarball/tarball_src.go), but with all times in UTC."""
    platform = host_platform()
    history = [
        {
            "created": _time(layer.identity.mtime),
            "created_by": f"/bin/sh -c #(nop) ADD file:{layer.diff_id.partition(':')[2]} in /",
            "comment": "imported from tarball",
        }
        for layer in layers
    ]
    document = {
        "created": _time(max(layer.identity.mtime for layer in layers)),
        "architecture": platform.architecture,
        "os": platform.os,
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": history,
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _time(nanoseconds: int) -> str:
    """The time in RFC 3339, without trailing zeros."""
    seconds, fraction = divmod(nanoseconds, _NANOSECONDS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09}".rstrip("0").rstrip(".") + "Z"
