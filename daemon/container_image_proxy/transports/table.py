"""The one list of transports. To add one, write its module and add its reference type here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from container_image_proxy.errors import InvalidReferenceError
from container_image_proxy.policy import scope
from container_image_proxy.transports.directory_image import DirectoryReference
from container_image_proxy.transports.docker import DockerReference
from container_image_proxy.transports.docker_archive import DockerArchiveReference
from container_image_proxy.transports.layout import LayoutReference
from container_image_proxy.transports.oci_archive import OciArchiveReference
from container_image_proxy.transports.storage.reference import StorageReference

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from container_image_proxy.config.storage_conf import StoreLocation
    from container_image_proxy.transports.source import SourceReference

TRANSPORTS: Final[Mapping[str, Callable[[str], SourceReference]]] = {
    one.transport: one.parse
    for one in (
        DockerReference,
        LayoutReference,
        DirectoryReference,
        OciArchiveReference,
        DockerArchiveReference,
    )
}
"""What reads the text behind each transport's colon, where nothing else is needed to read it."""
SUPPORTED: Final = (*TRANSPORTS, StorageReference.transport)


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
        raise InvalidReferenceError(f"{text[:100]!r} is not transport:reference")
    if name == StorageReference.transport:
        return StorageReference.parse(within, default_store)
    parse = TRANSPORTS.get(name)
    if parse is None:
        *others, last = SUPPORTED
        raise InvalidReferenceError(f"transport {name[:100]!r} is not supported; {', '.join(others)} and {last} are")
    return parse(within)
