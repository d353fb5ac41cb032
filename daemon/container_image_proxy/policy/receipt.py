"""The record of a decision: a verdict for each requirement, and the receipt of an image that was allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import asdict

if TYPE_CHECKING:
    from container_image_proxy.image.digest import Digest


class Verdict(Struct, frozen=True):
    """Whether one requirement was satisfied, and why, in one line for a person.

    If a signature satisfied it, ``signers`` names its maker (``openpgp:<fingerprint>``, ``sigstore-key:<digest of the
    key>``, ``mailto:<address> by <issuer>``) and ``signature_source`` is the place that it was fetched from.
    """

    requirement: str
    accepted: bool
    reason: str
    signers: tuple[str, ...] = ()
    signature_source: str = ""


class Receipt(Struct, frozen=True):
    """Why an image was allowed.

    ``signed_digest`` is the digest of the index or manifest that was signed; None if no signature was needed.
    ``verified_at`` is a time of RFC 3339 in UTC.
    """

    policy_file: str
    scope: str
    verdicts: tuple[Verdict, ...]
    index_digest: Digest | None
    manifest_digest: Digest
    signed_digest: Digest | None
    verified_at: str

    @property
    def signed_by(self) -> tuple[str, ...]:
        """The signers whose signatures counted, each once, in the order of the requirements."""
        return tuple(dict.fromkeys(signer for verdict in self.verdicts for signer in verdict.signers))

    def as_json(self) -> dict[str, object]:
        """The receipt as a JSON object, as ``/verification`` answers it. Digests that are None are left out."""
        digests = {
            "index_digest": self.index_digest,
            "manifest_digest": self.manifest_digest,
            "signed_digest": self.signed_digest,
        }
        return {
            "policy_file": self.policy_file,
            "scope": self.scope,
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
            **{name: str(digest) for name, digest in digests.items() if digest is not None},
            "signed_by": list(self.signed_by),
            "verified_at": self.verified_at,
        }
