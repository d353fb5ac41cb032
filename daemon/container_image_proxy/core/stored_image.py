"""What is kept of a resolved image, and its form in a file.

A file is one line of JSON, which says what follows, and then the documents and signatures byte for byte. Writing and
reading therefore take no memory beside them. Everything in the file is *unverified*, as the source delivered it.
Must not verify, nor open files.
"""

from __future__ import annotations

import json
from typing import IO, TYPE_CHECKING, Final

from msgspec import Struct, field, to_builtins

from container_image_proxy.errors import MalformedDocumentError
from container_image_proxy.image.digest import parse_digest
from container_image_proxy.image.documents import convert
from container_image_proxy.image.manifest import Index, UntrustedManifest, parse_manifest
from container_image_proxy.image.media_types import OCI_MANIFEST
from container_image_proxy.image.platform import Platform, parse_platform
from container_image_proxy.image.schema1_conversion import UnpackedLayer
from container_image_proxy.image.signature import SignatureKind, UntrustedSignature

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.manifest import ImageManifest

MAX_HEADER_SIZE: Final = 16 << 20
"""Bytes of the first line, which is held in memory. The annotations of signatures can be half of this before JSON
escapes what is in them.
"""
_MOST: Final = 16 << 20
"""Bytes that are read at once. A manifest, a signature and a source's state have less."""
_PER_DESCRIPTOR: Final = 512
"""Bytes of memory that a descriptor takes, measured."""


class StoredImage(Struct, frozen=True):
    """What is kept of a resolved image: what its source delivered, and for which reference.

    ``place`` is the reference's policy identity at that time. ``indexes`` go from the one that the reference named to
    the one that names the manifest; none if it named the manifest itself. ``signatures`` are by the digest of the
    document that they are about. ``state`` is the source's, for a later source. ``unpacked`` is what was found out
    about layers whose manifest does not tell it.
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
        """The bytes of memory that it takes, about, with the OCI form in which a Docker manifest is served."""
        forms = 1 if self.manifest.media_type == OCI_MANIFEST else 2
        manifest = len(self.manifest.raw) + _PER_DESCRIPTOR * len(self.manifest.layers)
        indexes = sum(len(index.raw) + _PER_DESCRIPTOR * len(index.manifests) for index in self.indexes)
        signatures = sum(one.size for group in self.signatures.values() for one in group)
        return forms * manifest + indexes + signatures + len(self.state)


class _DocumentRecord(Struct, frozen=True, rename="kebab"):
    """A manifest or index, which has ``size`` bytes behind the header."""

    media_type: str
    size: int


class _SignatureRecord(Struct, frozen=True, rename="kebab"):
    """A signature of the manifest or index ``of``, whose blob has ``size`` bytes behind the header."""

    of: str
    kind: SignatureKind
    size: int
    media_type: str
    annotations: dict[str, str]
    source: str


class _UnpackedRecord(Struct, frozen=True, rename="kebab"):
    """What was found out about a layer of Docker's schema 1."""

    of: str
    digest: str
    size: int
    diff_id: str
    media_type: str


class _Header(Struct, frozen=True):
    """The first line. ``state`` is the number of bytes of the source's state, which come last in the file."""

    name: str
    platform: str
    reference: str
    place: str
    documents: tuple[_DocumentRecord, ...]
    signatures: tuple[_SignatureRecord, ...]
    state: int
    unpacked: tuple[_UnpackedRecord, ...]


def encode(stored: StoredImage) -> Iterator[bytes]:
    """The pieces of the file, in their order."""
    documents: tuple[ImageManifest | Index, ...] = (*stored.indexes, stored.manifest)
    signatures = [(digest, one) for digest, group in stored.signatures.items() for one in group]
    header = _Header(
        name=stored.name,
        platform=str(stored.platform),
        reference=stored.reference,
        place=stored.place,
        documents=tuple(_DocumentRecord(one.media_type, len(one.raw)) for one in documents),
        signatures=tuple(
            _SignatureRecord(str(digest), one.kind, len(one.blob), one.media_type, dict(one.annotations), one.source)
            for digest, one in signatures
        ),
        state=len(stored.state),
        unpacked=tuple(
            _UnpackedRecord(str(digest), str(one.digest), one.size, str(one.diff_id), one.media_type)
            for digest, one in stored.unpacked.items()
        ),
    )
    # By json and not msgspec, because only that can write a file's name that is not UTF-8.
    yield json.dumps(to_builtins(header)).encode() + b"\n"
    for document in documents:
        yield document.raw
    for _, signature in signatures:
        yield signature.blob
    yield stored.state


def decode(file: IO[bytes]) -> StoredImage:
    """Read what :func:`encode` wrote. Raises :class:`MalformedDocumentError`, or another :class:`Error`, for anything
    else, and ``OSError``.
    """
    try:
        header = convert(json.loads(file.readline(MAX_HEADER_SIZE)), _Header)
    except (ValueError, RecursionError) as error:
        raise MalformedDocumentError("not a snapshot that this version wrote") from error
    documents = [
        parse_manifest(UntrustedManifest(_read(file, record.size), record.media_type)) for record in header.documents
    ]
    signatures: dict[Digest, tuple[UntrustedSignature, ...]] = {}
    for record in header.signatures:
        digest = parse_digest(record.of)
        blob = _read(file, record.size)
        signature = UntrustedSignature(record.kind, blob, record.media_type, record.annotations, record.source)
        signatures[digest] = (*signatures.get(digest, ()), signature)
    indexes = tuple(document for document in documents[:-1] if isinstance(document, Index))
    manifest = documents[-1] if documents else None
    if len(indexes) != len(documents) - 1 or manifest is None or isinstance(manifest, Index):
        raise MalformedDocumentError("a snapshot whose documents have changed places")
    return StoredImage(
        name=header.name,
        platform=parse_platform(header.platform),
        reference=header.reference,
        place=header.place,
        indexes=indexes,
        manifest=manifest,
        signatures=signatures,
        state=_read(file, header.state),
        unpacked={
            parse_digest(one.of): UnpackedLayer(
                parse_digest(one.digest), one.size, parse_digest(one.diff_id), one.media_type
            )
            for one in header.unpacked
        },
    )


def _read(file: IO[bytes], size: int) -> bytes:
    data = file.read(min(max(0, size), _MOST))
    if len(data) != size:
        raise MalformedDocumentError("a snapshot that ends early")
    return data
