"""Instance files (``NAME.toml``): the images that an instance serves, to whom, and with which settings.

NAME.toml is taken from the first of /etc, /run and /usr/lib (below ``container-image-proxy/``) that has it. Then
``NAME.toml.d/*.toml`` of all three directories are merged over it, in the order of their names; of files with the same
name only the one in the earliest directory counts. A symbolic link to /dev/null masks a file. Documented in
container-image-proxy.toml(5).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from msgspec import Struct, field
from msgspec.structs import asdict

from container_image_proxy.config.access import AccessRule, owner_access, resolve_groups, resolve_users
from container_image_proxy.config.engine import parse_engine_host
from container_image_proxy.config.locations import exists, list_files
from container_image_proxy.config.obstacle import unreadable
from container_image_proxy.config.toml_document import TomlDocument, merge_documents, parse_toml
from container_image_proxy.config.trusted_file import load_trusted_file
from container_image_proxy.errors import (
    ConfigurationError,
    InvalidPlatformError,
    InvalidReferenceError,
    MalformedDocumentError,
    remedied_by,
    shown,
)
from container_image_proxy.image.documents import Seconds, Strict
from container_image_proxy.image.platform import Platform, kernel_platform, parse_platform
from container_image_proxy.image.reference import is_domain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DIRECTORIES: Final = tuple(Path(parent, "container-image-proxy") for parent in ("/etc", "/run", "/usr/lib"))
COMMAND_LINE: Final = "command line"
"""The name of the "file" in errors about options."""
DEFAULT_FRESH_FOR: Final = Seconds(1)
DEFAULT_IDLE_EXIT: Final = Seconds(300)
DEFAULT_VERIFICATION_TIMEOUT: Final = Seconds(30)
"""A signature takes some milliseconds; the first import of a key ring of 5,000 keys takes half of this."""
MAX_SPOOL_LIMIT: Final = 1 << 30
"""GiB. No file system has files of this size."""
_MAX_FILE: Final = 1 << 20
"""Bytes of an instance file, which is held in memory while it is read. Hundreds of images take 100 KiB."""
_REMEDY: Final = "write it as container-image-proxy.toml(5) says"
_IMAGE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_IMAGE_NAME_RULE: Final = "1 to 64 letters, digits, '.', '_' or '-', of which the first is a letter or digit"
# The unit's user is cip-NAME, and systemd takes user names of at most 31 characters (systemd.exec(5), User=).
_INSTANCE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,26}")
_INSTANCE_NAME_RULE: Final = "1 to 27 letters, digits, '_' or '-', of which the first is a letter or digit"


class ImageSettings(Struct, frozen=True):
    """One image of an instance. ``fresh_for`` is in seconds; ``file`` and ``key`` are the place of its reference."""

    name: str
    reference: str
    platform: Platform
    fresh_for: float
    access: AccessRule
    file: str
    key: str


class _Gibibytes(int):
    """A number of bytes that files give in GiB."""

    WRITTEN: ClassVar[Any] = int

    @classmethod
    def read(cls, number: int) -> Self:
        if not 0 < number < MAX_SPOOL_LIMIT:
            raise MalformedDocumentError("must be a number of GiB, 1 or more")
        return cls(number << 30)


DEFAULT_SPOOL_LIMIT: Final = _Gibibytes(32 << 30)
"""Larger images are rare, and so are directories that have room for one."""


class RegistryTable(Strict, frozen=True, rename="kebab"):
    """``[registry]``: places of the ecosystem's files. With a ``tls_verify`` of None, registries.conf decides."""

    authfile: Path | None = None
    cert_dir: Path | None = None
    registries_conf: Path | None = None
    registries_conf_dir: Path | None = None
    tls_verify: bool | None = None
    token_realms: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for realm in self.token_realms:
            if not is_domain(realm):
                reason = f"{shown(realm)} is not the host or host:port of a token service"
                raise MalformedDocumentError(reason, ("token-realms",))


class RegistrySettings(RegistryTable, frozen=True, rename="kebab"):
    """``[registry]``, and two options of skopeo's: a prefix for User-Agent, and a directory of blobs for ``oci:``."""

    user_agent_prefix: str = ""
    shared_blob_dir: Path | None = None


