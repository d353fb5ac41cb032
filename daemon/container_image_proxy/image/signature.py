"""Unverified signatures, and the blobs in which lookaside storage and ``dir:`` images store them.

The first bytes of such a blob tell its format (containers-signature(5)). Nothing is verified here.
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
"""The type of a payload that cosign signed, which containers-signature(5) calls a sigstore signature."""
MAX_SIGNATURE_SIZE: Final = 4 << 20
"""Bytes of one signature. Tools make signatures of some KiB."""
MAX_SIGNATURES: Final = 128
"""Signatures of one manifest that are fetched from one place, or verified. Each costs a request or a run of gpg, and
anybody who can attach signatures to an image could cause them. No signer attaches that many.
"""

_SIGSTORE_JSON: Final = b"\0sigstore-json"
_SIMPLE_SIGNING: Final = b"\0simple-signing"
_OPENPGP_PACKET: Final = 0x80
_NEW_PACKET_FORMAT: Final = 0x40
_SIGNATURE, _ONE_PASS_SIGNATURE, _COMPRESSED_DATA = 2, 4, 8


class UntrustedSignature(Struct, frozen=True):
    """A signature as it was fetched. Nothing in it is verified.

    ``blob`` is an OpenPGP message (simple), or a payload whose signature and certificates are in ``annotations``
    (sigstore), or a bundle (sigstore, by its media type). ``source`` says where it was fetched, for the receipt.
    """

    kind: SignatureKind
    blob: bytes
    media_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    source: str = ""

    @property
    def size(self) -> int:
        """About how many bytes of memory it takes."""
        return len(self.blob) + sum(len(key) + len(value) for key, value in self.annotations.items())


class SignatureFailure(Struct, frozen=True):
    """Why signatures of these kinds, which may exist, could not be fetched."""

    error: Error
    kinds: frozenset[SignatureKind]

    def __str__(self) -> str:
        return str(self.error)


class Findings(Struct, frozen=True):
    """The signatures of a manifest that were fetched from a place, and the failures."""

    signatures: tuple[UntrustedSignature, ...] = ()
    failures: tuple[SignatureFailure, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.signatures or self.failures)


class _SigstoreJson(Struct, frozen=True, rename="camel"):
    """A sigstore signature as a blob has it. Other keys are ignored, as in containers/image."""

    mime_type: str
    payload: Base64
    annotations: dict[str, str] = {}


def parse_signature_blob(blob: bytes, source: str) -> UntrustedSignature:
    """The signature in a blob that was fetched from ``source``.

    :class:`UnreadableSignatureError` if it is too large, malformed, or of no known format.
    """
    if len(blob) > MAX_SIGNATURE_SIZE:
        raise UnreadableSignatureError(f"{source} is larger than {MAX_SIGNATURE_SIZE} bytes, so it is no signature")
    # Signatures of OpenPGP came first and have no header. Every other format begins with a null byte and its name.
    if is_openpgp_message(blob):
        return UntrustedSignature("simple", blob, source=source)
    name, newline, content = blob.partition(b"\n")
    if newline and name == _SIMPLE_SIGNING:
        return UntrustedSignature("simple", content, source=source)
    if newline and name == _SIGSTORE_JSON:
        try:
            written = parse_strict(content, _SigstoreJson, source)
        except MalformedDocumentError as error:
            raise UnreadableSignatureError(f"{source} holds a malformed sigstore signature: {error}") from error
        return UntrustedSignature("sigstore", written.payload, written.mime_type, written.annotations, source)
    raise UnreadableSignatureError(f"{source} holds no signature of a known format")


def is_openpgp_message(raw: bytes) -> bool:
    """Whether ``raw`` begins like a binary OpenPGP message that is signed or compressed (RFC 4880, section 4.2)."""
    if not raw or not raw[0] & _OPENPGP_PACKET:
        return False
    tag = raw[0] & 0x3F if raw[0] & _NEW_PACKET_FORMAT else raw[0] >> 2 & 0xF
    return tag in {_SIGNATURE, _ONE_PASS_SIGNATURE, _COMPRESSED_DATA}
