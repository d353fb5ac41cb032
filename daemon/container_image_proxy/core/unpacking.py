"""What a manifest of Docker's schema 1 does not tell of its layers, found by reading and unpacking each layer once.

Policy has allowed the image before. Each layer is verified by its digest, and nothing counts if that is wrong. It takes
as long as reading the whole image, and no more memory than a blob that is served. Decision: contrib/adr/0037.
"""

from __future__ import annotations

import hashlib
from contextlib import closing
from typing import TYPE_CHECKING, Final

from container_image_proxy.core.verified_stream import VerifiedBlob
from container_image_proxy.errors import InvalidManifestError
from container_image_proxy.image.digest import Digest
from container_image_proxy.image.manifest import Descriptor
from container_image_proxy.image.media_types import OCI_LAYER_OF_COMPRESSION
from container_image_proxy.image.schema1_conversion import UnpackedLayer
from container_image_proxy.transports.archives.decompression import (
    MAGIC_SIZE,
    decompress,
    detect_compression,
    memory_for,
)
from container_image_proxy.transports.source import MeasuringSource, UnpackedSource

if TYPE_CHECKING:
    from collections.abc import Generator

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.core.lease import Lease
    from container_image_proxy.image.schema1 import Schema1Manifest

MAX_UNPACKED: Final = 1 << 40
"""Bytes that the layers of an image may unpack to. No image has so many, and they take most of an hour to read."""
_PIECE: Final = 256 * 1024


def unpack_layers(context: Context, manifest: Schema1Manifest, lease: Lease) -> dict[Digest, UnpackedLayer]:
    """Size, DiffID and media type of each layer. The caller need not hold ``lease``. A store knows them already: it has
    unpacked the layers.

    Raises what reading and decompressing a blob raises, and :class:`InvalidManifestError` for a compression that OCI
    has no name for, or layers of more than ``MAX_UNPACKED`` bytes.
    """
    with lease.held():
        source = lease.source
        if isinstance(source, UnpackedSource):
            return source.find_tars(context, manifest)
        if not isinstance(source, MeasuringSource):
            raise InvalidManifestError("Docker schema 1 is read from registries, dir: and stores only")
        unpacked: dict[Digest, UnpackedLayer] = {}
        room = MAX_UNPACKED
        for digest in dict.fromkeys(manifest.layers):
            descriptor = Descriptor("", digest, source.measure_blob(context, digest))
            with closing(VerifiedBlob(lease.open_blob(context, descriptor), descriptor)) as blob:
                layer, size = _unpack(context, blob, descriptor, room)
            unpacked[digest] = layer
            room -= size
    return unpacked


def _unpack(context: Context, blob: VerifiedBlob, descriptor: Descriptor, room: int) -> tuple[UnpackedLayer, int]:
    """The layer, and its size in bytes when unpacked. At most ``room`` bytes are unpacked."""
    pieces = _Pieces(blob)
    compression = detect_compression(pieces.beginning)
    media_type = OCI_LAYER_OF_COMPRESSION.get(compression)
    if media_type is None:
        raise InvalidManifestError(f"the layer {descriptor.digest} is compressed with {compression}, unknown to OCI")
    hashed, size = hashlib.sha256(), 0
    with closing(_decompressed(context, pieces, compression, f"the layer {descriptor.digest}")) as tar:
        for piece in tar:
            context.check()
            size += len(piece)
            if size > room:
                raise InvalidManifestError(f"the image's layers unpack to more than {MAX_UNPACKED} bytes")
            hashed.update(piece)
    while pieces.read(_PIECE):
        """Only the blob's end tells whether its digest is right, and bytes may follow the compressed ones."""
    return UnpackedLayer(descriptor.digest, descriptor.size, Digest("sha256", hashed.hexdigest()), media_type), size


class _Pieces:
    """A blob as a file that is read from its beginning to its end."""

    def __init__(self, blob: VerifiedBlob) -> None:
        self._blob = blob
        self._piece = memoryview(b"")
        self._advance()
        self.beginning = bytes(self._piece[:MAGIC_SIZE])

    def read(self, count: int) -> bytes:
        """At most ``count`` bytes, none only at the end."""
        if not self._piece:
            self._advance()
        piece, self._piece = self._piece[:count], self._piece[count:]
        return bytes(piece)

    def _advance(self) -> None:
        self._piece = next(self._blob, memoryview(b""))


def _decompressed(
    context: Context, pieces: _Pieces, compression: str | None, place: str
) -> Generator[memoryview, None, None]:
    if compression is None:
        while piece := pieces.read(_PIECE):
            yield memoryview(piece)
        return
    buffer = memoryview(bytearray(_PIECE))
    with memory_for(context, compression):
        tar = decompress(pieces.read, compression, place)
        while count := tar.readinto(buffer):
            yield buffer[:count]