class TrustTable(Strict, frozen=True, rename="kebab"):
    """``[trust]``: which policy decides, how strictly, and how many seconds verification may take."""

    policy: Path | None = None
    registries_d: Path | None = None
    require_instance_signature: bool = False
    accept_unnamed_bundles: bool = False
    verification_timeout: Seconds = DEFAULT_VERIFICATION_TIMEOUT

    def __post_init__(self) -> None:
        if not self.verification_timeout:
            raise MalformedDocumentError("must be more than 0 seconds", ("verification-timeout",))


class TrustSettings(TrustTable, frozen=True, rename="kebab"):
    """``[trust]``, and the option that only the command line has."""

    insecure_policy: bool = False


class SourceSettings(Strict, frozen=True, rename="kebab"):
    """``[sources]``: where archives are unpacked, how many bytes that may take, and where the Docker daemon is."""

    cache_dir: Path | None = None
    spool_limit: _Gibibytes = DEFAULT_SPOOL_LIMIT
    daemon_host: str | None = None
    daemon_cert_dir: Path | None = None

    def __post_init__(self) -> None:
        try:
            if self.daemon_host is not None:
                parse_engine_host(self.daemon_host)
        except InvalidReferenceError as error:
            raise MalformedDocumentError(str(error), ("daemon-host",)) from error


