"""What an image is called, whatever its transport: ``transport:within`` and the names that policy.json knows it by.

A value; each transport makes its own in its ``parse``. Names follow containers-transports(5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.reference import Reference


class ImageReference(Struct, frozen=True):
    """``transport:within``, normalised, with the names that policy.json knows it by.

    ``policy_identity`` is empty for a transport whose images policy cannot tell apart; ``policy_namespaces`` go from
    the most specific to the widest. ``docker_reference`` is None where the transport has no such name.
    ``may_be_signed`` is False where the transport has no place for signatures.
    """

    transport: str
    within: str
    docker_reference: Reference | None
    policy_identity: str
    policy_namespaces: tuple[str, ...]
    may_be_signed: bool = True

    @property
    def pinned_digest(self) -> Digest | None:
        """The digest that the reference itself names, if it does."""
        return self.docker_reference.digest if self.docker_reference else None

    def __str__(self) -> str:
        return f"{self.transport}:{self.within}"
