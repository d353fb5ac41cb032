"""registries.conf and its drop-ins: bytes into :class:`Registries`. Both formats of containers-registries.conf(5).

Later files change what earlier ones say as containers-registries.conf.d(5) orders it: a ``[[registry]]`` replaces the
one with the same prefix, a list or mode replaces the list or mode, aliases are added, and an empty alias removes one.
Within one file the first ``[[registry]]`` with a prefix counts. Keys are matched without regard to case, as other tools
do, and unknown keys are warned of and ignored, so that a file written for a newer podman still works; anything else
that is wrong is an error that names file and key.
"""

from __future__ import annotations

import logging
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeVar, get_args

from msgspec import Struct, field

from container_image_proxy.config.locations import ROOT, find_registries_files
from container_image_proxy.config.registries import (
    AUTH_FILES,
    WILDCARD,
    Endpoint,
    PullFromMirror,
    Registries,
    Registry,
    ShortNameMode,
)
from container_image_proxy.config.short_names import parse_alias_target, parse_short_name
from container_image_proxy.config.toml_table import TomlDocument, TomlTable, parse_toml
from container_image_proxy.config.trusted_file import load_trusted_file, load_trusted_file_if_present
from container_image_proxy.errors import InvalidReferenceError
from container_image_proxy.image.reference import Reference, is_domain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_log = logging.getLogger(__name__)
_Choice = TypeVar("_Choice", bound=str)
_MAX_FILE: Final = 1 << 20
_MIRROR_USES: Final[Mapping[str, PullFromMirror]] = {use: use for use in get_args(PullFromMirror)}
_MODES: Final[Mapping[str, ShortNameMode]] = {mode: mode for mode in get_args(ShortNameMode)}
_ELSEWHERE: Final = ("additional-layer-store-auth-helper",)  # keys of other programs, known to be none of our business
_VERSION_2_KEYS: Final = (
    *("registry", "unqualified-search-registries", "credential-helpers", "short-name-mode", "aliases"),
    *_ELSEWHERE,
)


class RegistriesConf(Struct, frozen=True):
    """What one file says. None: it does not say; an alias of None removes the alias."""

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
    """Find, read and merge all files for the user ``uid``; ``path`` and ``directory`` are the command line's.

    Only a file that ``path`` or ``CONTAINERS_REGISTRIES_CONF`` names has to exist. System paths are below ``root``.
    The aliases that podman's users chose are read if ``learned_aliases``: who resolves no short name needs none.
    """
    files = find_registries_files(path=path, directory=directory, environ=environ, home=home, uid=uid, root=root)
    load_main = load_trusted_file if files.main_is_required else load_trusted_file_if_present
    main = load_main(files.main, limit=_MAX_FILE) or b""
    learned = load_trusted_file_if_present(files.short_name_aliases, limit=_MAX_FILE) if learned_aliases else None
    return merge_registries(
        (
            parse_registries(main, str(files.main)),
            *(
                parse_registries(load_trusted_file(file, limit=_MAX_FILE), str(file), is_drop_in=True)
                for file in files.drop_ins
            ),
            RegistriesConf(aliases=parse_registries(learned or b"", str(files.short_name_aliases)).aliases),
        )
    )


def merge_registries(parts: Iterable[RegistriesConf]) -> Registries:
    """The configuration that the files make together, in the order given."""
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


def parse_registries(raw: bytes, file: str, *, is_drop_in: bool = False) -> RegistriesConf:
    """Read one file of either format, a drop-in only of the second; :class:`ConfigurationError` if it is wrong."""
    root = _fold(TomlTable.root(TomlDocument(file, parse_toml(raw, file), {})))
    version_1 = _read_version_1(root)
    version_2 = _read_version_2(root)
    _warn_of_unknown(root)
    if version_1 is None:
        return version_2
    if is_drop_in:
        raise root.error("registries", "a drop-in must have the format of version 2", remedy="use [[registry]] tables")
    if any(root.values.get(key) not in (None, "") for key in _VERSION_2_KEYS):
        raise root.error(
            "registries", "versions 1 and 2 of the format are mixed", remedy="use [[registry]] tables only"
        )
    return version_1


def parse_location(text: str) -> str:
    """A prefix or location without trailing slashes; ValueError if it is a URL."""
    if "://" in text:
        raise ValueError(f"{text!r} is a URL; write host[:port][/path] alone")
    return text.rstrip("/")


# --- version 2 ------------------------------------------------------------------------------------------------------


def _read_version_2(root: TomlTable) -> RegistriesConf:
    registries = tuple(_read_registry(_fold(table)) for table in root.table_array("registry"))
    _refuse_conflicts(root, registries)
    searched = root.array("unqualified-search-registries", (str,))
    return RegistriesConf(
        registries=registries,
        unqualified_search_registries=None if searched is None else _read_search(root, searched),
        credential_helpers=root.array("credential-helpers", (str,)),
        short_name_mode=_read_choice(root, "short-name-mode", _MODES),
        aliases=_read_aliases(root.table("aliases")),
    )


