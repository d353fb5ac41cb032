"""The protocol of image references of all transports: the names of an image for users, policy.json and signatures.

Each transport has its own type of reference (containers-transports(5)). ``str`` gives ``transport:reference``, as users
write it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.reference import Reference


class ImageReference(Protocol):
    """A frozen value that the transport's ``parse`` makes."""

    @property
    def transport(self) -> str:
        """The transport's name in containers-transports(5) and policy.json."""

    @property
    def policy_identity(self) -> str:
        """The narrowest scope of policy.json for the image; "" if the transport has no scope for one image."""

    @property
    def policy_namespaces(self) -> tuple[str, ...]:
        """The wider scopes of policy.json for the image, the most specific first."""

    @property
    def docker_reference(self) -> Reference | None:
        """The name that signatures must claim; None if the transport has no such names."""

    @property
    def may_be_signed(self) -> bool:
        """Whether the transport has a place for signatures."""

    @property
    def pinned_digest(self) -> Digest | None:
        """The digest of the manifest or index, if the reference contains it."""
