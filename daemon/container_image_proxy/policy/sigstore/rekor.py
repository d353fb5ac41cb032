"""Rekor's promise that a signature is in the transparency log: the signed entry timestamp (SET), checked offline.

A SET counts only if a trusted log signed it and its entry is about this payload, this signature and this key: a promise
for another artefact proves nothing (CVE-2022-36056). Format: what cosign stores as bundle; entries are hashedrekord
0.0.1.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from container_image_proxy.errors import IntegrityError, InvalidInputError, SignatureRejectedError
from container_image_proxy.image.documents import decode_base64
from container_image_proxy.image.strict_json import parse_strict_object
from container_image_proxy.policy.fields import Fields
from container_image_proxy.policy.pem import parse_single_pem
from container_image_proxy.policy.sigstore.public_key import PublicKey, find_signing_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from container_image_proxy.policy.budget import Budget

_KIND: Final = "hashedrekord"
_VERSION: Final = "0.0.1"
_MAX_TIME: Final = 1 << 35


class SignedEntryTimestamp(Struct, frozen=True):
    """A SET as it came: the log's signature and the entry that it signs, as JSON."""

    signature: bytes
    payload: object


class LogEntry(Struct, frozen=True):
    """What a SET promises: ``body`` (base64) is in log ``log_id`` at ``log_index`` since ``integrated_time`` (Unix)."""

    body: str
    integrated_time: int
    log_id: str
    log_index: int

    @property
    def signed_bytes(self) -> bytes:
        """The canonical JSON (RFC 8785) that the log signs."""
        entry = {
            "body": self.body,
            "integratedTime": self.integrated_time,
            "logID": self.log_id,
            "logIndex": self.log_index,
        }
        return json.dumps(entry, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


class HashedRekord(Struct, frozen=True):
    """What an entry is about: an artefact's SHA-256 (hex), a signature, and the signer's key or certificate (PEM)."""

    sha256: str
    signature: bytes
    public_key: bytes


def parse_set(raw: bytes) -> SignedEntryTimestamp:
    """Read a bundle; :class:`InvalidInputError` or :class:`IntegrityError` for anything that is not exactly one."""
    fields = Fields(parse_strict_object(raw, "the Rekor bundle"), "")
    parsed = SignedEntryTimestamp(fields.data("SignedEntryTimestamp"), fields.take("Payload"))
    fields.done()
    return parsed


def parse_log_entry(payload: object) -> LogEntry:
    """Read a SET's payload; :class:`InvalidInputError` for anything that is not exactly one."""
    fields = Fields(payload, "Payload")
    entry = LogEntry(
        fields.text("body"), fields.integer("integratedTime"), fields.text("logID"), fields.integer("logIndex")
    )
    fields.done()
    return entry


def parse_hashed_rekord(body: bytes) -> HashedRekord:
    """Read an entry's body; fields that are not needed here may stand beside the others."""
    fields = Fields(parse_strict_object(body, "the log entry"), "body")
    if (fields.text("kind"), fields.text("apiVersion")) != (_KIND, _VERSION):
        raise InvalidInputError(f"the log entry is no {_KIND} {_VERSION}")
    spec = fields.fields("spec")
    digest, signature = spec.fields("data").fields("hash"), spec.fields("signature")
    if digest.text("algorithm") != "sha256":
        raise InvalidInputError("the log entry's hash is not SHA-256")
    return HashedRekord(
        sha256=digest.text("value").lower(),
        signature=signature.data("content"),
        public_key=signature.fields("publicKey").data("content"),
    )


def verify_set(
    untrusted_set: bytes,
    logs: Sequence[PublicKey],
    *,
    signer: bytes,
    signature: bytes,
    payload: bytes,
    budget: Budget,
) -> datetime:
    """When one of the trusted logs took in this signature of ``payload`` by ``signer`` (DER of a key or certificate).

    :class:`SignatureRejectedError` if the SET is malformed, by no trusted log, or about something else.
    """
    try:
        signed = parse_set(untrusted_set)
        entry = parse_log_entry(signed.payload)
        integrated = verify_promise(entry, signed.signature, logs, budget)
        verify_about(parse_hashed_rekord(decode_base64(entry.body, "Payload.body")), signer, signature, payload)
    except (IntegrityError, InvalidInputError) as error:
        raise SignatureRejectedError(f"the Rekor bundle is malformed: {error}") from error
    return integrated


def verify_promise(entry: LogEntry, promise: bytes, logs: Sequence[PublicKey], budget: Budget) -> datetime:
    """When one of the trusted logs took in the entry, as its signature ``promise`` says."""
    if find_signing_key(logs, promise, entry.signed_bytes, budget) is None:
        raise SignatureRejectedError("the Rekor bundle is not signed by a trusted log")
    if not 0 <= entry.integrated_time < _MAX_TIME:
        raise SignatureRejectedError("the Rekor bundle has an impossible time")
    return datetime.fromtimestamp(entry.integrated_time, UTC)


def verify_about(entry: HashedRekord, signer: bytes, signature: bytes, payload: bytes) -> None:
    """Raise :class:`SignatureRejectedError` unless the entry is about this payload, signature and signer (DER)."""
    if parse_single_pem(entry.public_key, "the log entry's key") != signer:
        raise SignatureRejectedError("the Rekor bundle is about another key")
    if entry.signature != signature:
        raise SignatureRejectedError("the Rekor bundle is about another signature")
    if entry.sha256 != hashlib.sha256(payload).hexdigest():
        raise SignatureRejectedError("the Rekor bundle is about other content")