def _read_registry(table: TomlTable) -> Registry:
    location, prefix = _read_location(table, "location"), _read_location(table, "prefix")
    if not location and not prefix.startswith(WILDCARD):
        raise table.error("location", "missing", remedy='only a prefix "*.example.com" can do without')
    if prefix.startswith(WILDCARD) and any(separator in prefix for separator in "/:@"):
        raise table.error("prefix", f'{prefix!r}: a wildcard stands for hosts only, as in "*.example.com"')
    if table.get("pull-from-mirror", str):
        raise table.error("pull-from-mirror", "belongs to a [[registry.mirror]]")
    by_digest_only = table.get("mirror-by-digest-only", bool) or False
    registry = Registry(
        prefix=prefix or location,
        location=location,
        insecure=table.get("insecure", bool) or False,
        blocked=table.get("blocked", bool) or False,
        mirrors=tuple(
            _read_mirror(_fold(mirror), by_digest_only=by_digest_only) for mirror in table.table_array("mirror")
        ),
        mirror_by_digest_only=by_digest_only,
        file=table.document.file,
    )
    _warn_of_unknown(table)
    return registry


def _read_mirror(table: TomlTable, *, by_digest_only: bool) -> Endpoint:
    location, use = _read_location(table, "location"), _read_choice(table, "pull-from-mirror", _MIRROR_USES)
    if not location:
        raise table.error("location", "missing", remedy="a mirror is host[:port][/path]")
    if use is not None and by_digest_only:
        raise table.error("pull-from-mirror", "cannot be combined with the registry's mirror-by-digest-only")
    mirror = Endpoint(location, table.get("insecure", bool) or False, use or "all")
    _warn_of_unknown(table)
    return mirror


def _refuse_conflicts(root: TomlTable, registries: tuple[Registry, ...]) -> None:
    """One place cannot be blocked and free, or insecure and secure, within one file."""
    first: dict[str, Registry] = {}
    for registry in registries:
        place = registry.location or registry.prefix
        other = first.setdefault(place, registry)
        for key in ("blocked", "insecure"):
            if getattr(registry, key) != getattr(other, key):
                raise root.error("registry", f"{place!r} is defined several times with different values of {key!r}")


def _read_aliases(table: TomlTable) -> Mapping[str, Reference | None]:
    aliases: dict[str, Reference | None] = {}
    for name in table.values:
        target = table.get(name, str)
        try:
            aliases[parse_short_name(name)] = parse_alias_target(target) if target else None
        except InvalidReferenceError as error:
            raise table.error(name, str(error)) from error
    return MappingProxyType(aliases)


# --- version 1 ------------------------------------------------------------------------------------------------------


def _read_version_1(root: TomlTable) -> RegistriesConf | None:
    """None if the file has none of the lists; an empty list is one."""
    lists = _fold(root.table("registries"))
    tables = [_fold(lists.table(key)) for key in ("search", "insecure", "block")]
    searched, insecure, blocked = map(_read_list, tables)
    _warn_of_unknown(lists)
    if not any("registries" in table.values for table in tables):
        return None
    places = dict.fromkeys((*insecure, *blocked))
    return RegistriesConf(
        registries=tuple(
            Registry(place, place, place in insecure, place in blocked, file=root.document.file) for place in places
        ),
        unqualified_search_registries=_read_search(root, searched),
    )


def _read_list(table: TomlTable) -> tuple[str, ...]:
    try:
        return tuple(parse_location(text) for text in table.array("registries", (str,)) or ())
    except ValueError as error:
        raise table.error("registries", str(error)) from error


# --- values of both -------------------------------------------------------------------------------------------------


def _read_search(root: TomlTable, entries: tuple[str, ...]) -> tuple[str, ...]:
    domains = tuple(entry.rstrip("/") for entry in entries)
    for domain in domains:
        if not is_domain(domain):
            raise root.error("unqualified-search-registries", f"{domain!r} is not host[:port]")
    return domains


def _read_location(table: TomlTable, key: str) -> str:
    try:
        return parse_location(table.get(key, str) or "")
    except ValueError as error:
        raise table.error(key, str(error)) from error


def _read_choice(table: TomlTable, key: str, choices: Mapping[str, _Choice]) -> _Choice | None:
    text = table.get(key, str)
    if not text:
        return None
    if text not in choices:
        raise table.error(key, f"{text!r} is none of {', '.join(choices)}")
    return choices[text]


def _fold(table: TomlTable) -> TomlTable:
    """The table with its keys in lower case; two spellings of one key mean whatever a reader sees last."""
    folded: dict[str, object] = {}
    for key, value in table.values.items():
        if key.lower() in folded:
            raise table.error(key, "is in the table twice, in different spellings of upper and lower case")
        folded[key.lower()] = value
    return TomlTable(table.document, folded, table.path)


def _warn_of_unknown(table: TomlTable) -> None:
    for key in table.unknown():
        if key not in _ELSEWHERE:
            _log.warning("%s", table.error(key, "unknown key, ignored"))
