"""Signatures as they lie in lookaside storage and ``dir:`` images: one blob each, of a kind that its first bytes tell.

Owns the unverified signature and the reading of such blobs (containers-signature(5)); verifies nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from msgspec import Struct, field

from container_image_proxy.errors import MalformedDocumentError, UnreadableSignatureError
from container_image_proxy.image.documents import Base64, parse_strict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from container_image_proxy.errors import Error

SignatureKind: TypeAlias = Literal["simple", "sigstore"]
SIGNATURE_MEDIA_TYPE: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
"""Of a payload that cosign signed, which containers-signature(5) calls a sigstore signature."""
MAX_SIGNATURE_SIZE: Final = 4 << 20
"""Bytes of one signature. Those that tools make have some kilobytes."""
MAX_SIGNATURES: Final = 128
"""The most that are fetched from one place, or looked at, for one manifest: each costs a request or a run of gpg, which
a stranger who can attach signatures could ask for. Nobody who means well attaches that many.
"""

_SIGSTORE_JSON: Final = b"\0sigstore-json"
_SIMPLE_SIGNING: Final = b"\0simple-signing"
_OPENPGP_PACKET: Final = 0x80
_NEW_PACKET_FORMAT: Final = 0x40
_SIGNATURE, _ONE_PASS_SIGNATURE, _COMPRESSED_DATA = 2, 4, 8


class UntrustedSignature(Struct, frozen=True):
    """A signature as some place handed it out; nothing about it is verified.

    ``blob`` is the OpenPGP message (simple) or the signed payload (sigstore, whose signature and certificates are in
    ``annotations``); ``source`` says where it came from, for the receipt.
    """

    kind: SignatureKind
    blob: bytes
    media_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    source: str = ""

    @property
    def size(self) -> int:
        """How many bytes it takes to keep it, about."""
        return len(self.blob) + sum(len(key) + len(value) for key, value in self.annotations.items())


class SignatureFailure(Struct, frozen=True):
    """Why signatures that may be there, of one of ``kinds``, could not be had."""

    error: Error
    kinds: frozenset[SignatureKind]

    def __str__(self) -> str:
        return str(self.error)


class Findings(Struct, frozen=True):
    """What a place had of a manifest's signatures, and what could not be had there."""

    signatures: tuple[UntrustedSignature, ...] = ()
    failures: tuple[SignatureFailure, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.signatures or self.failures)


class _SigstoreJson(Struct, frozen=True, rename="camel"):
    """Other keys are ignored, as containers/image ignores them."""

    mime_type: str
    payload: Base64
    annotations: dict[str, str] = {}


def parse_signature_blob(blob: bytes, source: str) -> UntrustedSignature:
    """Read one blob, which came from ``source``; :class:`UnreadableSignatureError` if it is of no known format."""
    if len(blob) > MAX_SIGNATURE_SIZE:
        raise UnreadableSignatureError(f"{source} is larger than {MAX_SIGNATURE_SIZE} bytes, so it is no signature")
    if is_openpgp_message(blob):
        return UntrustedSignature("simple", blob, source=source)
    name, newline, content = blob.partition(b"\n")
    if newline and name == _SIMPLE_SIGNING:
        return UntrustedSignature("simple", content, source=source)
    if newline and name == _SIGSTORE_JSON:
        return _parse_sigstore_json(content, source)
    raise UnreadableSignatureError(f"{source} holds no signature of a known format")


def is_openpgp_message(raw: bytes) -> bool:
    """Whether this begins as a binary OpenPGP message that is signed, or compressed around one (RFC 4880, 4.2)."""
    if not raw or not raw[0] & _OPENPGP_PACKET:
        return False
    tag = raw[0] & 0x3F if raw[0] & _NEW_PACKET_FORMAT else raw[0] >> 2 & 0xF
    return tag in {_SIGNATURE, _ONE_PASS_SIGNATURE, _COMPRESSED_DATA}


def _parse_sigstore_json(content: bytes, source: str) -> UntrustedSignature:
    try:
        written = parse_strict(content, _SigstoreJson, source)
    except MalformedDocumentError as error:
        raise UnreadableSignatureError(f"{source} holds a malformed sigstore signature: {error}") from error
    return UntrustedSignature("sigstore", written.payload, written.mime_type, written.annotations, source)
