"""Registries as the containers ecosystem configures them: where an image is really pulled from, and from whom never.

The model and its lookups, pure; reading the files is ``registries_conf``'s. containers-registries.conf(5), "Choosing a
[[registry]] TOML table" and "Remapping and mirroring registries".
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

from msgspec import Struct, field

from container_image_proxy.errors import ConfigurationError, InvalidReferenceError, RegistryBlockedError
from container_image_proxy.image.reference import Reference, parse_reference

if TYPE_CHECKING:
    from collections.abc import Mapping

PullFromMirror = Literal["all", "digest-only", "tag-only"]
ShortNameMode = Literal["enforcing", "permissive", "disabled"]
AUTH_FILES: Final = "containers-auth.json"  # the credential helper that stands for the auth files
WILDCARD: Final = "*."
_HOST: Final = re.compile(r"[^/:@]*")
_SEPARATORS: Final = frozenset({"", "/", ":", "@"})


class Mirror(Struct, frozen=True):
    """A location (``host[:port][/path]``) and the pulls that it is meant for."""

    location: str
    insecure: bool = False
    pull_from_mirror: PullFromMirror = "all"

    def serves(self, reference: Reference) -> bool:
        """Whether a pull of ``reference`` may come from here."""
        return self.pull_from_mirror != ("digest-only" if reference.digest is None else "tag-only")


class PullSource(Struct, frozen=True):
    """One place to pull from. ``reference`` is rewritten to that place; ``insecure`` holds for it alone."""

    reference: Reference
    insecure: bool = False
    is_mirror: bool = False

    @property
    def domain(self) -> str:
        """``host[:port]`` of the registry to contact, and the name that credentials and certificates know it by."""
        return self.reference.domain


class Registry(Struct, frozen=True):
    """A ``[[registry]]`` table of ``file``. ``location`` is empty if a wildcard prefix rewrites nothing."""

    prefix: str
    location: str
    insecure: bool = False
    blocked: bool = False
    mirrors: tuple[Mirror, ...] = ()
    mirror_by_digest_only: bool = False
    file: str = ""

    def pull_sources(self, reference: Reference) -> tuple[PullSource, ...]:
        """All places that the table names for ``reference``: the mirrors in their order, then the location itself.

        :class:`ConfigurationError` if one of them makes no reference. Whether a place is blocked is not considered.
        """
        mirrors = () if self.mirror_by_digest_only and reference.digest is None else self.mirrors
        return (
            *(
                PullSource(self._relocate(reference, mirror.location), mirror.insecure, is_mirror=True)
                for mirror in mirrors
                if mirror.serves(reference)
            ),
            PullSource(self._relocate(reference, self.location), self.insecure),
        )

    def _relocate(self, reference: Reference, location: str) -> Reference:
        key = f'registry with prefix "{self.prefix}"'
        try:
            relocated = rewrite_reference(reference, self.prefix, location)
        except InvalidReferenceError as error:
            reason = f"cannot lead {reference} to location {location!r}: {error}"
            raise ConfigurationError(self.file, reason, key=key) from error
        if relocated.is_name_only and not reference.is_name_only:
            reason = f"cannot lead {reference} to location {location!r}, which says neither tag nor digest"
            remedy = "a prefix with a tag or digest needs a location with one, too"
            raise ConfigurationError(self.file, reason, key=key, remedy=remedy)
        return relocated


class Registries(Struct, frozen=True):
    """The whole configuration, merged; ``registries`` are sorted by prefix and no two have the same."""

    registries: tuple[Registry, ...] = ()
    unqualified_search_registries: tuple[str, ...] = ()
    short_name_mode: ShortNameMode = "permissive"
    aliases: Mapping[str, Reference] = field(default_factory=lambda: MappingProxyType({}))
    credential_helpers: tuple[str, ...] = (AUTH_FILES,)

    def find_registry(self, reference: Reference) -> Registry | None:
        """The table with the longest prefix that matches; of equally long ones, as in podman, the wildcard."""
        name = str(reference)
        matching = (registry for registry in self.registries if match_prefix(name, registry.prefix) is not None)
        return max(matching, key=lambda registry: len(registry.prefix), default=None)

    def pull_sources(self, reference: Reference) -> tuple[PullSource, ...]:
        """The places to try for ``reference``, in order; at least one.

        ``blocked`` forbids to contact a place, not to have the image: the location of a blocked table is left out, and
        so is every place, mirror or rewritten location, that another table blocks under its own name. What remains are
        the mirrors that a site forces its hosts to use. If nothing remains: :class:`RegistryBlockedError`, since it is
        the administrator's rule, not a failure. (containers/image contacts the rewritten location of a blocked prefix;
        its manual page forbids that, and so do we.)
        """
        registry = self.find_registry(reference)
        if registry is None:
            return (PullSource(reference),)
        sources = registry.pull_sources(reference)
        blocking = [self._find_blocking(source, registry) for source in sources]
        usable = tuple(source for source, blocked in zip(sources, blocking, strict=True) if blocked is None)
        if not usable:
            tables = dict.fromkeys(table for table in blocking if table is not None)
            reasons = tuple(f'{table.file}: the registry with prefix "{table.prefix}" is blocked' for table in tables)
            raise RegistryBlockedError(
                f"{reference}: every place that it could come from is blocked ({'; '.join(reasons)})", reasons
            )
        return usable

    def _find_blocking(self, source: PullSource, registry: Registry) -> Registry | None:
        """The table that forbids to contact a place that ``registry`` names, if any."""
        if registry.blocked and not source.is_mirror:
            return registry
        there = self.find_registry(source.reference)
        return there if there is not None and there.blocked else None


def match_prefix(name: str, prefix: str) -> int | None:
    """How many characters of an image's full name ``prefix`` covers; None if it does not match.

    A prefix ends where a component ends, except that ``example.com`` covers ``example.com:5000`` as well.
    ``*.example.com`` covers the host of any subdomain, at any depth.
    """
    if prefix.startswith(WILDCARD):
        host = _HOST.match(name)
        return host.end() if host and host[0].endswith(prefix[1:]) else None
    end = len(prefix)
    return end if name.startswith(prefix) and name[end : end + 1] in _SEPARATORS else None


def rewrite_reference(reference: Reference, prefix: str, location: str) -> Reference:
    """``reference`` with ``location`` in place of what ``prefix`` covers; a wildcard without location changes nothing.

    :class:`InvalidReferenceError` if the result is not a full reference: nothing is completed, so that no image comes
    from Docker Hub because a location lacks a dot.
    """
    name = str(reference)
    length = match_prefix(name, prefix)
    if length is None:
        raise InvalidReferenceError(f"prefix {prefix!r} does not match {name}")
    if not location and prefix.startswith(WILDCARD):
        return reference
    text = location + name[length:]
    rewritten = parse_reference(text)
    if str(rewritten) != text:
        raise InvalidReferenceError(f"{text!r} is not a full reference (it would be read as {rewritten})")
    return rewritten
