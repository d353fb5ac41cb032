"""``signedIdentity``: which image names a signature may claim (containers-policy.json(5), "Policy Requirements").

The claimed name is untrusted text. It is compared with the reference that the configuration names, never with that of a
mirror.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeAlias

from msgspec import Struct

from container_image_proxy.errors import InvalidReferenceError, MalformedDocumentError, shown
from container_image_proxy.image.documents import Written
from container_image_proxy.image.reference import DOMAIN_NAME, PATH_COMPONENT, Reference, parse_reference

Comparison: TypeAlias = Callable[[Reference, Reference], bool]

_PREFIX: Final = re.compile(rf"{DOMAIN_NAME}(?::[0-9]+)?(?:/{PATH_COMPONENT})*")


class Remapping(Struct, frozen=True):
    """``remapIdentity``: replaces the ``prefix`` of the image's name by the one that its signatures use."""

    prefix: str
    signed_prefix: str

    def apply(self, image: Reference) -> Reference | None:
        """The name of ``image`` in its signatures: unchanged if it has another prefix, None if no full name results."""
        text = str(image)
        rest = text.removeprefix(self.prefix)
        # A prefix that is a host alone ends at "/" only: a colon after it begins a port, which makes another host.
        ends_of_name = "/:@" if "/" in self.prefix else "/"
        if not text.startswith(self.prefix) or rest[:1] not in ends_of_name:
            return image
        signed = self.signed_prefix + rest
        renamed = _parse_claim(signed)
        # A name that parsing completed is refused: the signed prefix "vendor" must not mean "docker.io/vendor".
        return renamed if str(renamed) == signed else None


class SignedIdentity(Struct, frozen=True):
    """The rule for claimed names: ``agree`` compares them with the image's own, the ``fixed`` or the remapped name."""

    agree: Comparison
    fixed: Reference | None = None
    remapping: Remapping | None = None

    def wanted(self, image: Reference | None) -> Reference | None:
        """The name to compare claims with; None if there is none, and then no claim matches."""
        if self.fixed is not None:
            return self.fixed
        return self.remapping.apply(image) if self.remapping is not None and image is not None else image

    def matches(self, image: Reference | None, untrusted_claim: str) -> bool:
        """Whether the claim names ``image``, which is None if its transport has no Docker references."""
        wanted, claim = self.wanted(image), _parse_claim(untrusted_claim)
        return wanted is not None and claim is not None and self.agree(wanted, claim)


def same_reference(wanted: Reference, claim: Reference) -> bool:
    """``matchExact``: the same repository, tag and digest. A name without tag and digest never matches."""
    return not wanted.is_name_only and wanted == claim


def same_repository(wanted: Reference, claim: Reference) -> bool:
    """``matchRepository``: the same repository, with any tag or digest."""
    return wanted.name == claim.name


def same_reference_or_digest(wanted: Reference, claim: Reference) -> bool:
    """``matchRepoDigestOrExact``: as :func:`same_reference`, but an image named by digest matches any tag or digest."""
    if wanted.tag is None and wanted.digest is not None:
        return not claim.is_name_only and same_repository(wanted, claim)
    return same_reference(wanted, claim)


MATCH_REPO_DIGEST_OR_EXACT: Final = SignedIdentity(same_reference_or_digest)


def _parse_claim(text: str) -> Reference | None:
    try:
        return parse_reference(text)
    except InvalidReferenceError:
        return None


class _MatchExact(Written, frozen=True, tag_field="type", tag="matchExact"):
    def read(self) -> SignedIdentity:
        return SignedIdentity(same_reference)


class _MatchRepoDigestOrExact(Written, frozen=True, tag_field="type", tag="matchRepoDigestOrExact"):
    def read(self) -> SignedIdentity:
        return MATCH_REPO_DIGEST_OR_EXACT


class _MatchRepository(Written, frozen=True, tag_field="type", tag="matchRepository"):
    def read(self) -> SignedIdentity:
        return SignedIdentity(same_repository)


class _ExactReference(Written, frozen=True, tag_field="type", tag="exactReference", rename="camel"):
    docker_reference: str

    def read(self) -> SignedIdentity:
        reference = _parse_fixed(self.docker_reference, "dockerReference")
        if reference.is_name_only:
            raise MalformedDocumentError(f"{reference} has neither tag nor digest", ("dockerReference",))
        return SignedIdentity(same_reference, fixed=reference)


class _ExactRepository(Written, frozen=True, tag_field="type", tag="exactRepository", rename="camel"):
    docker_repository: str

    def read(self) -> SignedIdentity:
        return SignedIdentity(same_repository, fixed=_parse_fixed(self.docker_repository, "dockerRepository"))


class _RemapIdentity(Written, frozen=True, tag_field="type", tag="remapIdentity", rename="camel"):
    prefix: str
    signed_prefix: str

    def read(self) -> SignedIdentity:
        verify_prefix(self.prefix, "prefix")
        verify_prefix(self.signed_prefix, "signedPrefix")
        return SignedIdentity(same_reference_or_digest, remapping=Remapping(self.prefix, self.signed_prefix))


WrittenIdentity: TypeAlias = (
    _MatchExact | _MatchRepoDigestOrExact | _MatchRepository | _ExactReference | _ExactRepository | _RemapIdentity
)
"""An identity requirement as a policy has it; ``read()`` makes the :class:`SignedIdentity`."""


def verify_prefix(text: str, key: str) -> None:
    """Raise :class:`MalformedDocumentError` about ``key`` unless ``text`` can be a prefix of ``remapIdentity``.

    That is a host, or a namespace or repository on one, in full and without tag and digest.
    """
    if not _PREFIX.fullmatch(text):
        reason = f"{shown(text)} is neither host[:port] nor a namespace or repository below one"
        raise MalformedDocumentError(reason, (key,))


def _parse_fixed(text: str, key: str) -> Reference:
    try:
        return parse_reference(text)
    except InvalidReferenceError as error:
        raise MalformedDocumentError(str(error), (key,)) from error
