"""References for tests that need names alone: what policy looks at, without a transport behind it."""

from __future__ import annotations

from msgspec import Struct

from container_image_proxy.image.digest import Digest
from container_image_proxy.image.reference import Reference


class NamedImage(Struct, frozen=True):
    """An :class:`ImageReference` with the names that a test gives it."""

    transport: str
    within: str
    docker_reference: Reference | None = None
    policy_identity: str = ""
    policy_namespaces: tuple[str, ...] = ()
    may_be_signed: bool = True

    @property
    def pinned_digest(self) -> Digest | None:
        return self.docker_reference.digest if self.docker_reference else None

    def __str__(self) -> str:
        return f"{self.transport}:{self.within}"
