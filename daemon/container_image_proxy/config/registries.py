"""The registries configuration: where an image is pulled from, and which registries are blocked.

Values and their lookups; ``registries_conf`` reads the files. containers-registries.conf(5), "Choosing a [[registry]]
TOML table" and "Remapping and mirroring registries".
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
AUTH_FILES: Final = "containers-auth.json"  # the "credential helper" that means the files of credentials
WILDCARD: Final = "*."
_HOST: Final = re.compile(r"[^/:@]*")
_SEPARATORS: Final = frozenset({"", "/", ":", "@"})  # what can follow a prefix; "" is the end of the name


class Mirror(Struct, frozen=True):
    """A mirror: its location (``host[:port][/path]``) and the pulls that it serves."""

    location: str
    insecure: bool = False
    pull_from_mirror: PullFromMirror = "all"

    def serves(self, reference: Reference) -> bool:
        """Whether this mirror serves pulls of ``reference``, which has a digest or not."""
        return self.pull_from_mirror != ("digest-only" if reference.digest is None else "tag-only")


class PullSource(Struct, frozen=True):
    """One place to pull from. ``reference`` is rewritten to this place; ``insecure`` is about this place only."""

    reference: Reference
    insecure: bool = False
    is_mirror: bool = False

    @property
    def domain(self) -> str:
        """``host[:port]`` of the registry to contact, by which its credentials and certificates are found."""
        return self.reference.domain


class Registry(Struct, frozen=True):
    """A ``[[registry]]`` table of ``file``. ``location`` is "" if a wildcard prefix rewrites nothing."""

    prefix: str
    location: str
    insecure: bool = False
    blocked: bool = False
    mirrors: tuple[Mirror, ...] = ()
    mirror_by_digest_only: bool = False
    file: str = ""

    def pull_sources(self, reference: Reference) -> tuple[PullSource, ...]:
        """All places of this table for ``reference``, blocked or not: the mirrors in their order, then the location.

        :class:`ConfigurationError` if the rewritten name of one of them is no reference.
        """
        # A tag could be another image on a mirror; a digest verifies what the mirror sends.
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
    """The merged configuration. ``registries`` are sorted by prefix, and no two have the same prefix."""

    registries: tuple[Registry, ...] = ()
    unqualified_search_registries: tuple[str, ...] = ()
    short_name_mode: ShortNameMode = "permissive"
    aliases: Mapping[str, Reference] = field(default_factory=lambda: MappingProxyType({}))
    credential_helpers: tuple[str, ...] = (AUTH_FILES,)

    def find_registry(self, reference: Reference) -> Registry | None:
        """The table with the longest matching prefix; of prefixes of the same length the wildcard, as in podman."""
        name = str(reference)
        matching = (registry for registry in self.registries if match_prefix(name, registry.prefix) is not None)
        # max() returns the first of several, and "*" sorts before all characters of a host.
        return max(matching, key=lambda registry: len(registry.prefix), default=None)

    def pull_sources(self, reference: Reference) -> tuple[PullSource, ...]:
        """The places to try for ``reference``, in order; at least one.

        ``blocked`` forbids to contact a place, not to have the image. The location of a blocked table is left out, and
        so is each mirror or location that another table blocks by name. What remains are the mirrors that a site wants
        its hosts to use. :class:`RegistryBlockedError` if nothing remains.
        """
        # containers/image contacts the rewritten location of a blocked prefix. Its manual page forbids that.
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
        """The table that forbids to contact ``source``, a place of ``registry``; None if it may be contacted."""
        if registry.blocked and not source.is_mirror:
            return registry
        there = self.find_registry(source.reference)
        return there if there is not None and there.blocked else None


def match_prefix(name: str, prefix: str) -> int | None:
    """How many characters of an image's full ``name`` the ``prefix`` covers; None if it does not match.

    A prefix ends at the end of a component, but ``example.com`` also covers ``example.com:5000``. ``*.example.com``
    covers the host of any subdomain, at any depth.
    """
    if prefix.startswith(WILDCARD):
        host = _HOST.match(name)
        return host.end() if host and host[0].endswith(prefix[1:]) else None
    end = len(prefix)
    return end if name.startswith(prefix) and name[end : end + 1] in _SEPARATORS else None


def rewrite_reference(reference: Reference, prefix: str, location: str) -> Reference:
    """``reference`` with ``location`` in place of ``prefix``; unchanged for a wildcard without a location.

    :class:`InvalidReferenceError` if the result is not a full reference.
    """
    name = str(reference)
    length = match_prefix(name, prefix)
    if length is None:
        raise InvalidReferenceError(f"prefix {prefix!r} does not match {name}")
    if not location and prefix.startswith(WILDCARD):
        return reference
    text = location + name[length:]
    rewritten = parse_reference(text)
    # Nothing is completed: a location without a dot in its host must not lead to Docker Hub.
    if str(rewritten) != text:
        raise InvalidReferenceError(f"{text!r} is not a full reference (it would be read as {rewritten})")
    return rewritten
