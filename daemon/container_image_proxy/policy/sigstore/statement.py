"""in-toto statements: the payload of a DSSE envelope, which says something about some content.

Reads strictly the one kind by which cosign signs images, and only after its signature was verified. Format: in-toto
attestation, Statement v1 and ResourceDescriptor v1.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from msgspec import Meta, Struct, field

from container_image_proxy.errors import MalformedDocumentError, rejected_because, shown
from container_image_proxy.image.documents import Strict, parse_strict
from container_image_proxy.image.media_types import SIGN_PREDICATE

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
MAX_SUBJECTS: Final = 1024
"""Subjects of a statement, each of which takes half a KiB of memory. The statement about an image has one."""


class _Digests(Struct, frozen=True):
    sha256: str = ""


class StatementSubject(Strict, frozen=True, rename="camel"):
    """Content that a statement is about, by digest, with a ``name`` ("" if none). The other members decide nothing."""

    digest: _Digests
    name: str = ""
    annotations: Any = None
    content: Any = None
    download_location: Any = None
    media_type: Any = None
    uri: Any = None

    @property
    def sha256(self) -> str:
        """The SHA-256 in hex; "" if the subject has only other digests."""
        return self.digest.sha256


class _Statement(Strict, frozen=True):
    type: str = field(name="_type")
    predicate_type: str = field(name="predicateType")
    subject: Annotated[tuple[StatementSubject, ...], Meta(min_length=1)]
    predicate: Any = None


def parse_signing_statement(raw: bytes) -> tuple[StatementSubject, ...]:
    """The subjects of a statement by which cosign signs images.

    :class:`SignatureRejectedError` for any other content.
    """
    with rejected_because("what it signs is no statement of cosign's"):
        statement = parse_strict(raw, _Statement, "the statement")
        if statement.type != STATEMENT_TYPE:
            raise MalformedDocumentError(f"is {shown(statement.type)}, not {STATEMENT_TYPE}", ("_type",))
        # Other statements are signed as well, such as what an image was built from. They do not say that it is good.
        if (predicate := statement.predicate_type) != SIGN_PREDICATE:
            raise MalformedDocumentError(f"is {shown(predicate)}, not {SIGN_PREDICATE}", ("predicateType",))
        if len(statement.subject) > MAX_SUBJECTS:
            raise MalformedDocumentError(f"more than {MAX_SUBJECTS}", ("subject",))
    return statement.subject
