"""Finds the files of the containers ecosystem, for one user on one host. It does not read them.

The environment and the home directory are arguments, because only ``__main__`` reads them from the process
(contrib/adr/0027). System paths are below the argument ``root``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from container_image_proxy.config.obstacle import ABSENT, find_dangling_link, unreadable

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT: Final = Path("/")
_CONTAINERS: Final = "etc/containers"
_USER: Final = ".config/containers"


class RegistriesFiles(Struct, frozen=True):
    """The files of the registries configuration. Drop-ins are in the order in which they apply."""

    main: Path
    main_is_required: bool
    drop_ins: tuple[Path, ...]
    short_name_aliases: Path


def find_registries_files(
    *, path: Path | None, directory: Path | None, environ: Mapping[str, str], home: Path, uid: int, root: Path = ROOT
) -> RegistriesFiles:
    """The files of containers-registries.conf(5) and containers-registries.conf.d(5).

    ``path`` and ``directory`` are options. A user's own registries.conf replaces all files of the system.
    """
    system, user = root / _CONTAINERS, home / _USER
    named = path or _named_by(environ, "CONTAINERS_REGISTRIES_CONF")
    has_own = named is None and exists(user / "registries.conf")
    bases = (user,) if has_own else (system, user)
    drop_ins = [directory] if directory else [base / "registries.conf.d" for base in bases]
    # Where podman and other tools store the aliases that their users chose.
    own_cache = _named_by(environ, "XDG_CACHE_HOME") or home / ".cache"
    learned = root / "var/cache/containers" if uid == 0 else own_cache / "containers"
    return RegistriesFiles(
        main=named or (user if has_own else system) / "registries.conf",
        main_is_required=named is not None,
        drop_ins=tuple(file for place in drop_ins for file in list_files(place) if file.name.endswith(".conf")),
        short_name_aliases=learned / "short-name-aliases.conf",
    )


def find_default_auth_files(*, environ: Mapping[str, str], home: Path, uid: int, root: Path = ROOT) -> tuple[Path, ...]:
    """The default files of credentials, in order: those of containers-auth.json(5), then Docker's config.json."""
    runtime = _named_by(environ, "XDG_RUNTIME_DIR")
    primary = runtime / "containers" if runtime else root / "run/containers" / str(uid)
    user = _named_by(environ, "XDG_CONFIG_HOME") or home / ".config"
    docker = _named_by(environ, "DOCKER_CONFIG") or home / ".docker"
    return primary / "auth.json", user / "containers/auth.json", docker / "config.json"


def find_named_auth_file(environ: Mapping[str, str]) -> Path | None:
    """The file that REGISTRY_AUTH_FILE names, which replaces the default files; None if it is unset."""
    return _named_by(environ, "REGISTRY_AUTH_FILE")


def find_auth_credential(environ: Mapping[str, str]) -> Path | None:
    """The path of systemd's credential ``auth.json`` (systemd.exec(5), LoadCredential=), whether or not it exists."""
    directory = _named_by(environ, "CREDENTIALS_DIRECTORY")
    return directory / "auth.json" if directory else None


def find_certificate_directories(*, home: Path, root: Path = ROOT) -> tuple[Path, ...]:
    """The directories that contain a directory for each registry (containers-certs.d(5))."""
    return home / _USER / "certs.d", root / _CONTAINERS / "certs.d", root / "etc/docker/certs.d"


def _named_by(environ: Mapping[str, str], variable: str) -> Path | None:
    """The path in an environment variable; None if it is unset or empty."""
    return Path(environ[variable]) if environ.get(variable) else None


def exists(path: Path) -> bool:
    """Whether ``path`` exists.

    :class:`UnreadableFileError` if that cannot be found out (contrib/adr/0016), or if a link leads nowhere.
    """
    try:
        path.stat()
    except OSError as error:
        if isinstance(error, ABSENT) and find_dangling_link(path) is None:
            return False
        raise unreadable(path, error) from error
    return True


def list_files(directory: Path) -> list[Path]:
    """The files in ``directory``, sorted; none if it is absent. :class:`UnreadableFileError` if it cannot be listed.

    A link counts as a file if it is not known where it leads. Callers read only those files whose names they know.
    """
    try:
        # Path.is_dir raises for a link into a closed directory, be it one to notes that nobody reads.
        paths = [path for path in directory.iterdir() if not os.path.isdir(path)]  # noqa: PTH112 - as said above
        return sorted(path for path in paths if not _is_lock(path))
    except OSError as error:
        if isinstance(error, ABSENT) and not exists(directory):
            return []
        raise unreadable(directory, error) from error


def _is_lock(path: Path) -> bool:
    """Whether Emacs made this link, which has the name of the file that somebody edits, and leads nowhere."""
    return path.name.startswith(".#") and find_dangling_link(path) == path
