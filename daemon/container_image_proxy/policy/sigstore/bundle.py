"""Reads sigstore bundles of version 0.3: JSON documents with a signature and all that is needed to verify it.

cosign 3 attaches signatures in this form. The reading is strict; nothing is verified, and the signed content is not
parsed. Format: sigstore's protobuf-specs, sigstore_bundle.proto, in the JSON form of protocol buffers; DSSE,
envelope.md and protocol.md.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, ClassVar, Final, Self

from msgspec import UNSET, Meta, Struct, UnsetType

from container_image_proxy.errors import MalformedDocumentError, SignatureRejectedError, rejected_because, shown
from container_image_proxy.image.documents import Base64, Int64, Strict, convert
from container_image_proxy.image.media_types import BUNDLE_MEDIA_TYPE
from container_image_proxy.image.strict_json import parse_strict_json
from container_image_proxy.policy.sigstore.rekor import UntrustedLogEntry, UntrustedPromise

_MEDIA_TYPES: Final = frozenset({BUNDLE_MEDIA_TYPE, "application/vnd.dev.sigstore.bundle+json;version=0.3"})
_HASH: Final = "SHA2_256"
_MAX_INT64_DIGITS: Final = 19
"""Digits of a number of 64 bits. Python reads a number of thousands of digits in time of the square of their number."""


class _EnvelopeSignature(Strict, frozen=True):
    sig: Base64
    keyid: Any = None


class UntrustedEnvelope(Strict, frozen=True, rename="camel"):
    """A DSSE envelope: a payload with a type, and the signature of both."""

    payload: Base64
    payload_type: str
    signatures: Annotated[tuple[_EnvelopeSignature, ...], Meta(min_length=1)]

    @property
    def signature(self) -> bytes:
        """The only signature: :func:`parse_bundle` refuses envelopes with more."""
        return self.signatures[0].sig

    @property
    def signed_bytes(self) -> bytes:
        """The pre-authentication encoding (DSSE protocol.md), which is what the signature is of."""
        kind = self.payload_type.encode()
        return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(self.payload), self.payload)


class _MessageDigest(Strict, frozen=True):
    algorithm: str
    digest: Base64


class UntrustedMessageSignature(Strict, frozen=True, rename="camel"):
    """A signature of content that is not in the bundle."""

    message_digest: _MessageDigest
    signature: Base64

    @property
    def sha256(self) -> bytes:
        """The SHA-256 that the bundle claims for the content."""
        return self.message_digest.digest


class _Certificate(Strict, frozen=True, rename="camel"):
    raw_bytes: Base64


class _PublicKey(Strict, frozen=True):
    """The hint is not used: the policy says which keys count, and each of them is tried."""

    hint: Any = None


class _Material(Strict, frozen=True, rename="camel"):
    """What a verifier needs. Timestamps of RFC 3161 are allowed and not used."""

    certificate: _Certificate | UnsetType = UNSET
    public_key: _PublicKey | UnsetType = UNSET
    x509_certificate_chain: Any = UNSET
    tlog_entries: tuple[Any, ...] = ()
    timestamp_verification_data: Any = None


class _Written(Strict, frozen=True, rename="camel"):
    media_type: str
    verification_material: _Material
    dsse_envelope: UntrustedEnvelope | UnsetType = UNSET
    message_signature: UntrustedMessageSignature | UnsetType = UNSET

    def __post_init__(self) -> None:
        if (self.dsse_envelope is UNSET) == (self.message_signature is UNSET):
            raise MalformedDocumentError("exactly one of dsseEnvelope and messageSignature must be given")


class _MediaType(Struct, frozen=True, rename="camel"):
    media_type: str


class _DecimalText(Int64):
    """An integer of 64 bits in the JSON form of protocol buffers, where it is a string."""

    WRITTEN: ClassVar[Any] = str

    @classmethod
    def read(cls, text: Any) -> Self:
        if not text.isascii() or not text.isdecimal() or len(text) > _MAX_INT64_DIGITS:
            raise MalformedDocumentError("must be a whole number")
        return cls(text)


class _InclusionPromise(Strict, frozen=True, rename="camel"):
    signed_entry_timestamp: Base64


class _LogId(Strict, frozen=True, rename="camel"):
    key_id: Base64


class _TransparencyLogEntry(Strict, frozen=True, rename="camel"):
    """An entry of a transparency log. An inclusion proof is allowed and not used: it does not say when."""

    canonicalized_body: Base64
    log_id: _LogId
    inclusion_promise: _InclusionPromise | UnsetType = UNSET
    integrated_time: _DecimalText = _DecimalText(0)  # protocol buffers leave out what is zero
    log_index: _DecimalText = _DecimalText(0)
    inclusion_proof: Any = None
    kind_version: Any = None


class UntrustedBundle(Struct, frozen=True):
    """A bundle as it was fetched. ``certificate`` is DER, or None if a bare key made the signature.

    ``log_entries`` are parsed by :meth:`promise`, because a policy without logs does not need them.
    """

    content: UntrustedEnvelope | UntrustedMessageSignature
    certificate: bytes | None
    log_entries: tuple[object, ...]

    @property
    def promise(self) -> UntrustedPromise:
        """The only log entry. :class:`SignatureRejectedError` if there are none or several, or if it has no promise."""
        if len(self.log_entries) != 1:
            raise SignatureRejectedError(f"it has {len(self.log_entries)} log entries, where exactly one is supported")
        with rejected_because("it is malformed"):
            written = convert(self.log_entries[0], _TransparencyLogEntry, ("tlogEntries", 0))
        if written.inclusion_promise is UNSET:
            raise SignatureRejectedError(
                "it is not supported: its log entry has no signed entry timestamp, as those of Rekor 2 have none"
            )
        entry = UntrustedLogEntry(
            body=base64.b64encode(written.canonicalized_body).decode(),
            integrated_time=written.integrated_time,
            log_id=written.log_id.key_id.hex(),
            log_index=written.log_index,
        )
        return UntrustedPromise(entry, written.inclusion_promise.signed_entry_timestamp)


def parse_bundle(raw: bytes) -> UntrustedBundle:
    """A bundle from its JSON text; :class:`SignatureRejectedError` if it is malformed or not supported."""
    with rejected_because("it is malformed"):
        value = parse_strict_json(raw, "the bundle")
        # The version first: a bundle of another one is unsupported, and not malformed because its members differ.
        media_type = convert(value, _MediaType).media_type
        if media_type not in _MEDIA_TYPES:
            raise SignatureRejectedError(f"it is not supported: a bundle of type {shown(media_type)}")
        written = convert(value, _Written)
        content = written.dsse_envelope or written.message_signature
        assert content  # noqa: S101 - one of the two is there: for mypy
        if isinstance(content, UntrustedEnvelope):
            if (count := len(content.signatures)) != 1:
                raise SignatureRejectedError(f"it is not supported: an envelope with {count} signatures")
        elif (algorithm := content.message_digest.algorithm) != _HASH:
            raise SignatureRejectedError(f"it is not supported: a message digest of algorithm {shown(algorithm)}")
        material = written.verification_material
        if material.x509_certificate_chain is not UNSET:
            raise SignatureRejectedError(
                "it is not supported: a chain of certificates (version 0.3 has the signer's alone)"
            )
        if (material.certificate is UNSET) == (material.public_key is UNSET):
            reason = "exactly one of certificate and publicKey must be given"
            raise MalformedDocumentError(reason, ("verificationMaterial",))
        certificate = material.certificate.raw_bytes if material.certificate else None
        return UntrustedBundle(content, certificate, material.tlog_entries)
