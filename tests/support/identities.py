"""Identity requirements without the policy around them."""

from __future__ import annotations

from container_image_proxy.errors import KeyPath
from container_image_proxy.image.documents import convert
from container_image_proxy.policy.identity import SignedIdentity, WrittenIdentity


def parse_identity(value: object, path: KeyPath = ()) -> SignedIdentity:
    """One identity requirement from parsed JSON that stands at ``path``."""
    return convert(value, WrittenIdentity, path).read()  # type: ignore[arg-type]  # a union is no type to mypy
