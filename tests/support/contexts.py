"""What work of tests is done under and with: nobody cancels it, and it has all the time that it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from container_image_proxy.concurrency.cancellation import Cancellation
from container_image_proxy.concurrency.context import Context
from container_image_proxy.concurrency.lazy import Lazy
from container_image_proxy.config.lookaside import LookasideConfiguration
from container_image_proxy.transports.archives.spool import SpoolDirectory
from container_image_proxy.transports.source import Access

if TYPE_CHECKING:
    from container_image_proxy.registry.client import RegistryClient

CONTEXT = Context(Cancellation())


def _no_registry() -> RegistryClient:
    raise AssertionError("an image on this host needs no registry")


ACCESS = Access(Lazy(_no_registry), LookasideConfiguration("/none"), SpoolDirectory(None))
"""For images on this host."""
