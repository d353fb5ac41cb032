"""Reads registries.conf and its drop-ins into :class:`Registries`, in both formats of containers-registries.conf(5).

Files are merged as containers-registries.conf.d(5) says: a ``[[registry]]`` of a later file replaces the one with the
same prefix, a list or mode replaces the earlier one, aliases are added, and an empty alias removes one. Within one file
the first ``[[registry]]`` with a prefix counts. Keys are matched without regard to case, as in other tools. Unknown
keys cause a warning and are ignored, so that a file for a newer podman works. Any other mistake is an error.
"""

from __future__ import annotations

import logging
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self

from msgspec import Struct, field
from msgspec.structs import astuple, replace

from container_image_proxy.config.locations import ROOT, find_registries_files
from container_image_proxy.config.registries import (
    AUTH_FILES,
    WILDCARD,
    Mirror,
    PullFromMirror,
    Registries,
    Registry,
    ShortNameMode,
)
from container_image_proxy.config.short_names import parse_alias_target, parse_short_name
from container_image_proxy.config.toml_document import parse_toml
from container_image_proxy.config.trusted_file import load_trusted_file, load_trusted_file_if_present
from container_image_proxy.errors import InvalidReferenceError, MalformedDocumentError, blamed_on, shown
from container_image_proxy.image.documents import TOML, Strict, Written, convert
from container_image_proxy.image.reference import Reference, is_domain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from container_image_proxy.errors import KeyPath

_log = logging.getLogger(__name__)
_MAX_FILE: Final = 1 << 20
"""Bytes of a file, which is held in memory while it is read. Files of distributions have 10 KiB."""


class RegistriesConf(Struct, frozen=True):
    """The content of one file. None means that a setting is absent; an alias of None removes the alias."""

    registries: tuple[Registry, ...] = ()
    unqualified_search_registries: tuple[str, ...] | None = None
    credential_helpers: tuple[str, ...] | None = None
    short_name_mode: ShortNameMode | None = None
    aliases: Mapping[str, Reference | None] = field(default_factory=lambda: MappingProxyType({}))


def load_registries(
    *,
    path: Path | None = None,
    directory: Path | None = None,
    environ: Mapping[str, str],
    home: Path,
    uid: int,
    root: Path = ROOT,
    learned_aliases: bool = True,
) -> Registries:
    """The configuration for the user ``uid``; ``path`` and ``directory`` are options that replace the default places.

    Only a file that ``path`` or CONTAINERS_REGISTRIES_CONF names must exist. System paths are below ``root``. Aliases
    that users of podman chose are read only with ``learned_aliases``, which is for instances with short names: that
    file may be unreadable (contrib/adr/0016). :class:`ConfigurationError` about the first mistake.
    """
    files = find_registries_files(path=path, directory=directory, environ=environ, home=home, uid=uid, root=root)
    if files.main_is_required:
        main = load_trusted_file(files.main, limit=_MAX_FILE)
    else:
        main = load_trusted_file_if_present(files.main, limit=_MAX_FILE, restricts=True) or b""
    learned = None
    if learned_aliases:
        learned = load_trusted_file_if_present(files.short_name_aliases, limit=_MAX_FILE, restricts=True)
    return merge_registries(
        (
            parse_registries(main, str(files.main)),
            *(
                parse_registries(load_trusted_file(file, limit=_MAX_FILE), str(file), is_drop_in=True)
                for file in files.drop_ins
            ),
            # Of this file, which podman writes, nothing else counts.
            RegistriesConf(aliases=parse_registries(learned or b"", str(files.short_name_aliases)).aliases),
        )
    )


