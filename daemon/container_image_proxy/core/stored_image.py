"""What is kept of a resolved image, and how it lies in a file.

A file is one line of JSON, which says what follows, and then the documents and signatures as they are: so that writing
and reading take no memory beside them. Everything in it is *unverified*, as it was delivered.
"""

from __future__ import annotations

import json
from typing import IO, TYPE_CHECKING, Any, Final

from msgspec import Struct, field

from container_image_proxy.errors import InvalidManifestError
from container_image_proxy.image.digest import parse_digest
from container_image_proxy.image.manifest import Index, UntrustedManifest, parse_manifest
from container_image_proxy.image.media_types import OCI_MANIFEST
from container_image_proxy.image.platform import Platform, parse_platform
from container_image_proxy.image.schema1_conversion import UnpackedLayer
from container_image_proxy.image.signature import UntrustedSignature

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.manifest import ImageManifest

MAX_HEADER_SIZE: Final = 16 << 20  # bytes; most of it can be the annotations of signatures
_PER_DESCRIPTOR: Final = 512  # bytes of memory, measured
_MIXED_UP: Final = "a snapshot whose documents have changed places"


class StoredImage(Struct, frozen=True):
    """What is kept of a resolved image: what its source delivered, and for which reference.

    ``place`` is the reference's policy identity then. ``indexes`` go from the one that the reference named to the one
    that names the manifest; none if it named the manifest itself. ``state`` is the source's, for a later one.
    ``unpacked`` is what was found out of the layers of a manifest that does not tell it.
    """

    name: str
    platform: Platform
    reference: str
    place: str
    indexes: tuple[Index, ...]
    manifest: ImageManifest
    signatures: Mapping[Digest, tuple[UntrustedSignature, ...]]
    state: bytes = b""
    unpacked: Mapping[Digest, UnpackedLayer] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of memory that it takes, about, with the OCI form that a Docker manifest is served in."""
        forms = 1 if self.manifest.media_type == OCI_MANIFEST else 2
        manifest = len(self.manifest.raw) + _PER_DESCRIPTOR * len(self.manifest.layers)
        indexes = sum(len(index.raw) + _PER_DESCRIPTOR * len(index.manifests) for index in self.indexes)
        signatures = sum(one.size for group in self.signatures.values() for one in group)
        return forms * manifest + indexes + signatures + len(self.state)


def encode(stored: StoredImage) -> Iterator[bytes]:
    """The pieces of the file, in their order."""
    documents: tuple[ImageManifest | Index, ...] = (*stored.indexes, stored.manifest)
    signatures = [(digest, one) for digest, group in stored.signatures.items() for one in group]
    header = {
        "name": stored.name,
        "platform": str(stored.platform),
        "reference": stored.reference,
        "place": stored.place,
        "documents": [{"media-type": one.media_type, "size": len(one.raw)} for one in documents],
        "signatures": [
            {
                "of": str(digest),
                "kind": one.kind,
                "size": len(one.blob),
                "media-type": one.media_type,
                "annotations": dict(one.annotations),
                "source": one.source,
            }
            for digest, one in signatures
        ],
        "state": len(stored.state),
        "unpacked": [
            {"of": str(digest), "size": one.size, "diff-id": str(one.diff_id), "media-type": one.media_type}
            for digest, one in stored.unpacked.items()
        ],
    }
    yield json.dumps(header).encode() + b"\n"
    for document in documents:
        yield document.raw
    for _, signature in signatures:
        yield signature.blob
    yield stored.state


def decode(file: IO[bytes]) -> StoredImage:
    """Read what :func:`encode` wrote; :class:`InvalidManifestError` (or another :class:`Error`) for anything else."""
    try:
        header = json.loads(file.readline(MAX_HEADER_SIZE))
        *indexes, manifest = [_decode_document(one, file) for one in header["documents"]]
        signatures: dict[Digest, tuple[UntrustedSignature, ...]] = {}
        for one in header["signatures"]:
            digest = parse_digest(one["of"])
            signatures[digest] = (*signatures.get(digest, ()), _decode_signature(one, file))
        return StoredImage(
            name=str(header["name"]),
            platform=parse_platform(header["platform"]),
            reference=str(header["reference"]),
            place=str(header["place"]),
            indexes=tuple(_expect_index(index) for index in indexes),
            manifest=_expect_manifest(manifest),
            signatures=signatures,
            state=_read(file, header["state"]),
            unpacked={
                parse_digest(one["of"]): UnpackedLayer(
                    int(one["size"]), parse_digest(one["diff-id"]), str(one["media-type"])
                )
                for one in header["unpacked"]
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidManifestError(f"not a snapshot that this version wrote ({type(error).__name__})") from error


def _decode_document(record: dict[str, Any], file: IO[bytes]) -> ImageManifest | Index:
    return parse_manifest(UntrustedManifest(_read(file, record["size"]), record["media-type"]))


def _decode_signature(record: dict[str, Any], file: IO[bytes]) -> UntrustedSignature:
    return UntrustedSignature(
        kind=record["kind"],
        blob=_read(file, record["size"]),
        media_type=record["media-type"],
        annotations=dict(record["annotations"]),
        source=record["source"],
    )


def _read(file: IO[bytes], size: int) -> bytes:
    data = file.read(max(0, size))
    if len(data) != size:
        raise InvalidManifestError("a snapshot that ends early")
    return data


def _expect_index(document: ImageManifest | Index) -> Index:
    if not isinstance(document, Index):
        raise InvalidManifestError(_MIXED_UP)
    return document


def _expect_manifest(document: ImageManifest | Index) -> ImageManifest:
    if isinstance(document, Index):
        raise InvalidManifestError(_MIXED_UP)
    return document
