"""The one list of transports. To add one, write its module and name its reference type here.

Spec: containers-transports(5).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from container_image_proxy.errors import InvalidReferenceError, shown
from container_image_proxy.policy import scope

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from container_image_proxy.config.storage_conf import StoreLocation
    from container_image_proxy.transports.source import SourceReference


class Transport(Struct, frozen=True):
    """A row of the list: the module in this room, and its reference type. It is loaded when an image of it is named.

    ``has_default_store`` says that ``parse`` of the type takes the function that finds the host's store as well.
    """

    module: str
    reference_type: str
    has_default_store: bool = False


TRANSPORTS: Final[Mapping[str, Transport]] = {
    "docker": Transport("docker", "DockerReference"),
    "oci": Transport("layout", "LayoutReference"),
    "dir": Transport("directory_image", "DirectoryReference"),
    "oci-archive": Transport("oci_archive", "OciArchiveReference"),
    "docker-archive": Transport("docker_archive", "DockerArchiveReference"),
    "docker-daemon": Transport("docker_daemon", "DockerDaemonReference"),
    "tarball": Transport("tarball", "TarballReference"),
    "containers-storage": Transport("storage.reference", "StorageReference", has_default_store=True),
}
INSTEAD: Final[Mapping[str, str]] = {
    "atomic": "OpenShift's own API is no more: name the registry, as in docker://registry.example/namespace/name",
    "ostree": "export the commit by 'ostree export --repo=REPO -o FILE BRANCH', and name that as tarball:FILE",
    "sif": "copy it by 'skopeo copy sif:FILE oci:DIRECTORY', and name that as oci:DIRECTORY",
}
"""What to use instead of the transports of containers-transports(5) that are not served."""


def names_transport(text: str) -> bool:
    """Whether ``text`` is meant as ``transport:reference``, and not as a bare name, in which a colon begins the tag."""
    name, colon, within = text.partition(":")
    return bool(colon) and (name in scope.TRANSPORTS or within.startswith("/"))


def parse_image_reference(text: str, default_store: Callable[[], StoreLocation] | None = None) -> SourceReference:
    """Read ``transport:reference`` as every tool of the ecosystem does (containers-transports(5)).

    ``default_store`` finds the store that is meant where a reference names none. Raises
    :class:`InvalidReferenceError`, and what ``default_store`` raises.
    """
    name, colon, within = text.partition(":")
    if not colon:
        raise InvalidReferenceError(f"{shown(text)} is not transport:reference")
    if name in INSTEAD:
        raise InvalidReferenceError(f"transport {name!r} is not supported: {INSTEAD[name]}")
    if name not in TRANSPORTS:
        *others, last = TRANSPORTS
        raise InvalidReferenceError(f"transport {shown(name)} is not supported; {', '.join(others)} and {last} are")
    transport = TRANSPORTS[name]
    reference_type = getattr(import_module(f"{__package__}.{transport.module}"), transport.reference_type)
    stores = (default_store,) if transport.has_default_store else ()
    reference: SourceReference = reference_type.parse(within, *stores)
    return reference
