"""The one list of transports. To add one, write its module and name its reference type here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from container_image_proxy.errors import InvalidReferenceError, shown
from container_image_proxy.policy import scope

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from container_image_proxy.config.storage_conf import StoreLocation
    from container_image_proxy.transports.source import SourceReference

_STORAGE: Final = "containers-storage"

TRANSPORTS: Final[Mapping[str, str]] = {
    "docker": "docker.DockerReference",
    "oci": "layout.LayoutReference",
    "dir": "directory_image.DirectoryReference",
    "oci-archive": "oci_archive.OciArchiveReference",
    "docker-archive": "docker_archive.DockerArchiveReference",
    "docker-daemon": "docker_daemon.DockerDaemonReference",
    "tarball": "tarball.TarballReference",
    _STORAGE: "storage.reference.StorageReference",
}
"""The reference type of each, by its place in this room: a transport is loaded when an image of it is named."""
INSTEAD: Final[Mapping[str, str]] = {
    "atomic": "OpenShift's own API is no more: name the registry, as in docker://registry.example/namespace/name",
    "ostree": "export the commit by 'ostree export --repo=REPO -o FILE BRANCH', and name that as tarball:FILE",
    "sif": "copy it by 'skopeo copy sif:FILE oci:DIRECTORY', and name that as oci:DIRECTORY",
}
"""What to use instead of those of containers-transports(5) that are not served."""


def names_transport(text: str) -> bool:
    """Whether ``text`` is meant as ``transport:reference``, and not as a bare name, which may have a colon, too."""
    name, colon, within = text.partition(":")
    return bool(colon) and (name in scope.TRANSPORTS or within.startswith("/"))


def parse_image_reference(text: str, default_store: Callable[[], StoreLocation] | None = None) -> SourceReference:
    """Read ``transport:reference`` as every tool of the ecosystem does (containers-transports(5)).

    ``default_store`` finds the store that ``containers-storage:`` means where the reference names none. Raises
    :class:`InvalidReferenceError`, and what ``default_store`` raises.
    """
    name, colon, within = text.partition(":")
    if not colon:
        raise InvalidReferenceError(f"{shown(text)} is not transport:reference")
    if name == _STORAGE:
        from container_image_proxy.transports.storage.reference import StorageReference  # noqa: PLC0415 - as the others

        return StorageReference.parse(within, default_store)
    if name in INSTEAD:
        raise InvalidReferenceError(f"transport {name!r} is not supported: {INSTEAD[name]}")
    if name not in TRANSPORTS:
        *others, last = TRANSPORTS
        raise InvalidReferenceError(f"transport {shown(name)} is not supported; {', '.join(others)} and {last} are")
    module, _, reference_type = TRANSPORTS[name].rpartition(".")
    parse: Callable[[str], SourceReference] = getattr(import_module(f"{__package__}.{module}"), reference_type).parse
    return parse(within)
