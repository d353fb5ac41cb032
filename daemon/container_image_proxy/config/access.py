"""Who may connect: the users and groups of ``[access]``, resolved to numbers when the configuration is read.

``core/peer.py`` finds out who a peer is; an :class:`AccessRule` says whether that peer may connect. Rights depend on
uid and gid only. A pid proves nothing: the kernel gives it to another program as soon as the first one has exited.
"""

from __future__ import annotations

import functools
import grp
import pwd
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from container_image_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_ALL_IDS: Final = 2**32 - 1
"""The number of possible ids. The next one, 2**32 - 1, means "no id" (chown(2))."""
_NUMBER: Final = re.compile(r"[0-9]{1,10}")  # of 32 bits
_PROC: Final = Path("/proc")


class AccessRule(Struct, frozen=True):
    """The uids and gids that are permitted. A peer needs one of them."""

    users: frozenset[int] = frozenset()
    groups: frozenset[int] = frozenset()

    def permits(self, uid: int | None, groups: frozenset[int]) -> bool:
        """Whether a peer with this uid and these groups may connect; a uid of None means that it has no credentials."""
        # The kernel shows the overflow ids for all users that this user namespace cannot name (user_namespaces(7)). To
        # permit them would permit unrelated users.
        if uid is None or uid == overflow_id("uid"):
            return False
        return uid in self.users or not self.groups.isdisjoint(groups - {overflow_id("gid")})


def owner_access(uid: int) -> AccessRule:
    """The default rule: root and the daemon's own user, ``uid``."""
    return AccessRule(users=frozenset({0, uid}))


def resolve_users(entries: Iterable[str | int], file: str, key: str) -> frozenset[int]:
    """The uids of user names and numbers; :class:`ConfigurationError` about ``key`` of ``file`` if one has none."""
    return frozenset(_resolve(entry, "user", lambda name: pwd.getpwnam(name).pw_uid, file, key) for entry in entries)


def resolve_groups(entries: Iterable[str | int], file: str, key: str) -> frozenset[int]:
    """The gids of group names and numbers; errors as :func:`resolve_users`."""
    return frozenset(_resolve(entry, "group", lambda name: grp.getgrnam(name).gr_gid, file, key) for entry in entries)


def _resolve(entry: str | int, kind: str, look_up: Callable[[str], int], file: str, key: str) -> int:
    try:
        number = entry if isinstance(entry, int) else int(entry) if _NUMBER.fullmatch(entry) else look_up(entry)
    except (KeyError, ValueError):  # ValueError: a NUL in the name
        remedy = f"create the {kind}, or write its number"
        raise ConfigurationError(file, f"there is no {kind} {entry!r}", key=key, remedy=remedy) from None
    identifier = "uid" if kind == "user" else "gid"
    if not 0 <= number < _ALL_IDS:
        raise ConfigurationError(file, f"{number} is no {identifier}", key=key, remedy=f"from 0 to {_ALL_IDS - 1}")
    if number == overflow_id(identifier):
        reason = f"{kind} {entry!r} is the overflow {identifier}, which stands for every {kind} unknown here"
        raise ConfigurationError(file, reason, key=key, remedy=f"allow a {kind} of its own")
    if not any(number in span for span in load_id_map(identifier)):
        reason = f"{kind} {entry!r} cannot be told apart from others in this user namespace"
        raise ConfigurationError(file, reason, key=key, remedy="leave PrivateUsers= out of the unit")
    return number


@functools.cache
def overflow_id(identifier: str) -> int:
    """The id that the kernel shows for every unmapped ``uid`` or ``gid`` (proc_sys_kernel(5), usually 65534)."""
    try:
        return int((_PROC / "sys/kernel" / f"overflow{identifier}").read_text())
    except OSError:  # no /proc here: the kernel's default
        return 65534


@functools.cache
def load_id_map(identifier: str) -> tuple[range, ...]:
    """The ranges of ``uid`` or ``gid`` that exist in this user namespace (user_namespaces(7), /proc/pid/uid_map)."""
    try:
        lines = (_PROC / "self" / f"{identifier}_map").read_text().splitlines()
    except OSError:  # no /proc, or a kernel without user namespaces: nothing is remapped
        return (range(_ALL_IDS),)
    rows = ([int(field) for field in line.split()] for line in lines)
    return tuple(range(inside, inside + length) for inside, _outside, length in rows)
