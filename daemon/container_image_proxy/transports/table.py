"""The one list of transports. To add one, write its module and a line here; to drop one, delete both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from container_image_proxy.concurrency.memory import unmetered
from container_image_proxy.errors import InvalidReferenceError
from container_image_proxy.policy import scope
from container_image_proxy.transports import docker, layout

if TYPE_CHECKING:
    from collections.abc import Callable

    from container_image_proxy.image.image_reference import ImageReference
    from container_image_proxy.transports.docker import RegistryAccess
    from container_image_proxy.transports.source import ImageSource


class Transport(Struct, frozen=True):
    """How one transport reads what stands behind its colon, and how it opens that."""

    parse: Callable[[str], ImageReference]
    open: Callable[[ImageReference, RegistryAccess, object, Callable[[int], object]], ImageSource]


TRANSPORTS: Final = {
    docker.TRANSPORT: Transport(docker.parse, docker.open_source),
    layout.TRANSPORT: Transport(layout.parse, lambda reference, _, __, take: layout.LayoutSource(reference, take)),
}


def names_transport(text: str) -> bool:
    """Whether ``text`` is meant as ``transport:reference``, and not as a bare name, which may have a colon, too."""
    name, colon, within = text.partition(":")
    return bool(colon) and (name in scope.TRANSPORTS or within.startswith("/"))


def parse_image_reference(text: str) -> ImageReference:
    """Read ``transport:reference`` as every tool of the ecosystem does (containers-transports(5)).

    Raises :class:`InvalidReferenceError`.
    """
    name, colon, within = text.partition(":")
    transport = TRANSPORTS.get(name)
    if not colon:
        raise InvalidReferenceError(f"{text[:100]!r} is not transport:reference")
    if transport is None:
        raise InvalidReferenceError(f"transport {name[:100]!r} is not supported; {' and '.join(TRANSPORTS)} are")
    return transport.parse(within)


def depends_on_directory(reference: ImageReference) -> bool:
    """Whether a process that runs in another directory would find another image."""
    return reference.transport == layout.TRANSPORT and not reference.within.startswith("/")


def verify_place(reference: ImageReference) -> None:
    """Raise :class:`SourceError` if the image is to come from this host, and the place is not there to be read."""
    if reference.transport == layout.TRANSPORT:
        layout.LayoutSource(reference).verify_place()


def verify_source(reference: ImageReference) -> None:
    """Raise :class:`Error` if the image is to come from this host and cannot; what lies elsewhere is not asked for."""
    if reference.transport == layout.TRANSPORT:
        layout.LayoutSource(reference).fetch_manifest()


def open_source(
    reference: ImageReference,
    supplier: object = None,
    take: Callable[[int], object] = unmetered,
    *,
    access: RegistryAccess,
) -> ImageSource:
    """The source of a parsed reference; nothing is contacted yet.

    It begins with ``supplier``, an earlier source's, and asks ``take`` for the memory of each document, in bytes.
    """
    return TRANSPORTS[reference.transport].open(reference, access, supplier, take)
