"""storage.conf: the places of containers-storage, for one user on one host (containers-storage.conf(5)).

Chooses the file that applies, reads the places in it, and knows the defaults. Options for running containers are not
read. ``transports/storage`` opens the store.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct, field

from container_image_proxy.config.locations import ROOT, exists
from container_image_proxy.config.toml_document import parse_toml
from container_image_proxy.config.trusted_file import load_trusted_file, load_trusted_file_if_present
from container_image_proxy.errors import ConfigurationError, blamed_on
from container_image_proxy.image.documents import TOML, convert

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

DEFAULT_DRIVER: Final = "overlay"
_SYSTEM_GRAPH_ROOT: Final = Path("/var/lib/containers/storage")
_SYSTEM_RUN_ROOT: Final = Path("/run/containers/storage")
_CONF: Final = "containers/storage.conf"
_MAX_FILE: Final = 1 << 20
_ROOTLESS_DRIVERS: Final = frozenset({"overlay", "vfs", "btrfs"})
_PRIORITY: Final = ("overlay", "aufs", "btrfs", "zfs", "vfs")
"""If several drivers have a directory in a store, the first of these is the one in use."""
_VARIABLE: Final = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


class StoreLocation(Struct, frozen=True):
    """A store: its driver and its directories.

    Images are in ``image_store`` if it is set, and in ``graph_root``; ``additional`` stores are searched after both.
    If ``is_transient``, the list of volatile layers is in ``run_root``.
    """

    driver: str
    graph_root: Path
    run_root: Path | None = None
    image_store: Path | None = None
    additional: tuple[Path, ...] = ()
    is_transient: bool = False


class _Options(Struct, frozen=True):
    """``[storage.options]``."""

    additional_image_stores: tuple[str, ...] = field(default=(), name="additionalimagestores")


class _Storage(Struct, frozen=True):
    """``[storage]``."""

    driver: str = ""
    driver_priority: tuple[str, ...] = ()
    graph_root: str = field(default="", name="graphroot")
    run_root: str = field(default="", name="runroot")
    image_store: str = field(default="", name="imagestore")
    rootless_storage_path: str = ""
    transient_store: bool = False
    options: _Options = _Options()


class _StorageConf(Struct, frozen=True):
    """The document. Unknown keys are ignored: they belong to other programs."""

    storage: _Storage = _Storage()


def load_storage_conf(*, environ: Mapping[str, str], home: Path, uid: int, root: Path = ROOT) -> StoreLocation:
    """The store of a reference without ``[...]``, for the user ``uid``. :class:`ConfigurationError` if a file is wrong.

    CONTAINERS_STORAGE_CONF names a file that must exist. Otherwise the user's own file counts, or else the system's, of
    which ordinary users get only the driver and ``rootless_storage_path``: its other places belong to root's store.
    """
    named = environ.get("CONTAINERS_STORAGE_CONF")
    own = Path(environ.get("XDG_CONFIG_HOME") or home / ".config", _CONF)
    system = next((one for one in (root / "etc" / _CONF, root / "usr/share" / _CONF) if exists(one)), None)
    if named:
        conf = _parse(load_trusted_file(Path(named), limit=_MAX_FILE), named)
    elif uid != 0 and exists(own):
        conf = _parse(load_trusted_file(own, limit=_MAX_FILE), str(own))
    else:
        raw = load_trusted_file_if_present(system, limit=_MAX_FILE) if system else None
        conf = _parse(raw or b"", str(system))
        if uid != 0:
            driver = conf.driver if conf.driver in _ROOTLESS_DRIVERS else ""
            conf = _Storage(driver=driver, rootless_storage_path=conf.rootless_storage_path)
    return _locate(conf, environ, home, uid)


def _locate(conf: _Storage, environ: Mapping[str, str], home: Path, uid: int) -> StoreLocation:
    variables = dict(environ) | {"UID": str(uid)}

    def place(text: str, default: Path) -> Path:
        # A variable that is not set becomes "".
        expanded = _VARIABLE.sub(lambda match: variables.get(match[1] or match[2], ""), text)
        return Path(os.path.realpath(expanded)) if text else default

    data, runtime = environ.get("XDG_DATA_HOME"), environ.get("XDG_RUNTIME_DIR")
    graph_root, run_root = _SYSTEM_GRAPH_ROOT, _SYSTEM_RUN_ROOT
    if uid != 0:
        graph_root = place(conf.rootless_storage_path, Path(data or home / ".local/share", "containers/storage"))
        run_root = Path(runtime or f"/run/user/{uid}", "containers")
    graph_root = place(conf.graph_root, graph_root)
    # STORAGE_OPTS replaces the additional stores of the file, even if it names none.
    options = environ.get("STORAGE_OPTS")
    from_options = find_additional_stores(options.split(",")) if options is not None else None
    named = tuple(Path(path) for path in conf.options.additional_image_stores)
    return StoreLocation(
        driver=find_driver(environ.get("STORAGE_DRIVER") or conf.driver, graph_root, conf.driver_priority),
        graph_root=graph_root,
        run_root=place(conf.run_root, run_root),
        image_store=Path(conf.image_store) if conf.image_store else None,
        additional=named if from_options is None else from_options,
        is_transient=conf.transient_store,
    )


def find_driver(named: str, graph_root: Path, priority: Sequence[str] = ()) -> str:
    """The driver of a store: ``named``, or else the one that was used in ``graph_root``, or else the default."""
    if named:
        return "overlay" if named == "overlay2" else named  # overlay2 is Docker's name for it
    used = (one for one in priority or _PRIORITY if os.path.lexists(graph_root / f"{one}-images"))
    return next(used, DEFAULT_DRIVER)


def find_additional_stores(options: Iterable[str]) -> tuple[Path, ...]:
    """The stores in options such as ``overlay.imagestore=/srv/images``; other options are ignored."""
    pairs = (option.partition("=") for option in options)
    return tuple(
        Path(path)
        for key, _, value in pairs
        if key.lower().endswith(".imagestore")
        for path in value.split(",")
        if path
    )


def _parse(raw: bytes, file: str) -> _Storage:
    with blamed_on(file):
        conf = convert(parse_toml(raw, file), _StorageConf, (), TOML).storage
    paths = (conf.graph_root, conf.run_root, conf.image_store, conf.rootless_storage_path)
    if any("\0" in path for path in (*paths, *conf.options.additional_image_stores)):
        raise ConfigurationError(file, "a path has a null character", key="storage")
    return conf
