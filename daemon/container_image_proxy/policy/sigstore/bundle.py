"""Sigstore bundles: one JSON document with a signature and all that it takes to check it, as newer cosign attaches it.

Owns the reading of version 0.3, strictly; verifies nothing, and what is signed is not looked into. Format: sigstore's
protobuf-specs, sigstore_bundle.proto, in the JSON form of protocol buffers; DSSE, envelope.md and protocol.md.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from container_image_proxy.errors import IntegrityError, InvalidInputError, SignatureRejectedError
from container_image_proxy.image.media_types import BUNDLE_MEDIA_TYPE
from container_image_proxy.image.strict_json import parse_strict_object
from container_image_proxy.policy.fields import Fields

_MEDIA_TYPES: Final = frozenset({BUNDLE_MEDIA_TYPE, "application/vnd.dev.sigstore.bundle+json;version=0.3"})
_HASH: Final = "SHA2_256"
_MAX_INT64_DIGITS: Final = 19


class Envelope(Struct, frozen=True):
    """A DSSE envelope: a typed payload and the signature of both."""

    payload: bytes
    payload_type: str
    signature: bytes

    @property
    def signed_bytes(self) -> bytes:
        """The pre-authentication encoding, which is what is signed."""
        kind = self.payload_type.encode()
        return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(self.payload), self.payload)


class MessageSignature(Struct, frozen=True):
    """A signature of content that lies elsewhere; ``sha256`` is what the signer says the content's is."""

    sha256: bytes
    signature: bytes


class Promise(Struct, frozen=True):
    """A log's promise about one entry of it: ``body`` is the entry, ``signature`` the signed entry timestamp."""

    body: bytes
    integrated_time: int
    log_id: bytes
    log_index: int
    signature: bytes


class Bundle(Struct, frozen=True):
    """A bundle as it came. ``certificate`` is DER, None for a signature by a bare key; ``log_entries`` are read when a
    log is asked for (:meth:`promise`).
    """

    content: Envelope | MessageSignature
    certificate: bytes | None
    log_entries: tuple[object, ...]

    @property
    def promise(self) -> Promise:
        """The only log entry; :class:`SignatureRejectedError` if there is none, another, or one without a promise."""
        if len(self.log_entries) != 1:
            raise SignatureRejectedError(f"it has {len(self.log_entries)} log entries, where exactly one is supported")
        try:
            return _parse_promise(Fields(self.log_entries[0], "tlogEntries[0]"))
        except InvalidInputError as error:
            raise SignatureRejectedError(f"it is malformed: {error}") from error


def parse_bundle(raw: bytes) -> Bundle:
    """Read a bundle; :class:`SignatureRejectedError` for anything that is not exactly one that is supported."""
    try:
        return _parse_bundle(Fields(parse_strict_object(raw, "the bundle"), ""))
    except (IntegrityError, InvalidInputError) as error:
        raise SignatureRejectedError(f"it is malformed: {error}") from error


def _parse_bundle(fields: Fields) -> Bundle:
    media_type = fields.text("mediaType")
    if media_type not in _MEDIA_TYPES:
        raise SignatureRejectedError(f"it is not supported: a bundle of type {media_type[:100]!r}")
    material = fields.fields("verificationMaterial")
    bundle = Bundle(_parse_content(fields), _parse_certificate(material), _parse_log_entries(material))
    material.done()
    fields.done()
    return bundle


def _parse_content(fields: Fields) -> Envelope | MessageSignature:
    if fields.has("dsseEnvelope") == fields.has("messageSignature"):
        raise InvalidInputError("exactly one of dsseEnvelope and messageSignature must be given")
    if fields.has("dsseEnvelope"):
        return _parse_envelope(fields.fields("dsseEnvelope"))
    return _parse_message_signature(fields.fields("messageSignature"))


def _parse_envelope(fields: Fields) -> Envelope:
    signatures = fields.items("signatures")
    if len(signatures) != 1:
        raise SignatureRejectedError(f"it is not supported: an envelope with {len(signatures)} signatures")
    signature = Fields(signatures[0], "dsseEnvelope.signatures[0]")
    _ignore(signature, "keyid")
    envelope = Envelope(fields.data("payload"), fields.text("payloadType"), signature.data("sig"))
    signature.done()
    fields.done()
    return envelope


def _parse_message_signature(fields: Fields) -> MessageSignature:
    digest = fields.fields("messageDigest")
    algorithm = digest.text("algorithm")
    if algorithm != _HASH:
        raise SignatureRejectedError(f"it is not supported: a message digest of algorithm {algorithm[:100]!r}")
    message = MessageSignature(digest.data("digest"), fields.data("signature"))
    digest.done()
    fields.done()
    return message


def _parse_certificate(material: Fields) -> bytes | None:
    """The key's hint is not looked at: a policy says which keys count, and a signature is by one of them or not."""
    if material.has("x509CertificateChain"):
        raise SignatureRejectedError(
            "it is not supported: a chain of certificates (version 0.3 has the signer's alone)"
        )
    if material.has("certificate") == material.has("publicKey"):
        raise InvalidInputError("verificationMaterial: exactly one of certificate and publicKey must be given")
    if not material.has("certificate"):
        public_key = material.fields("publicKey")
        _ignore(public_key, "hint")
        public_key.done()
        return None
    certificate = material.fields("certificate")
    der = certificate.data("rawBytes")
    certificate.done()
    return der


def _parse_log_entries(material: Fields) -> tuple[object, ...]:
    """RFC 3161 timestamps may stand beside them: nothing here relies on one."""
    _ignore(material, "timestampVerificationData")
    entries = material.take("tlogEntries") if material.has("tlogEntries") else []
    if not isinstance(entries, list):
        raise InvalidInputError("verificationMaterial.tlogEntries: must be an array")
    return tuple(entries)


def _parse_promise(fields: Fields) -> Promise:
    """An inclusion proof is no substitute for the promise, which alone says when; it may stand beside it."""
    if not fields.has("inclusionPromise"):
        raise SignatureRejectedError(
            "it is not supported: its log entry has no signed entry timestamp, as those of Rekor 2 have none"
        )
    given = fields.fields("inclusionPromise")
    log_id = fields.fields("logId")
    promise = Promise(
        body=fields.data("canonicalizedBody"),
        integrated_time=_parse_int64(fields, "integratedTime"),
        log_id=log_id.data("keyId"),
        log_index=_parse_int64(fields, "logIndex"),
        signature=given.data("signedEntryTimestamp"),
    )
    for name in ("inclusionProof", "kindVersion"):
        _ignore(fields, name)
    for part in (given, log_id, fields):
        part.done()
    return promise


def _parse_int64(fields: Fields, key: str) -> int:
    """A number that is written as text, as the JSON form of protocol buffers has it; 0 may be left out."""
    text = fields.text(key) if fields.has(key) else "0"
    if not text.isascii() or not text.isdecimal() or len(text) > _MAX_INT64_DIGITS:
        raise InvalidInputError(f"{fields.place}.{key}: must be a whole number")
    return int(text)


def _ignore(fields: Fields, key: str) -> None:
    if fields.has(key):
        fields.take(key)
