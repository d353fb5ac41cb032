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

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
"""What reads the text behind each transport's colon."""


def names_transport(text: str) -> bool:
    """Whether ``text`` is meant as ``transport:reference``, and not as a bare name, which may have a colon, too."""
    name, colon, within = text.partition(":")
    return bool(colon) and (name in scope.TRANSPORTS or within.startswith("/"))


def parse_image_reference(text: str) -> SourceReference:
    """Read ``transport:reference`` as every tool of the ecosystem does (containers-transports(5)).

    Raises :class:`InvalidReferenceError`.
    """
    name, colon, within = text.partition(":")
    parse = TRANSPORTS.get(name)
    if not colon:
        raise InvalidReferenceError(f"{text[:100]!r} is not transport:reference")
    if parse is None:
        *others, last = TRANSPORTS
        raise InvalidReferenceError(f"transport {name[:100]!r} is not supported; {', '.join(others)} and {last} are")
    return parse(within)
