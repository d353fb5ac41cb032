"""What ``--check`` prints: what would be served, to whom, from where, and which trust scope would decide."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from container_image_proxy.proxy import ServedImage
    from container_image_proxy.service.serving import Serving


def describe(serving: Serving) -> str:
    """The configuration in force as lines for a person."""
    settings = serving.settings
    lines = [
        f"{settings.file}: {len(serving.images)} image{'s' * (len(serving.images) != 1)}, policy {serving.policy.file}"
    ]
    for image in serving.images.values():
        lines += _describe_image(serving, image)
    return "\n".join(lines)


def _describe_image(serving: Serving, image: ServedImage) -> list[str]:
    reference = image.reference
    scope = serving.policy.scope_for(reference)
    access = serving.access(image.name)
    default = " (default)" if image.name == serving.default else ""
    return [
        f"{image.name}{default}",
        f"  reference  {reference}",
        f"  platform   {image.platform}",
        f"  fresh-for  {image.fresh_for:g} s",
        f"  users      {_ids(access.users)}",
        f"  groups     {_ids(access.groups)}",
        f"  trust      {scope.name}: {', '.join(requirement.type for requirement in scope.requirements)}",
    ]


def _ids(ids: frozenset[int]) -> str:
    return ", ".join(str(one) for one in sorted(ids)) or "none"
