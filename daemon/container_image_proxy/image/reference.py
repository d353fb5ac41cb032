"""Docker references: their grammar, their normalisation, and the names by which policy.json knows an image.

The grammar is that of github.com/distribution/reference. A :class:`Reference` is always normalised: ``busybox`` becomes
``docker.io/library/busybox``.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from container_image_proxy.errors import InvalidDigestError, InvalidReferenceError, shown
from container_image_proxy.image import docker_hub
from container_image_proxy.image.digest import Digest, parse_digest

DEFAULT_TAG: Final = "latest"
_MAX_NAME: Final = 255
"""Characters of a name; distribution/reference has the same limit, as registries store names as paths of files."""

_DOMAIN_COMPONENT = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
DOMAIN_NAME: Final = rf"{_DOMAIN_COMPONENT}(?:\.{_DOMAIN_COMPONENT})*"
_ADDRESS = r"\[[a-fA-F0-9:]+\]"  # IPv6, in brackets because its colons would be mistaken for a port's
_DOMAIN = rf"(?:{DOMAIN_NAME}|{_ADDRESS})(?::[0-9]+)?"
PATH_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = rf"{PATH_COMPONENT}(?:/{PATH_COMPONENT})*"
MAX_TAG_LENGTH: Final = 128
"""Characters of a tag (OCI distribution-spec, "Pulling manifests")."""
_TAG = rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{MAX_TAG_LENGTH - 1}}}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"

_DOMAIN_PATTERN: Final = re.compile(_DOMAIN)
_TAG_PATTERN: Final = re.compile(_TAG)
_REMAINDER: Final = re.compile(rf"(?P<path>{_PATH})(?::(?P<tag>{_TAG}))?(?:@(?P<digest>{_DIGEST}))?")
_BARE_IDENTIFIER: Final = re.compile(r"[a-f0-9]{64}")


class Reference(Struct, frozen=True):
    """A normalised Docker reference: a name, and a tag, a digest, both or neither."""

    domain: str
    path: str
    tag: str | None = None
    digest: Digest | None = None

    @property
    def name(self) -> str:
        """``domain/path``, without tag and digest."""
        return f"{self.domain}/{self.path}"

    def __str__(self) -> str:
        return self.name + self._suffix

    @property
    def familiar(self) -> str:
        """The short form that users type: ``busybox:1`` for ``docker.io/library/busybox:1``."""
        if self.domain != docker_hub.DOMAIN:
            return str(self)
        namespace, _, rest = self.path.partition("/")
        short = rest if namespace == docker_hub.OFFICIAL_NAMESPACE and rest and "/" not in rest else self.path
        return short + self._suffix

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag is not None else "") + (f"@{self.digest}" if self.digest is not None else "")

    @property
    def repository(self) -> Reference:
        """The name alone, with neither tag nor digest."""
        return Reference(self.domain, self.path)

    @property
    def is_name_only(self) -> bool:
        """Whether neither tag nor digest is given."""
        return self.tag is None and self.digest is None

    def with_default_tag(self) -> Reference:
        """The same reference, with the tag ``latest`` if it has neither tag nor digest."""
        return replace(self, tag=DEFAULT_TAG) if self.is_name_only else self

    def with_tag(self, tag: str) -> Reference:
        """The same reference with this tag; :class:`InvalidReferenceError` if it is none."""
        if not _TAG_PATTERN.fullmatch(tag):
            raise InvalidReferenceError(
                f"{shown(tag)} is not a tag: letters, digits, '_', '.', '-', {MAX_TAG_LENGTH} at most"
            )
        return replace(self, tag=tag)

    def with_digest(self, digest: Digest) -> Reference:
        """The same reference with this digest."""
        return replace(self, digest=digest)


def parse_reference(text: str) -> Reference:
    """The normalised reference in ``text``; :class:`InvalidReferenceError` if it is malformed."""
    if _BARE_IDENTIFIER.fullmatch(text):
        raise InvalidReferenceError(f"{text!r} is an image id, not a name: 64 hex digits cannot be a repository")
    domain, remainder = _split_domain(text)
    match = _REMAINDER.fullmatch(remainder)
    if not match or not _DOMAIN_PATTERN.fullmatch(domain):
        name = remainder.partition("@")[0].partition(":")[0]
        is_upper = name.lower() != name  # the usual mistake, with a message of its own
        rule = ": a repository name must be lower case" if is_upper else " is not [registry/]name[:tag][@digest]"
        raise InvalidReferenceError(f"{shown(text)}{rule}")
    try:
        digest = parse_digest(match["digest"]) if match["digest"] is not None else None
    except InvalidDigestError as error:
        raise InvalidReferenceError(str(error)) from error
    reference = Reference(domain, match["path"], match["tag"], digest)
    if len(reference.name) > _MAX_NAME:
        raise InvalidReferenceError(f"{shown(text)}: the name is longer than {_MAX_NAME} characters")
    return reference


def is_domain(text: str) -> bool:
    """Whether ``text`` is ``host[:port]``, as at the beginning of a reference."""
    return _DOMAIN_PATTERN.fullmatch(text) is not None


def names_domain(text: str) -> bool:
    """Whether a reference as typed begins with a registry. One that does not is a short name.

    The first component is a registry if it has a dot or a colon, or is ``localhost``.
    """
    first, slash, _ = text.partition("/")
    return bool(slash) and ("." in first or ":" in first or first == "localhost")


def _split_domain(text: str) -> tuple[str, str]:
    first, _, rest = text.partition("/")
    domain, remainder = (first, rest) if names_domain(text) else (docker_hub.DOMAIN, text)
    if domain == docker_hub.OLD_DOMAIN:
        domain = docker_hub.DOMAIN
    if domain == docker_hub.DOMAIN and "/" not in remainder:
        remainder = f"{docker_hub.OFFICIAL_NAMESPACE}/{remainder}"
    return domain, remainder


def policy_identity(reference: Reference) -> str:
    """The name of a ``docker://`` image in policy.json and registries.d (containers-policy.json(5)).

    :class:`InvalidReferenceError` unless the reference has either a tag or a digest.
    """
    if (reference.tag is None) == (reference.digest is None):
        raise InvalidReferenceError(f"{reference}: exactly one of tag and digest must be given here")
    return str(reference)


def policy_namespaces(reference: Reference) -> tuple[str, ...]:
    """The wider scopes for the image, the most specific first: repository, its parents, host, wildcards of hosts."""
    parts = reference.name.split("/")
    names = ["/".join(parts[:end]) for end in range(len(parts), 0, -1)]
    labels = reference.domain.partition(":")[0].split(".")
    return (*names, *(f"*.{'.'.join(labels[start:])}" for start in range(1, len(labels))))
