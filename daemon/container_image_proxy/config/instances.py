"""Instance files: which images an instance serves, to whom, and with which of the system's configuration
(``NAME.toml``).

Searched in /etc, /run and /usr/lib below ``container-image-proxy/``, the first found wins; ``NAME.toml.d/*.toml`` of
all three are merged over it in the order of their names, where a file in an earlier directory hides its namesake in a
later one. A symbolic link to /dev/null hides a file, too. Documented in container-image-proxy.toml(5).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct, field

from container_image_proxy.config.access import AccessRule, owner_access, resolve_groups, resolve_users
from container_image_proxy.config.engine import parse_engine_host
from container_image_proxy.config.locations import exists, list_files
from container_image_proxy.config.obstacle import unreadable
from container_image_proxy.config.toml_table import TomlDocument, TomlTable, merge_documents, parse_toml
from container_image_proxy.config.trusted_file import load_trusted_file
from container_image_proxy.errors import ConfigurationError, InvalidPlatformError, InvalidReferenceError, remedied_by
from container_image_proxy.image.platform import Platform, host_platform, parse_platform
from container_image_proxy.image.reference import is_domain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DIRECTORIES: Final = tuple(Path(parent, "container-image-proxy") for parent in ("/etc", "/run", "/usr/lib"))
COMMAND_LINE: Final = "command line"
"""What stands for the file where no file says it."""
DEFAULT_FRESH_FOR: Final = 1.0
DEFAULT_IDLE_EXIT: Final = 300.0
DEFAULT_VERIFICATION_TIMEOUT: Final = 30.0
"""A sound signature takes some milliseconds; a key ring of 5,000 keys, read for the first time, half of this."""
DEFAULT_SPOOL_LIMIT: Final = 32 << 30
"""Bytes. Larger images are rare, and what has room for one is rarely larger."""
MAX_SPOOL_LIMIT: Final = 1 << 30
"""GiB; a file has fewer."""
_MAX_FILE: Final = 1 << 20
_REMEDY: Final = "write it as container-image-proxy.toml(5) says"
_IMAGE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_IMAGE_NAME_RULE: Final = "1 to 64 letters, digits, '.', '_' or '-', of which the first is a letter or digit"
# The unit's user is cip-NAME, and systemd takes user names of at most 31 characters (systemd.exec(5), User=).
_INSTANCE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,26}")
_INSTANCE_NAME_RULE: Final = "1 to 27 letters, digits, '_' or '-', of which the first is a letter or digit"


class ImageSettings(Struct, frozen=True):
    """One image of an instance. ``fresh_for`` is in seconds; ``file`` and ``key`` say where the reference stands."""

    name: str
    reference: str
    platform: Platform
    fresh_for: float
    access: AccessRule
    file: str
    key: str


class RegistrySettings(Struct, frozen=True):
    """Where the ecosystem's files are, if not in their usual places; ``tls_verify`` None leaves it to them.

    The last two are of skopeo's command line alone: what registries are told of who asks, and where ``oci:`` layouts
    have their blobs.
    """

    authfile: Path | None = None
    cert_dir: Path | None = None
    registries_conf: Path | None = None
    registries_conf_dir: Path | None = None
    tls_verify: bool | None = None
    token_realms: tuple[str, ...] = ()
    user_agent_prefix: str = ""
    shared_blob_dir: Path | None = None


class TrustSettings(Struct, frozen=True):
    """Which policy decides, how strictly, and for how many seconds."""

    policy: Path | None = None
    registries_d: Path | None = None
    require_instance_signature: bool = False
    accept_unnamed_bundles: bool = False
    verification_timeout: float = DEFAULT_VERIFICATION_TIMEOUT
    insecure_policy: bool = False


class SourceSettings(Struct, frozen=True):
    """Where images on this host are unpacked if they have to be, how many bytes that may take, and where the Docker
    daemon is.
    """

    cache_dir: Path | None = None
    spool_limit: int = DEFAULT_SPOOL_LIMIT
    daemon_host: str | None = None
    daemon_cert_dir: Path | None = None


class InstanceSettings(Struct, frozen=True):
    """Everything that an instance file says; ``default`` is None if several images have no default, ``idle_exit`` is in
    seconds.
    """

    name: str
    file: str
    images: Mapping[str, ImageSettings]
    default: str | None
    registry: RegistrySettings = field(default_factory=RegistrySettings)
    trust: TrustSettings = field(default_factory=TrustSettings)
    sources: SourceSettings = field(default_factory=SourceSettings)
    idle_exit: float = DEFAULT_IDLE_EXIT

    def deviations(self) -> dict[str, object]:
        """What ``[registry]``, ``[trust]`` and ``[sources]`` say that is not so by default, by key."""
        sections = {
            "registry": (self.registry, RegistrySettings()),
            "trust": (self.trust, TrustSettings()),
            "sources": (self.sources, SourceSettings()),
        }
        return {
            f"{name}.{member.replace('_', '-')}": getattr(section, member)
            for name, (section, default) in sections.items()
            for member in section.__struct_fields__
            if getattr(section, member) != getattr(default, member)
        }


def load_instance(name: str, directories: Sequence[Path] = DIRECTORIES, *, uid: int) -> InstanceSettings:
    """Read ``NAME.toml`` and its drop-ins from ``directories``, the first of which counts most.

    ``uid`` is the daemon's own, which may connect where the file does not say who may.
    """
    if not _INSTANCE_NAME.fullmatch(name):
        raise ConfigurationError(f"instance {name[:100]!r}", "not an instance name", remedy=_INSTANCE_NAME_RULE)
    with remedied_by("see container-image-proxy.toml(5)"):
        return parse_instance(name, _load_document(name, directories), uid=uid)


def find_instances(directories: Sequence[Path] = DIRECTORIES) -> tuple[str, ...]:
    """The names of all instances that have a file in ``directories`` and are not masked."""
    found: dict[str, Path] = {}
    for directory in reversed(directories):
        found |= {file.stem: file for file in list_files(directory) if file.suffix == ".toml"}
    return tuple(sorted(name for name, file in found.items() if not _is_mask(file)))


def _load_document(name: str, directories: Sequence[Path]) -> TomlDocument:
    main = next((path for path in (directory / f"{name}.toml" for directory in directories) if _is_there(path)), None)
    if main is None or _is_mask(main):
        places = ", ".join(str(directory) for directory in directories)
        reason = "masked by a link to /dev/null" if main else f"no such file in {places}"
        raise ConfigurationError(str(main or f"{name}.toml"), reason, remedy=_REMEDY)
    drop_ins: dict[str, Path] = {}
    for directory in reversed(directories):
        drop_ins |= {path.name: path for path in list_files(directory / f"{name}.toml.d") if path.suffix == ".toml"}
    files = [main, *(drop_ins[key] for key in sorted(drop_ins) if not _is_mask(drop_ins[key]))]
    return merge_documents([(str(path), parse_toml(_read(path), str(path))) for path in files])


def _is_there(path: Path) -> bool:
    """Whether there is a file or a link, even one that leads nowhere: the next directory must not stand in for it."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise unreadable(path, error) from error
    return True


