"""Where the containers ecosystem keeps its files, for one user on one host.

The environment, the home directory and the root below which system paths are looked up are arguments: nothing here asks
the process for them. What is in the files is none of this module's business.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from container_image_proxy.config.obstacle import unreadable

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT: Final = Path("/")
_CONTAINERS: Final = "etc/containers"
_USER: Final = ".config/containers"


class RegistriesFiles(Struct, frozen=True):
    """The files that make the registries configuration; drop-ins in the order to apply them."""

    main: Path
    main_is_required: bool
    drop_ins: tuple[Path, ...]
    short_name_aliases: Path


def find_registries_files(
    *, path: Path | None, directory: Path | None, environ: Mapping[str, str], home: Path, uid: int, root: Path = ROOT
) -> RegistriesFiles:
    """containers-registries.conf(5) and .conf.d(5): a user's own file hides the system's files altogether."""
    system, user = root / _CONTAINERS, home / _USER
    named = path or _named_by(environ, "CONTAINERS_REGISTRIES_CONF")
    has_own = named is None and exists(user / "registries.conf")
    bases = (user,) if has_own else (system, user)
    drop_ins = [directory] if directory else [base / "registries.conf.d" for base in bases]
    # Where podman and its kin write down the aliases that their users chose.
    own_cache = _named_by(environ, "XDG_CACHE_HOME") or home / ".cache"
    learned = root / "var/cache/containers" if uid == 0 else own_cache / "containers"
    return RegistriesFiles(
        main=named or (user if has_own else system) / "registries.conf",
        main_is_required=named is not None,
        drop_ins=tuple(file for place in drop_ins for file in list_files(place) if file.name.endswith(".conf")),
        short_name_aliases=learned / "short-name-aliases.conf",
    )


def find_default_auth_files(*, environ: Mapping[str, str], home: Path, uid: int, root: Path = ROOT) -> tuple[Path, ...]:
    """Where credentials are looked for, in order: containers-auth.json(5), then Docker's config.json."""
    runtime = _named_by(environ, "XDG_RUNTIME_DIR")
    primary = runtime / "containers" if runtime else root / "run/containers" / str(uid)
    user = _named_by(environ, "XDG_CONFIG_HOME") or home / ".config"
    docker = _named_by(environ, "DOCKER_CONFIG") or home / ".docker"
    return primary / "auth.json", user / "containers/auth.json", docker / "config.json"


def find_named_auth_file(environ: Mapping[str, str]) -> Path | None:
    """The file that ``REGISTRY_AUTH_FILE`` names: it alone is used."""
    return _named_by(environ, "REGISTRY_AUTH_FILE")


def find_auth_credential(environ: Mapping[str, str]) -> Path | None:
    """Where systemd puts the credential ``auth.json`` (``LoadCredential=``), whether or not there is one."""
    directory = _named_by(environ, "CREDENTIALS_DIRECTORY")
    return directory / "auth.json" if directory else None


def find_certificate_directories(*, home: Path, root: Path = ROOT) -> tuple[Path, ...]:
    """The directories that hold one directory for each registry, containers-certs.d(5)."""
    return home / _USER / "certs.d", root / _CONTAINERS / "certs.d", root / "etc/docker/certs.d"


def _named_by(environ: Mapping[str, str], variable: str) -> Path | None:
    """The path in an environment variable; empty is as good as unset."""
    return Path(environ[variable]) if environ.get(variable) else None


def exists(path: Path) -> bool:
    """Whether ``path`` exists; not to be allowed to know is an error."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise unreadable(path, error) from error
    return True


def list_files(directory: Path) -> list[Path]:
    """The files in ``directory`` by name; an absent directory has none, an unreadable one is an error."""
    try:
        return sorted(path for path in directory.iterdir() if not path.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unreadable(directory, error) from error