def merge_registries(parts: Iterable[RegistriesConf]) -> Registries:
    """The configuration of several files, of which later ones take precedence."""
    tables: dict[str, Registry] = {}
    aliases: dict[str, Reference | None] = {}
    searched: tuple[str, ...] = ()
    helpers: tuple[str, ...] = (AUTH_FILES,)
    mode: ShortNameMode = "permissive"
    for part in parts:
        tables |= {registry.prefix: registry for registry in reversed(part.registries)}  # the first of a file counts
        aliases |= part.aliases
        searched = searched if part.unqualified_search_registries is None else part.unqualified_search_registries
        helpers = helpers if part.credential_helpers is None else part.credential_helpers or (AUTH_FILES,)
        mode = part.short_name_mode or mode
    return Registries(
        registries=tuple(tables[prefix] for prefix in sorted(tables)),
        unqualified_search_registries=searched,
        short_name_mode=mode,
        aliases=MappingProxyType({name: target for name, target in aliases.items() if target is not None}),
        credential_helpers=helpers,
    )


class Location(str):
    """A prefix or location, without slashes at its end."""

    __slots__ = ()
    WRITTEN: ClassVar[Any] = str

    @classmethod
    def read(cls, text: str) -> Self:
        """The location in ``text``; :class:`MalformedDocumentError` if it is a URL."""
        if "://" in text:
            raise MalformedDocumentError(f"{shown(text)} is a URL; write host[:port][/path] alone")
        return cls(text.rstrip("/"))


class _Domain(str):
    __slots__ = ()
    WRITTEN: ClassVar[Any] = str

    @classmethod
    def read(cls, text: str) -> Self:
        if not is_domain(text.rstrip("/")):
            raise MalformedDocumentError(f"{shown(text)} is not host[:port]")
        return cls(text.rstrip("/"))


class _Mirror(Written, frozen=True, rename="kebab"):
    location: Location = Location()
    insecure: bool = False
    pull_from_mirror: PullFromMirror | Literal[""] = ""

    def read(self) -> Mirror:
        if not self.location:
            raise MalformedDocumentError("missing", ("location",), remedy="a mirror is host[:port][/path]")
        return Mirror(self.location, self.insecure, self.pull_from_mirror or "all")


class _Registry(Written, frozen=True, rename="kebab"):
    location: Location = Location()
    prefix: Location = Location()
    insecure: bool = False
    blocked: bool = False
    mirror: tuple[_Mirror, ...] = ()
    mirror_by_digest_only: bool = False
    pull_from_mirror: str = ""

    def read(self) -> Registry:
        is_wildcard = self.prefix.startswith(WILDCARD)
        if not self.location and not is_wildcard:
            remedy = 'only a prefix "*.example.com" can do without'
            raise MalformedDocumentError("missing", ("location",), remedy=remedy)
        if is_wildcard and any(separator in self.prefix for separator in "/:@"):
            reason = f'{self.prefix!r}: a wildcard stands for hosts only, as in "*.example.com"'
            raise MalformedDocumentError(reason, ("prefix",))
        if self.pull_from_mirror:
            raise MalformedDocumentError("belongs to a [[registry.mirror]]", ("pull-from-mirror",))
        for number, mirror in enumerate(self.mirror, 1):
            if self.mirror_by_digest_only and mirror.pull_from_mirror:
                reason = "cannot be combined with the registry's mirror-by-digest-only"
                raise MalformedDocumentError(reason, ("mirror", number, "pull-from-mirror"))
        return Registry(
            prefix=self.prefix or self.location,
            location=self.location,
            insecure=self.insecure,
            blocked=self.blocked,
            mirrors=tuple(mirror.read() for mirror in self.mirror),
            mirror_by_digest_only=self.mirror_by_digest_only,
        )


class _List(Strict, frozen=True):
    registries: tuple[Location, ...] | None = None


class _Lists(Strict, frozen=True):
    """The tables of format version 1. A file is of version 1 if it has any of these lists, even an empty one."""

    search: _List = _List()
    insecure: _List = _List()
    block: _List = _List()


class _File(Strict, frozen=True, rename="kebab"):
    """A file of either version; ``registries`` belongs to version 1, everything else to version 2."""

    registry: tuple[_Registry, ...] = ()
    unqualified_search_registries: tuple[_Domain, ...] | None = None
    credential_helpers: tuple[str, ...] | None = None
    short_name_mode: ShortNameMode | Literal[""] = ""
    aliases: dict[str, Any] = field(default_factory=dict)
    registries: _Lists = _Lists()
    additional_layer_store_auth_helper: Any = None  # another program's


