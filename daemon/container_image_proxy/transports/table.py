"""The one list of transports. To add one, write its module and a line here; to drop one, delete both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from container_image_proxy.errors import InvalidReferenceError
from container_image_proxy.transports import docker, layout

if TYPE_CHECKING:
    from collections.abc import Callable

    from container_image_proxy.registry.client import RegistryClient
    from container_image_proxy.transports.source import ImageReference, ImageSource


@dataclass(frozen=True, slots=True)
class Transport:
    """How one transport reads what stands behind its colon, and how it opens that.

    ``open`` gets a function that gives the registry client, because making one loads an HTTP library that layouts never
    need.
    """

    parse: Callable[[str], ImageReference]
    open: Callable[[ImageReference, Callable[[], RegistryClient]], ImageSource]


TRANSPORTS: Final = {
    docker.TRANSPORT: Transport(docker.parse, lambda reference, registry: docker.open_source(reference, registry())),
    layout.TRANSPORT: Transport(layout.parse, lambda reference, _: layout.LayoutSource(reference)),
}


def parse_image_reference(text: str) -> ImageReference:
    """Read ``transport:reference`` as every tool of the ecosystem does (containers-transports(5)).

    Raises :class:`InvalidReferenceError`.
    """
    name, colon, within = text.partition(":")
    transport = TRANSPORTS.get(name)
    if not colon or transport is None:
        known = ", ".join(TRANSPORTS)
        raise InvalidReferenceError(f"{text[:100]!r} is not transport:reference with a transport known here ({known})")
    return transport.parse(within)


def open_source(reference: ImageReference, registry: Callable[[], RegistryClient]) -> ImageSource:
    """The source of a parsed reference; nothing is contacted yet."""
    return TRANSPORTS[reference.transport].open(reference, registry)
