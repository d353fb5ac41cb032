"""What an image is called, whatever its transport: the names by which people, policy.json and signatures know it.

Each transport has a type of its own, with the parts that it needs (containers-transports(5)); this is what they have in
common. ``str`` gives ``transport:reference``, as people write it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.reference import Reference


class ImageReference(Protocol):
    """A frozen value, made by its transport's ``parse``."""

    @property
    def transport(self) -> str:
        """The transport's name, as containers-transports(5) and policy.json have it."""

    @property
    def policy_identity(self) -> str:
        """The narrowest scope of policy.json that holds the image; empty where policy cannot tell images apart."""

    @property
    def policy_namespaces(self) -> tuple[str, ...]:
        """The wider scopes that hold the image, from the most specific one up."""

    @property
    def docker_reference(self) -> Reference | None:
        """The name that signatures are held against; None where the transport has no such name."""

    @property
    def may_be_signed(self) -> bool:
        """Whether the transport has a place for signatures."""

    @property
    def pinned_digest(self) -> Digest | None:
        """The digest of the manifest or index that the reference itself names, if it does."""
