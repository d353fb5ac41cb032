"""What a decision leaves behind: each requirement's verdict, and the receipt of an image that was allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import asdict

if TYPE_CHECKING:
    from container_image_proxy.image.digest import Digest


class Verdict(Struct, frozen=True):
    """What became of one requirement.

    ``reason`` is one line for a person. If a signature satisfied it, ``signers`` says whose (``openpgp:<fingerprint>``,
    ``sigstore-key:<digest of the key>``, ``mailto:<address> by <issuer>``) and ``signature_source`` where it came from.
    """

    requirement: str
    accepted: bool
    reason: str
    signers: tuple[str, ...] = ()
    signature_source: str = ""


class Receipt(Struct, frozen=True):
    """Why an image was allowed.

    ``signed_digest`` says which of index and manifest was signed, None if no signature was needed; ``verified_at`` is
    RFC 3339, UTC.
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
        """Everybody whose signature counted, each once, in the order of the requirements."""
        return tuple(dict.fromkeys(signer for verdict in self.verdicts for signer in verdict.signers))

    def as_json(self) -> dict[str, object]:
        """The receipt as JSON types: digests as text, absent ones left out."""
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