def _is_mask(path: Path) -> bool:
    return path.is_symlink() and os.path.realpath(path) == "/dev/null"


def _read(path: Path) -> bytes:
    return load_trusted_file(path, limit=_MAX_FILE, refuse_writable_by_others=True)


def parse_instance(name: str, document: TomlDocument, *, uid: int) -> InstanceSettings:
    """Frozen settings from a merged document; :class:`ConfigurationError` for the first thing that is wrong with it."""
    root = TomlTable.root(document)
    access = _read_access(root.table("access"), owner_access(uid))
    images = {key: _read_image(key, table, root, access) for key, table in root.table("images").tables().items()}
    idle_exit = root.number("idle-exit")
    settings = InstanceSettings(
        name=name,
        file=document.file,
        images=images,
        default=_read_default(root, images),
        registry=_read_registry(root.table("registry")),
        trust=_read_trust(root.table("trust")),
        sources=_read_sources(root.table("sources")),
        idle_exit=DEFAULT_IDLE_EXIT if idle_exit is None else idle_exit,
    )
    root.finish()
    return settings


def _read_default(root: TomlTable, images: Mapping[str, ImageSettings]) -> str | None:
    if not images:
        raise root.error("images", "no image is declared", remedy='add [images.NAME] with reference = "docker://..."')
    default = root.get("default", str)
    if default is not None and default not in images:
        raise root.error("default", f"there is no image {default!r}", remedy=f"one of: {', '.join(images)}")
    return default if default is not None or len(images) > 1 else next(iter(images))


