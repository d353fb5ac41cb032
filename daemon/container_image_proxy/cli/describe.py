"""Describes a configuration for a person: the images, who may connect, the policy's scopes, and unusual settings."""

from __future__ import annotations

import grp
import json
import os
import pwd
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from container_image_proxy.config.access import AccessRule
    from container_image_proxy.core.proxy import ServedImage
    from container_image_proxy.core.serving import Serving

EVERYBODY_HERE: Final = "everybody on this host (--port)"
WHOEVER_HOLDS_IT: Final = "whoever is on standard input and output"
_SOCKET: Final = "/run/container-image-proxy/{}.sock"  # ListenStream= of the socket unit


class Door(Struct, frozen=True):
    """Mode, owner and group of a Unix socket. Connecting needs write permission (unix(7))."""

    mode: int = 0o666
    uid: int = 0
    gid: int = 0

    def lets_in(self, uid: int) -> bool:
        """Whether a process of the user can connect, with the groups that the user database has."""
        # As in the kernel, only the first class that fits counts, and root needs no permission (path_resolution(7)).
        shift = 6 if uid == self.uid else 3 if self.gid in _groups_of(uid) else 0
        return uid == 0 or self._allows(shift)

    def lets_in_group(self, gid: int) -> bool | None:
        """Whether all members of the group can connect; None if only those who are also in the socket's group can."""
        if self._allows(0):
            return True
        if not self._allows(3):
            return False
        return True if gid == self.gid else None

    def _allows(self, shift: int) -> bool:
        return bool(self.mode >> shift & stat.S_IWOTH)

    def __str__(self) -> str:
        return f"the socket has mode {self.mode:04o} and group {_group(self.gid)}"


def find_door(instance: str) -> Door:
    """The socket of an instance as it is now; if there is none, as the socket unit would make it."""
    try:
        status = Path(_SOCKET.format(instance)).stat()
    except OSError:
        return Door()
    return Door(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)


def describe(serving: Serving, door: Door | str, found: Mapping[str, str]) -> str:
    """The configuration as lines for a person.

    ``door`` is the socket, or who can connect where there is none. ``found`` is what was found of each image, by name.
    """
    settings = serving.settings
    lines = [
        f"{settings.file}: {len(serving.images)} image{'s' * (len(serving.images) != 1)}, policy {serving.policy.file}",
        *(f"  {key} = {_value(value)}" for key, value in settings.deviations().items()),
    ]
    for image in serving.images.values():
        lines += _describe_image(serving, image, door, found.get(image.name, "nothing could be read"))
    return "\n".join(lines)


def _describe_image(serving: Serving, image: ServedImage, door: Door | str, found: str) -> list[str]:
    reference = image.reference
    scope = serving.policy.scope_for(reference)
    default = " (default)" if image.name == serving.default else ""
    return [
        f"{image.name}{default}",
        f"  reference  {reference}",
        f"  found      {found}",
        f"  platform   {image.platform}",
        f"  fresh-for  {image.fresh_for:g} s",
        *_describe_access(serving.access(image.name), door),
        f"  trust      {scope.name}: {', '.join(requirement.type for requirement in scope.requirements)}",
    ]


def _describe_access(access: AccessRule, door: Door | str) -> list[str]:
    """Who can connect: those on the list whom the socket lets in. Those whom it keeps out are listed apart."""
    if isinstance(door, str):
        return [f"  users      {door}"]
    users = {uid: door.lets_in(uid) for uid in sorted(access.users)}
    groups = {gid: door.lets_in_group(gid) for gid in sorted(access.groups)}
    both = f" if also in {_group(door.gid)}"
    kept_out = [
        *(_user(uid) for uid, is_let_in in users.items() if not is_let_in),
        *(_group(gid) for gid, is_let_in in groups.items() if is_let_in is False),
    ]
    return [
        f"  users      {_list(_user(uid) for uid, is_let_in in users.items() if is_let_in)}",
        f"  groups     {_list(_group(gid) + both * (it is None) for gid, it in groups.items() if it is not False)}",
        *([f"  kept out   {_list(kept_out)}: {door}"] if kept_out else []),
    ]


def _value(value: object) -> str:
    """The value as an instance file (TOML) has it, which has these values as JSON does."""
    return json.dumps(value if isinstance(value, bool | float | tuple) else str(value), ensure_ascii=False)


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _user(uid: int) -> str:
    return _name(uid, lambda uid: pwd.getpwuid(uid).pw_name)


def _group(gid: int) -> str:
    return _name(gid, lambda gid: grp.getgrgid(gid).gr_name)


def _name(number: int, name_of: Callable[[int], str]) -> str:
    try:
        return f"{name_of(number)} ({number})"
    except KeyError:
        return str(number)


def _groups_of(uid: int) -> list[int]:
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return []
    return os.getgrouplist(user.pw_name, user.pw_gid)