class InstanceSettings(Struct, frozen=True):
    """All settings of an instance.

    ``idle_exit`` is in seconds, and ``default`` is None if there is no default image.
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
        """The settings of ``[registry]``, ``[trust]`` and ``[sources]`` that differ from their defaults, by key."""
        sections = {
            "registry": (self.registry, RegistrySettings()),
            "trust": (self.trust, TrustSettings()),
            "sources": (self.sources, SourceSettings()),
        }
        return {
            f"{name}.{key}": getattr(section, member)
            for name, (section, default) in sections.items()
            for member, key in zip(section.__struct_fields__, section.__struct_encode_fields__, strict=True)
            if getattr(section, member) != getattr(default, member)
        }


class AccessTable(Strict, frozen=True):
    """``[access]`` as a file has it."""

    users: tuple[str | int, ...] | None = None
    groups: tuple[str | int, ...] | None = None


class ImageTable(Strict, frozen=True, rename="kebab"):
    """``[images.NAME]`` as a file has it."""

    reference: str | None = None
    platform: str | None = None
    fresh_for: Seconds = DEFAULT_FRESH_FOR
    access: AccessTable = AccessTable()


class InstanceFile(Strict, frozen=True, rename="kebab"):
    """An instance file. ``images`` are converted to :class:`ImageTable` one by one, after their names were checked."""

    default: str | None = None
    images: dict[str, Any] = field(default_factory=dict)
    access: AccessTable = AccessTable()
    registry: RegistryTable = RegistryTable()
    trust: TrustTable = TrustTable()
    sources: SourceSettings = SourceSettings()
    idle_exit: Seconds = DEFAULT_IDLE_EXIT


def host_platform() -> Platform:
    """The platform of this host, which is the default platform of every image."""
    host = os.uname()
    return kernel_platform(host.sysname, host.machine)


def load_instance(name: str, directories: Sequence[Path] = DIRECTORIES, *, uid: int) -> InstanceSettings:
    """The settings of ``NAME.toml`` and its drop-ins in ``directories``, which are in order of precedence.

    ``uid`` is the daemon's own user, who may connect by default. :class:`ConfigurationError` if anything is wrong.
    """
    verify_instance_name(name)
    with remedied_by("see container-image-proxy.toml(5)"):
        return parse_instance(name, _load_document(name, directories), uid=uid)


def verify_instance_name(name: str) -> None:
    """Raise :class:`ConfigurationError` if no instance can have this name."""
    if not _INSTANCE_NAME.fullmatch(name):
        raise ConfigurationError(f"instance {shown(name)}", "not an instance name", remedy=_INSTANCE_NAME_RULE)


def find_instances(directories: Sequence[Path] = DIRECTORIES) -> tuple[str, ...]:
    """The names of all instances that have a file in ``directories`` and are not masked, sorted."""
    found: dict[str, Path] = {}
    for directory in reversed(directories):  # the first directory takes precedence, so it is the last to be merged
        found |= {file.stem: file for file in list_files(directory) if file.suffix == ".toml"}
    return tuple(sorted(name for name, file in found.items() if not _is_mask(file)))


def _load_document(name: str, directories: Sequence[Path]) -> TomlDocument:
    main = next((path for path in (directory / f"{name}.toml" for directory in directories) if _is_there(path)), None)
    if main is None or _is_mask(main):
        places = ", ".join(str(directory) for directory in directories)
        reason = "masked by a link to /dev/null" if main else f"no such file in {places}"
        raise ConfigurationError(str(main or f"{name}.toml"), reason, remedy=_REMEDY)
    drop_ins: dict[str, Path] = {}
    for directory in reversed(directories):  # as above
        drop_ins |= {path.name: path for path in list_files(directory / f"{name}.toml.d") if path.suffix == ".toml"}
    files = [main, *(drop_ins[key] for key in sorted(drop_ins) if not _is_mask(drop_ins[key]))]
    contents = [(str(path), load_trusted_file(path, limit=_MAX_FILE, refuse_writable_by_others=True)) for path in files]
    return merge_documents([(path, parse_toml(raw, path)) for path, raw in contents])


def _is_there(path: Path) -> bool:
    """Whether there is a file, or a link, even a dangling one.

    A dangling link is an error when the file is read. If it counted as absent, a file that the administrator wanted to
    replace would be used.
    """
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise unreadable(path, error) from error
    return True


def _is_mask(path: Path) -> bool:
    return path.is_symlink() and os.path.realpath(path) == "/dev/null"


def parse_instance(name: str, document: TomlDocument, *, uid: int) -> InstanceSettings:
    """The settings in a merged document; :class:`ConfigurationError` about the first mistake in it."""
    written = document.read(document.values, InstanceFile)
    access = _read_access(document, written.access, ("access",), owner_access(uid))
    images = {key: _read_image(document, key, table, access) for key, table in written.images.items()}
    return InstanceSettings(
        name=name,
        file=document.file,
        images=images,
        default=_choose_default(document, written.default, images),
        registry=RegistrySettings(**asdict(written.registry)),
        trust=TrustSettings(**asdict(written.trust)),
        sources=written.sources,
        idle_exit=written.idle_exit,
    )


def _choose_default(document: TomlDocument, default: str | None, images: Mapping[str, ImageSettings]) -> str | None:
    if not images:
        remedy = 'add [images.NAME] with reference = "docker://..."'
        raise document.error(("images",), "no image is declared", remedy=remedy)
    if default is not None and default not in images:
        raise document.error(("default",), f"there is no image {default!r}", remedy=f"one of: {', '.join(images)}")
    return default if default is not None or len(images) > 1 else next(iter(images))


def is_image_name(name: str) -> bool:
    """Whether an image of an instance can have this name."""
    return _IMAGE_NAME.fullmatch(name) is not None


def _read_image(document: TomlDocument, name: str, value: object, access: AccessRule) -> ImageSettings:
    path = ("images", name)
    if not is_image_name(name):
        raise document.error(("images",), f"{shown(name)} is not an image name", remedy=_IMAGE_NAME_RULE)
    table = document.read(value, ImageTable, path)
    access = _read_access(document, table.access, (*path, "access"), access)
    place = (*path, "reference")
    if table.reference is None:
        raise document.error(place, "missing", remedy='for example "docker://quay.io/example/os:latest"')
    try:
        platform = host_platform() if table.platform is None else parse_platform(table.platform)
    except InvalidPlatformError as error:
        raise document.error((*path, "platform"), str(error)) from error
    file = document.file_of(place)
    return ImageSettings(name, table.reference, platform, table.fresh_for, access, file, ".".join(place))


def _read_access(document: TomlDocument, table: AccessTable, path: tuple[str, ...], default: AccessRule) -> AccessRule:
    """The rule of an access table. A table with any list, even an empty one, replaces the whole default."""
    if table.users is None and table.groups is None:
        return default
    users, groups = (*path, "users"), (*path, "groups")
    return AccessRule(
        resolve_users(table.users or (), document.file_of(users), ".".join(users)),
        resolve_groups(table.groups or (), document.file_of(groups), ".".join(groups)),
    )


def verify_paths(settings: InstanceSettings) -> None:
    """Raise :class:`ConfigurationError` if a file or directory that the settings name does not exist."""
    # The readers of directories take an absent one for an empty one. With a mistyped name, mirrors, blocks or places of
    # signatures would silently not count.
    for key, value in settings.deviations().items():
        if isinstance(value, Path) and not exists(value):
            remedy = "make it, or name another one"
            raise ConfigurationError(settings.file, f"{value} does not exist", key=key, remedy=remedy)
