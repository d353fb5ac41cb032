"""What ``--check`` prints: what would be served, to whom, which trust scope would decide, and which settings are not
the usual ones.
"""

from __future__ import annotations

import grp
import json
import pwd
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from container_image_proxy.proxy import ServedImage
    from container_image_proxy.service.serving import Serving


def describe(serving: Serving) -> str:
    """The configuration in force as lines for a person."""
    settings = serving.settings
    lines = [
        f"{settings.file}: {len(serving.images)} image{'s' * (len(serving.images) != 1)}, policy {serving.policy.file}",
        *(f"  {key} = {_value(value)}" for key, value in settings.deviations().items()),
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
        f"  users      {_names(access.users, lambda uid: pwd.getpwuid(uid).pw_name)}",
        f"  groups     {_names(access.groups, lambda gid: grp.getgrgid(gid).gr_name)}",
        f"  trust      {scope.name}: {', '.join(requirement.type for requirement in scope.requirements)}",
    ]


def _value(value: object) -> str:
    """As an instance file would say it."""
    return json.dumps(value if isinstance(value, bool | float | tuple) else str(value), ensure_ascii=False)


def _names(ids: frozenset[int], name_of: Callable[[int], str]) -> str:
    return ", ".join(_name(one, name_of) for one in sorted(ids)) or "none"


def _name(number: int, name_of: Callable[[int], str]) -> str:
    try:
        return f"{name_of(number)} ({number})"
    except KeyError:
        return str(number)
