"""in-toto statements: what a signature in a DSSE envelope says about which content.

Owns the strict reading of one kind, by which cosign signs images. Parses only bytes whose signature was verified.
Format: in-toto attestation, Statement v1 and ResourceDescriptor v1.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from container_image_proxy.errors import IntegrityError, InvalidInputError, SignatureRejectedError
from container_image_proxy.image.media_types import SIGN_PREDICATE
from container_image_proxy.image.strict_json import parse_strict_object
from container_image_proxy.policy.fields import Fields

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
MAX_SUBJECTS: Final = 1024
_NOTES: Final = ("annotations", "content", "downloadLocation", "mediaType", "uri")


class StatementSubject(Struct, frozen=True):
    """What a statement is about: ``sha256`` (hex, "" if only other digests are given), under ``name`` or none ("")."""

    name: str
    sha256: str


def parse_signing_statement(raw: bytes) -> tuple[StatementSubject, ...]:
    """The subjects of a statement that these images are signed; :class:`SignatureRejectedError` for any other."""
    try:
        return _parse_statement(Fields(parse_strict_object(raw, "the statement"), ""))
    except (IntegrityError, InvalidInputError) as error:
        raise SignatureRejectedError(f"what it signs is no statement of cosign's: {error}") from error


def _parse_statement(fields: Fields) -> tuple[StatementSubject, ...]:
    for key, expected in (("_type", STATEMENT_TYPE), ("predicateType", SIGN_PREDICATE)):
        untrusted = fields.text(key)
        if untrusted != expected:
            raise InvalidInputError(f"{key} is {untrusted[:100]!r}, not {expected}")
    subjects = fields.items("subject")
    if len(subjects) > MAX_SUBJECTS:
        raise InvalidInputError(f"subject: more than {MAX_SUBJECTS}")
    if fields.has("predicate"):
        fields.take("predicate")
    fields.done()
    return tuple(_parse_subject(Fields(value, f"subject[{i}]")) for i, value in enumerate(subjects))


def _parse_subject(fields: Fields) -> StatementSubject:
    digests = fields.fields("digest")
    name = fields.text("name") if fields.has("name") else ""
    for note in _NOTES:
        if fields.has(note):
            fields.take(note)
    fields.done()
    return StatementSubject(name, digests.text("sha256") if digests.has("sha256") else "")
