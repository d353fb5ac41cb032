"""Who may connect: allow lists of users and groups, resolved to numbers when the configuration is read.

Owns the meaning of ``[access]`` in an instance file. It does not look at sockets: ``core/peer.py`` says who a peer
is, an :class:`AccessRule` says whether that is enough. Rights hang on uid and gid alone, never on a pid or what runs
under it.
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
"""The id that stands for none (chown(2)), and so is the number of ids that there can be."""
_NUMBER: Final = re.compile(r"[0-9]{1,10}")  # of 32 bits
_PROC: Final = Path("/proc")


class AccessRule(Struct, frozen=True):
    """A peer is permitted by its uid or by any of its groups."""

    users: frozenset[int] = frozenset()
    groups: frozenset[int] = frozenset()

    def permits(self, uid: int | None, groups: frozenset[int]) -> bool:
        """Whether a peer with this uid (None: it has no credentials) and these groups may connect.

        The overflow ids stand for everybody whom this user namespace cannot name, so they never count
        (user_namespaces(7)).
        """
        if uid is None or uid == overflow_id("uid"):
            return False
        return uid in self.users or not self.groups.isdisjoint(groups - {overflow_id("gid")})


def owner_access(uid: int) -> AccessRule:
    """The rule where none is written: root and the daemon's own user, ``uid``."""
    return AccessRule(users=frozenset({0, uid}))


def resolve_users(entries: Iterable[str | int], file: str, key: str) -> frozenset[int]:
    """The uids of user names and numbers; a :class:`ConfigurationError` names ``file`` and ``key`` as their place."""
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
    """The ``uid`` or ``gid`` ranges that exist in this process's user namespace (user_namespaces(7), uid_map)."""
    try:
        lines = (_PROC / "self" / f"{identifier}_map").read_text().splitlines()
    except OSError:  # no /proc, or a kernel without user namespaces: nothing is remapped
        return (range(_ALL_IDS),)
    rows = ([int(field) for field in line.split()] for line in lines)
    return tuple(range(inside, inside + length) for inside, _outside, length in rows)
