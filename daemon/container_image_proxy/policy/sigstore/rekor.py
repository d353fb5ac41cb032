"""Rekor's promise that a signature is in the transparency log: the signed entry timestamp (SET), verified offline.

A SET counts only if a trusted log signed it and its entry is about this payload, this signature and this signer: a
promise about another artifact proves nothing (CVE-2022-36056). Format: the annotation ``dev.sigstore.cosign/bundle`` of
cosign, and Rekor's entries ``hashedrekord`` 0.0.1 and ``dsse`` 0.0.1.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from msgspec import Struct, field
from msgspec.structs import astuple

from container_image_proxy.errors import MalformedDocumentError, SignatureRejectedError, rejected_because, shown
from container_image_proxy.image.documents import Base64, Int64, Strict, convert, decode_base64, parse_strict
from container_image_proxy.image.strict_json import parse_strict_json
from container_image_proxy.policy.pem import parse_single_pem
from container_image_proxy.policy.sigstore.public_key import PublicKey, find_signing_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from container_image_proxy.policy.budget import Budget

_MAX_TIME: Final = 1 << 35
"""Seconds since 1970, which is the year 3058. A number without bound may be no time that ``datetime`` can have."""
_VERSION: Final = "0.0.1"
EntryKind: TypeAlias = Literal["hashedrekord", "dsse"]


class UntrustedSet(Strict, frozen=True):
    """A SET as it was fetched: a signature, allegedly by the log, and the entry that it signs, as JSON."""

    signature: Base64 = field(name="SignedEntryTimestamp")
    payload: Any = field(name="Payload")


class UntrustedLogEntry(Strict, frozen=True):
    """What a SET promises: ``body`` (base64) is in the log ``log_id`` since ``integrated_time`` (Unix time)."""

    body: str
    integrated_time: Int64 = field(name="integratedTime")
    log_id: str = field(name="logID")
    log_index: Int64 = field(name="logIndex")

    @property
    def signed_bytes(self) -> bytes:
        """The canonical JSON (RFC 8785) that the log signs."""
        entry = dict(zip(self.__struct_encode_fields__, astuple(self), strict=True))
        return json.dumps(entry, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


class UntrustedPromise(Struct, frozen=True):
    """An entry and the log's alleged signature of it, from a SET or from a bundle."""

    entry: UntrustedLogEntry
    signature: bytes


class _About(Struct, frozen=True):
    """The content of an entry: an artifact's SHA-256 (hex), a signature, and the signer's key or certificate (PEM)."""

    sha256: str
    signature: bytes
    public_key: bytes


# The types of a body are tolerant of other members: the log signed the body, so nobody else can have put them there.


class _Kind(Struct, frozen=True, rename="camel"):
    kind: str
    api_version: str


class _Hash(Struct, frozen=True):
    algorithm: str
    value: str

    def __post_init__(self) -> None:
        if self.algorithm != "sha256":
            raise MalformedDocumentError("the hash is not SHA-256")


class _Data(Struct, frozen=True):
    hash: _Hash


class _PublicKey(Struct, frozen=True):
    content: Base64


class _Signature(Struct, frozen=True, rename="camel"):
    content: Base64
    public_key: _PublicKey


class _HashedRekordSpec(Struct, frozen=True):
    data: _Data
    signature: _Signature


class _HashedRekord(Struct, frozen=True):
    spec: _HashedRekordSpec

    def read(self) -> _About:
        signature = self.spec.signature
        return _About(self.spec.data.hash.value.lower(), signature.content, signature.public_key.content)


class _EnvelopeSignature(Struct, frozen=True):
    signature: Base64
    verifier: Base64


class _DsseSpec(Struct, frozen=True, rename="camel"):
    """The entry's hash of the envelope is not read, because the envelope's exact text is not kept in a bundle."""

    payload_hash: _Hash
    signatures: tuple[_EnvelopeSignature, ...]

    def __post_init__(self) -> None:
        if len(self.signatures) != 1:
            raise MalformedDocumentError(f"{len(self.signatures)} signatures where exactly one is supported")


class _Dsse(Struct, frozen=True):
    spec: _DsseSpec

    def read(self) -> _About:
        (signature,) = self.spec.signatures
        return _About(self.spec.payload_hash.value.lower(), signature.signature, signature.verifier)


def parse_set(raw: bytes) -> UntrustedSet:
    """A SET from its JSON text; :class:`MalformedDocumentError` if it is none."""
    return parse_strict(raw, UntrustedSet, "the Rekor bundle")


def parse_log_entry(payload: object) -> UntrustedLogEntry:
    """The entry from a SET's payload (parsed JSON); :class:`MalformedDocumentError` if it is none."""
    return convert(payload, UntrustedLogEntry, ("Payload",))


def verify_set(
    untrusted_set: bytes,
    logs: Sequence[PublicKey],
    *,
    signer: bytes,
    signature: bytes,
    payload: bytes,
    budget: Budget,
) -> datetime:
    """As :func:`verify_promise`, for the JSON text of a SET.

    :class:`SignatureRejectedError` also if it is malformed.
    """
    with rejected_because("the Rekor bundle is malformed"):
        untrusted = parse_set(untrusted_set)
        promise = UntrustedPromise(parse_log_entry(untrusted.payload), untrusted.signature)
    return verify_promise(
        promise, "hashedrekord", logs, signer=signer, signature=signature, payload=payload, budget=budget
    )


def verify_promise(
    untrusted: UntrustedPromise,
    kind: EntryKind,
    logs: Sequence[PublicKey],
    *,
    signer: bytes,
    signature: bytes,
    payload: bytes,
    budget: Budget,
) -> datetime:
    """The time at which a trusted log added this ``signature`` of ``payload`` by ``signer`` (DER key or certificate).

    :class:`SignatureRejectedError` if no trusted log promises the entry, or if it is about something else.
    """
    entry = untrusted.entry
    if find_signing_key(logs, untrusted.signature, entry.signed_bytes, budget) is None:
        raise SignatureRejectedError("its log entry is not signed by a trusted log")
    if not 0 <= entry.integrated_time < _MAX_TIME:
        raise SignatureRejectedError("its log entry has an impossible time")
    # From here on the body is what a trusted log signed, so that it may be parsed.
    about = _parse_body(entry.body, kind)
    if parse_single_pem(about.public_key, "the log entry's key") != signer:
        raise SignatureRejectedError("its log entry is about another key")
    if about.signature != signature:
        raise SignatureRejectedError("its log entry is about another signature")
    if about.sha256 != hashlib.sha256(payload).hexdigest():
        raise SignatureRejectedError("its log entry is about other content")
    return datetime.fromtimestamp(entry.integrated_time, UTC)


def _parse_body(body: str, kind: EntryKind) -> _About:
    with rejected_because("its log entry is malformed"):
        value = parse_strict_json(decode_base64(body), "the body")
        found = convert(value, _Kind)
        if (found.kind, found.api_version) != (kind, _VERSION):
            other = shown(f"{found.kind} {found.api_version}")
            raise SignatureRejectedError(f"its log entry is a {other}, where only {kind} {_VERSION} is supported")
        if kind == "dsse":
            return convert(value, _Dsse, ("body",)).read()
        return convert(value, _HashedRekord, ("body",)).read()
