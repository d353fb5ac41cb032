"""``signedIdentity``: which image names a signature may claim (containers-policy.json(5), "Policy Requirements").

The claimed name is always untrusted text. It is held against the reference that the configuration names, never against
a mirror's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeAlias

from msgspec import Struct

from container_image_proxy.errors import InvalidInputError, InvalidReferenceError
from container_image_proxy.image.reference import Reference, parse_reference
from container_image_proxy.policy.fields import Fields

Comparison: TypeAlias = Callable[[Reference, Reference], bool]

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PREFIX: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*(?::[0-9]+)?(?:/{_COMPONENT})*")


class Remapping(Struct, frozen=True):
    """Replaces the prefix that an image has here by the one that its signatures use."""

    prefix: str
    signed_prefix: str

    def apply(self, image: Reference) -> Reference | None:
        """What signatures call ``image``: the same if the prefix is another, None if the result is no full name.

        Nothing is expanded: a signed prefix ``vendor`` does not come to mean ``docker.io/vendor``.
        """
        text = str(image)
        rest = text.removeprefix(self.prefix)
        ends_of_name = "/:@" if "/" in self.prefix else "/"
        if not text.startswith(self.prefix) or rest[:1] not in ends_of_name:
            return image
        signed = self.signed_prefix + rest
        renamed = _parse_claim(signed)
        return renamed if str(renamed) == signed else None


class SignedIdentity(Struct, frozen=True):
    """What a signature must claim: a name that agrees with the wanted one, the image's, a fixed or a remapped one."""

    agree: Comparison
    fixed: Reference | None = None
    remapping: Remapping | None = None

    def wanted(self, image: Reference | None) -> Reference | None:
        """The name to hold claims against; None if there is none, and then no claim matches."""
        if self.fixed is not None:
            return self.fixed
        return self.remapping.apply(image) if self.remapping is not None and image is not None else image

    def matches(self, image: Reference | None, untrusted_claim: str) -> bool:
        """Whether the claim is about ``image`` (None: its transport has no Docker reference)."""
        wanted, claim = self.wanted(image), _parse_claim(untrusted_claim)
        return wanted is not None and claim is not None and self.agree(wanted, claim)


def same_reference(wanted: Reference, claim: Reference) -> bool:
    """The very same tag or digest in the same repository; a bare name is no identity."""
    return not wanted.is_name_only and wanted == claim


def same_repository(wanted: Reference, claim: Reference) -> bool:
    """The same repository, whatever the tag."""
    return wanted.name == claim.name


def same_reference_or_digest(wanted: Reference, claim: Reference) -> bool:
    """As :func:`same_reference`, but for an image named by its digest alone any tag of the repository will do."""
    if wanted.tag is None and wanted.digest is not None:
        return not claim.is_name_only and same_repository(wanted, claim)
    return same_reference(wanted, claim)


MATCH_REPO_DIGEST_OR_EXACT: Final = SignedIdentity(same_reference_or_digest)


def _parse_claim(text: str) -> Reference | None:
    try:
        return parse_reference(text)
    except InvalidReferenceError:
        return None


def parse_identity(value: object, place: str) -> SignedIdentity:
    """Read one identity requirement; :class:`InvalidInputError` names the place and what is wrong."""
    fields = Fields(value, place)
    kind = fields.text("type")
    if kind not in _PARSERS:
        raise InvalidInputError(f"{place}: unknown identity type {kind[:100]!r}; known are {', '.join(_PARSERS)}")
    identity = _PARSERS[kind](fields)
    fields.done()
    return identity


def parse_prefix(text: str, place: str) -> str:
    """A ``remapIdentity`` prefix: a host, or a namespace or repository below one; no tag, no digest, fully expanded."""
    if not _PREFIX.fullmatch(text):
        raise InvalidInputError(
            f"{place}: {text[:100]!r} is neither host[:port] nor a namespace or repository below one"
        )
    return text


def _parse_fixed(fields: Fields, key: str) -> Reference:
    try:
        return parse_reference(fields.text(key))
    except InvalidReferenceError as error:
        raise InvalidInputError(f"{fields.place}.{key}: {error}") from error


def _parse_exact_reference(fields: Fields) -> SignedIdentity:
    reference = _parse_fixed(fields, "dockerReference")
    if reference.is_name_only:
        raise InvalidInputError(f"{fields.place}.dockerReference: {reference} has neither tag nor digest")
    return SignedIdentity(same_reference, fixed=reference)


def _parse_remap_identity(fields: Fields) -> SignedIdentity:
    prefix, signed_prefix = (
        parse_prefix(fields.text(key), f"{fields.place}.{key}") for key in ("prefix", "signedPrefix")
    )
    return SignedIdentity(same_reference_or_digest, remapping=Remapping(prefix, signed_prefix))


_PARSERS: Final[dict[str, Callable[[Fields], SignedIdentity]]] = {
    "matchExact": lambda _fields: SignedIdentity(same_reference),
    "matchRepoDigestOrExact": lambda _fields: MATCH_REPO_DIGEST_OR_EXACT,
    "matchRepository": lambda _fields: SignedIdentity(same_repository),
    "exactReference": _parse_exact_reference,
    "exactRepository": lambda fields: SignedIdentity(same_repository, fixed=_parse_fixed(fields, "dockerRepository")),
    "remapIdentity": _parse_remap_identity,
}