def is_image_name(name: str) -> bool:
    """Whether an image of an instance can have that name."""
    return _IMAGE_NAME.fullmatch(name) is not None


def _read_image(name: str, table: TomlTable, root: TomlTable, access: AccessRule) -> ImageSettings:
    if not is_image_name(name):
        raise root.error("images", f"{name!r} is not an image name", remedy=_IMAGE_NAME_RULE)
    reference, fresh_for, platform = table.get("reference", str), table.number("fresh-for"), _read_platform(table)
    access = _read_access(table.table("access"), access)
    table.finish()  # before anything is missed that is only mistyped
    if reference is None:
        raise table.error("reference", "missing", remedy='for example "docker://quay.io/example/os:latest"')
    fresh_for = DEFAULT_FRESH_FOR if fresh_for is None else fresh_for
    return ImageSettings(name, reference, platform, fresh_for, access, *table.place("reference"))


def _read_platform(table: TomlTable) -> Platform:
    text = table.get("platform", str)
    if text is None:
        return host_platform()
    try:
        return parse_platform(text)
    except InvalidPlatformError as error:
        raise table.error("platform", str(error)) from error


def _read_access(table: TomlTable, default: AccessRule) -> AccessRule:
    """An access table replaces the default as a whole as soon as it has a list, be it empty."""
    users, groups = table.array("users", (str, int)), table.array("groups", (str, int))
    table.finish()
    if users is None and groups is None:
        return default
    return AccessRule(
        resolve_users(users or (), *table.place("users")),
        resolve_groups(groups or (), *table.place("groups")),
    )


def _read_registry(table: TomlTable) -> RegistrySettings:
    settings = RegistrySettings(
        authfile=_read_path(table, "authfile"),
        cert_dir=_read_path(table, "cert-dir"),
        registries_conf=_read_path(table, "registries-conf"),
        registries_conf_dir=_read_path(table, "registries-conf-dir"),
        tls_verify=table.get("tls-verify", bool),
        token_realms=table.array("token-realms", (str,)) or (),
    )
    table.finish()
    for realm in settings.token_realms:
        if not is_domain(realm):
            raise table.error("token-realms", f"{realm!r} is not the host or host:port of a token service")
    return settings


def verify_paths(settings: InstanceSettings) -> None:
    """Raise :class:`ConfigurationError` if a file or directory that the settings name is not there.

    To some readers an absent directory is an empty one, and mirrors, blocks or signature stores would be missed.
    """
    for key, value in settings.deviations().items():
        if isinstance(value, Path) and not exists(value):
            remedy = "make it, or name another one"
            raise ConfigurationError(settings.file, f"{value} does not exist", key=key, remedy=remedy)


def _read_trust(table: TomlTable) -> TrustSettings:
    seconds = table.number("verification-timeout")
    if seconds == 0:
        raise table.error("verification-timeout", "must be more than 0 seconds")
    settings = TrustSettings(
        policy=_read_path(table, "policy"),
        registries_d=_read_path(table, "registries-d"),
        require_instance_signature=table.get("require-instance-signature", bool) or False,
        accept_unnamed_bundles=table.get("accept-unnamed-bundles", bool) or False,
        verification_timeout=DEFAULT_VERIFICATION_TIMEOUT if seconds is None else seconds,
    )
    table.finish()
    return settings


def _read_sources(table: TomlTable) -> SourceSettings:
    limit = table.get("spool-limit", int)
    if limit is not None and not 0 < limit < MAX_SPOOL_LIMIT:
        raise table.error("spool-limit", "must be a number of GiB, 1 or more")
    settings = SourceSettings(
        cache_dir=_read_path(table, "cache-dir"),
        spool_limit=DEFAULT_SPOOL_LIMIT if limit is None else limit << 30,
        daemon_host=table.get("daemon-host", str),
        daemon_cert_dir=_read_path(table, "daemon-cert-dir"),
    )
    table.finish()
    if settings.daemon_host is not None:
        try:
            parse_engine_host(settings.daemon_host)
        except InvalidReferenceError as error:
            raise table.error("daemon-host", str(error)) from error
    return settings


def _read_path(table: TomlTable, key: str) -> Path | None:
    text = table.get(key, str)
    if text is None:
        return None
    if not text.startswith("/") or "\0" in text:
        raise table.error(key, "must be an absolute path")
    return Path(text)