_TABLES: Final[Mapping[str, type[Struct]]] = {
    "registry": _Registry, "mirror": _Mirror, "registries": _Lists, "search": _List, "insecure": _List, "block": _List,
}  # fmt: skip
"""The types of nested tables, by key. :func:`_fold` needs them to fold the keys of those tables."""


def parse_registries(raw: bytes, file: str, *, is_drop_in: bool = False) -> RegistriesConf:
    """The content of one file, of either version; :class:`ConfigurationError` for a drop-in of version 1."""
    values = parse_toml(raw, file)
    with blamed_on(file):
        folded = _fold(values, _File, (), file)
        written = convert(folded, _File, (), TOML)
        version_2 = _read_version_2(written, file)
        if all(one.registries is None for one in astuple(written.registries)):
            return version_2
        if is_drop_in:
            reason = "a drop-in must have the format of version 2"
            raise MalformedDocumentError(reason, ("registries",), remedy="use [[registry]] tables")
        if any(value != "" for key, value in folded.items() if key != "registries"):
            reason = "versions 1 and 2 of the format are mixed"
            raise MalformedDocumentError(reason, ("registries",), remedy="use [[registry]] tables only")
        return _read_version_1(written.registries, file)


def _fold(table: dict[str, Any], kind: type[Struct], path: KeyPath, file: str) -> dict[str, Any]:
    """The table with the keys that ``kind`` declares, in lower case. Others are left out, with a warning.

    :class:`MalformedDocumentError` for two spellings of one key, of which different readers would use different ones.
    """
    folded: dict[str, Any] = {}
    for key, value in table.items():
        name, place = key.lower(), (*path, key)
        if name in folded:
            reason = "is in the table twice, in different spellings of upper and lower case"
            raise MalformedDocumentError(reason, place)
        if name not in kind.__struct_encode_fields__:
            _log.warning("%s: %s", file, MalformedDocumentError("unknown key, ignored", place))
            continue
        below = _TABLES.get(name)
        if below is not None and isinstance(value, dict):
            folded[name] = _fold(value, below, (*path, name), file)
        elif below is not None and isinstance(value, list):
            items = enumerate(value, 1)
            folded[name] = [
                _fold(one, below, (*path, name, n), file) if isinstance(one, dict) else one for n, one in items
            ]
        else:
            folded[name] = value
    return folded


def _read_version_1(lists: _Lists, file: str) -> RegistriesConf:
    searched, insecure, blocked = (one.registries or () for one in astuple(lists))
    places = dict.fromkeys((*insecure, *blocked))
    return RegistriesConf(
        registries=tuple(Registry(place, place, place in insecure, place in blocked, file=file) for place in places),
        unqualified_search_registries=tuple(convert(searched, tuple[_Domain, ...], ("registries", "search"), TOML)),
    )


def _read_version_2(written: _File, file: str) -> RegistriesConf:
    registries = tuple(replace(table.read(), file=file) for table in written.registry)
    # Tables of one place must agree about these two, as in containers/image.
    first: dict[str, Registry] = {}
    for registry in registries:
        place = registry.location or registry.prefix
        other = first.setdefault(place, registry)
        for key in ("blocked", "insecure"):
            if getattr(registry, key) != getattr(other, key):
                reason = f"{place!r} is defined several times with different values of {key!r}"
                raise MalformedDocumentError(reason, ("registry",))
    aliases: dict[str, Reference | None] = {}
    for name, value in written.aliases.items():
        path = ("aliases", name)
        target = convert(value, str, path, TOML)
        try:
            aliases[parse_short_name(name)] = parse_alias_target(target) if target else None
        except InvalidReferenceError as error:
            raise MalformedDocumentError(str(error), path) from error
    return RegistriesConf(
        registries=registries,
        unqualified_search_registries=written.unqualified_search_registries,
        credential_helpers=written.credential_helpers,
        short_name_mode=written.short_name_mode or None,
        aliases=MappingProxyType(aliases),
    )
