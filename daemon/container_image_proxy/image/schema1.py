"""Parses Docker's manifests of schema 1, signed and unsigned; :mod:`schema1_conversion` converts them.

Such a manifest names only its layers, by their compressed digests, the newest first. Instead of a configuration it has
a JSON text for each layer. A signed one has a signature (JWS, RFC 7515) by an unknown key, which proves nothing and is
dropped; its payload is what the digest is of and what is parsed (contrib/adr/0037). Docker's image manifest version 2,
schema 1.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeVar

from msgspec import Struct, field

from container_image_proxy.errors import InvalidManifestError, MalformedDocumentError
from container_image_proxy.image.descriptor import read_digest
from container_image_proxy.image.digest import Digest, digest_of
from container_image_proxy.image.documents import convert
from container_image_proxy.image.index import MAX_DESCRIPTORS
from container_image_proxy.image.media_types import IMAGE_TYPES, INDEX_TYPES
from container_image_proxy.image.strict_json import parse_tolerant_json, verify_keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from container_image_proxy.errors import KeyPath

T = TypeVar("T")
_ID: Final = re.compile(r"[a-f0-9]{64}")


class ContainerConfig(Struct, frozen=True):
    """How a layer was made; ``cmd`` is the instruction of the Dockerfile."""

    cmd: tuple[str, ...] | None = field(name="Cmd", default=None)


class LayerRecord(Struct, frozen=True):
    """What is read from the ``v1Compatibility`` of a layer. That of the newest layer is also the configuration."""

    id: str = ""
    parent: str | None = None
    comment: str | None = None
    created: str | None = None
    container_config: ContainerConfig | None = None
    author: str | None = None
    throwaway: bool | None = None


class Schema1Layer(Struct, frozen=True):
    """A layer and its record. If ``throwaway`` is true in the record, the layer has no content."""

    digest: Digest
    record: LayerRecord


class Schema1Manifest(Struct, frozen=True):
    """A manifest of schema 1 without its signatures; ``digest`` is the sha256 of ``raw``.

    ``history`` is from the newest layer down, as in the document. ``configuration`` is the newest layer's JSON text.
    """

    raw: bytes
    media_type: str
    digest: Digest
    history: tuple[Schema1Layer, ...]
    configuration: bytes

    @property
    def layers(self) -> tuple[Digest, ...]:
        """The layers that have content, from the lowest up. A digest may occur more than once."""
        return tuple(layer.digest for layer in reversed(self.history) if not layer.record.throwaway)


class _Base64Url(bytes):
    """base64url with or without its padding (RFC 7515)."""

    WRITTEN: ClassVar[Any] = str

    @classmethod
    def read(cls, text: str) -> Self:
        joined = "".join(text.split())
        try:
            return cls(base64.b64decode(joined + "=" * (-len(joined) % 4), altchars=b"-_", validate=True))
        except (binascii.Error, ValueError) as error:
            raise MalformedDocumentError("not base64url") from error


class _Signature(Struct, frozen=True):
    protected: _Base64Url


class _Protected(Struct, frozen=True, rename="camel"):
    """The signed text: the first ``format_length`` bytes of the document, and then the tail."""

    format_length: int
    format_tail: _Base64Url


class _Signed(Struct, frozen=True, rename="camel"):
    signatures: Any = None
    schema_version: Any = None
    media_type: Any = None


def without_signatures(raw: bytes) -> bytes:
    """The payload of a signed manifest of schema 1. Any other document is returned unchanged.

    :class:`InvalidManifestError` if the signatures are malformed, have different payloads, or are nested.
    """
    found = _find_signatures(raw)
    if found is None:
        return raw
    try:
        payloads = {_payload(raw, one) for one in convert(found, tuple[_Signature, ...], ("signatures",))}
    except MalformedDocumentError as error:
        raise InvalidManifestError(f"a signature of the manifest is malformed: {error}") from error
    if len(payloads) != 1:
        raise InvalidManifestError("the manifest's signatures do not sign one and the same text")
    payload = payloads.pop()
    if _find_signatures(payload) is not None:
        # Applied twice, this function must give the same as once, because a payload that was kept is read again.
        raise InvalidManifestError("the manifest's signatures sign a manifest with signatures")
    return payload


def _find_signatures(raw: bytes) -> object:
    """The ``signatures`` of a document if it is a manifest of schema 1 to other tools as well; None otherwise."""
    if b'"signatures"' not in raw:  # spares most documents a second parsing
        return None
    try:
        document = convert(parse_tolerant_json(raw, "it"), _Signed)
    except MalformedDocumentError:
        return None  # the caller parses the document next, and raises the error
    is_of_another_kind = isinstance(document.media_type, str) and document.media_type in IMAGE_TYPES | INDEX_TYPES
    return document.signatures if document.schema_version == 1 and not is_of_another_kind else None


def _payload(raw: bytes, signature: _Signature) -> bytes:
    header = convert(parse_tolerant_json(signature.protected, "its header"), _Protected)
    if not 0 <= header.format_length <= len(raw):
        raise InvalidManifestError("a signature of the manifest signs a text of another length")
    return raw[: header.format_length] + header.format_tail


class _Written(Struct, frozen=True, rename="camel"):
    schema_version: Any = None
    fs_layers: list[Any] | None = None
    history: list[Any] | None = None


class _FsLayer(Struct, frozen=True, rename="camel"):
    blob_sum: str


class _Entry(Struct, frozen=True):
    v1_compatibility: str = field(name="v1Compatibility")


def parse_schema1(raw: bytes, document: Mapping[str, object], media_type: str) -> Schema1Manifest:
    """The manifest in ``raw``, which has no signatures and was parsed into ``document``.

    :class:`InvalidManifestError` or :class:`MalformedDocumentError` if it is malformed.
    """
    written = convert(document, _Written)
    if written.schema_version != 1:
        raise InvalidManifestError("the manifest has the members of Docker schema 1 and another schemaVersion")
    layers, history = written.fs_layers or [], written.history or []
    if not layers:
        raise InvalidManifestError("the manifest has no fsLayers")
    if len(layers) != len(history):
        raise InvalidManifestError(f"the manifest has {len(layers)} fsLayers, and {len(history)} entries of history")
    if len(layers) > MAX_DESCRIPTORS:
        raise InvalidManifestError(f"the manifest has more than {MAX_DESCRIPTORS} layers")
    texts = [_text_of(entry, ("history", position)) for position, entry in enumerate(history)]
    read = [
        Schema1Layer(_digest_of(layer, ("fsLayers", position)), _parse_record(text, f"history[{position}]"))
        for position, (layer, text) in enumerate(zip(layers, texts, strict=True))
    ]
    kept = _linked(read)
    newest = read.index(kept[0])  # of several layers with its id it is the lowest
    return Schema1Manifest(raw, media_type, digest_of(raw), kept, texts[newest])


def _digest_of(layer: object, path: KeyPath) -> Digest:
    verify_keys(layer, {"blobSum"}, path)
    return read_digest(convert(layer, _FsLayer, path).blob_sum, (*path, "blobSum"))


def _text_of(entry: object, path: KeyPath) -> bytes:
    verify_keys(entry, {"v1Compatibility"}, path)
    return convert(entry, _Entry, path).v1_compatibility.encode()


def _parse_record(text: bytes, place: str) -> LayerRecord:
    record = read_record(text, LayerRecord, f"{place}.v1Compatibility")
    if not _ID.fullmatch(record.id):
        raise InvalidManifestError(f"{place}.v1Compatibility: id is not 64 hex digits")
    return record


def read_record(text: bytes, kind: type[T], place: str) -> T:
    """A ``v1Compatibility`` (JSON text) as ``kind``, without unknown members.

    :class:`InvalidManifestError` if malformed.
    """
    try:
        return convert(parse_tolerant_json(text, "it"), kind)
    except MalformedDocumentError as error:
        raise InvalidManifestError(f"{place}: {error}") from error


def _linked(layers: list[Schema1Layer]) -> tuple[Schema1Layer, ...]:
    """The layers, newest first, of which each must be the parent of the one before it.

    Of consecutive layers with the same id only the lowest is kept, as in containers/image.
    """
    if layers[-1].record.parent:
        raise InvalidManifestError("the manifest's lowest layer has a parent")
    kept = [layers[-1]]
    for layer in reversed(layers[:-1]):
        if layer.record.id == kept[-1].record.id:
            continue
        if layer.record.parent != kept[-1].record.id:
            raise InvalidManifestError(f"the parent of the manifest's layer {layer.record.id} is not the one below it")
        kept.append(layer)
    if len({layer.record.id for layer in kept}) != len(kept):
        raise InvalidManifestError("the manifest has two layers of the same id")
    return tuple(reversed(kept))
