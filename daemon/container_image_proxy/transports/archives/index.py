"""The index of a tar archive: members by name, and links resolved inside the archive only. Pure.

Names are keys and never paths: nothing in an archive can name a file of the host. Spec: see ``headers``.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from container_image_proxy.errors import SourceError
from container_image_proxy.transports.archives.headers import Member, read_members, shown

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_NAMES: Final = 16 << 20
"""Bytes of all names that an index keeps."""
_LINKS: Final = frozenset({"hard link", "symbolic link"})
_MAX_LINKS: Final = 40  # followed for one name, as in path_resolution(7)


class TarIndex:
    """The members of one archive. It does not change after it was made.

    Of several members with one name the last counts, as when an archive is extracted. With ``first_counts`` the first
    counts: so containers/image reads Docker's archives.
    """

    def __init__(
        self, read_at: Callable[[int, int], bytes], size: int, place: str, *, first_counts: bool = False
    ) -> None:
        self._place = place
        self._members: dict[bytes, Member] = {}
        kept = 0
        for member in read_members(read_at, size, place):
            name = normalise(member.name)
            # Paths are resolved by names alone, so that a directory's own member is not needed.
            if member.kind == "directory" or not name or (first_counts and name in self._members):
                continue
            kept += len(name) + len(member.target)
            if kept > MAX_NAMES:
                raise SourceError(f"{place}: the members' names have more than {MAX_NAMES} bytes")
            self._members[name] = member

    def __len__(self) -> int:
        return len(self._members)

    def find(self, name: str) -> Member | None:
        """The regular file to which ``name`` leads; None if there is no such member.

        Raises :class:`SourceError` if it is anything else, or a link that leaves the archive or leads nowhere.
        """
        try:
            return self._follow(name.encode())
        except UnicodeEncodeError:
            return None

    def _follow(self, name: bytes) -> Member | None:
        pending, passed, links = deque(name.split(b"/")), list[bytes](), 0
        # Each component that is a link is replaced by its target, as the kernel does with symbolic links.
        while pending:
            component = pending.popleft()
            if component == b"..":
                # Programs that extract have written outside of their directory by such names (contrib/adr/0031).
                if not passed:
                    raise self._failure(name, "leads out of the archive")
                passed.pop()
            elif component not in (b"", b"."):
                passed.append(component)
                member = self._members.get(b"/".join(passed))
                if member is not None and member.kind in _LINKS:
                    links += 1
                    if links > _MAX_LINKS:
                        raise self._failure(name, f"is a chain of more than {_MAX_LINKS} links")
                    self._replace(passed, member)
                    pending.extendleft(reversed(member.target.split(b"/")))
        member = self._members.get(b"/".join(passed))
        if member is None and links:
            raise self._failure(name, "is a link to something that is not in the archive")
        if member is not None and member.kind != "file":
            raise self._failure(name, f"is a {member.kind}, where a regular file was expected")
        return member

    def _replace(self, passed: list[bytes], link: Member) -> None:
        """Change ``passed`` to the directory from which the link's target counts."""
        if link.kind == "hard link":  # it counts from the archive's top, also if it begins with a slash
            passed.clear()
        elif link.target.startswith(b"/"):
            raise self._failure(link.name, f"leads out of the archive, to {shown(link.target)}")
        else:
            passed.pop()

    def _failure(self, name: bytes, reason: str) -> SourceError:
        return SourceError(f"{self._place}: the member {shown(name)} {reason}")


def normalise(name: bytes) -> bytes:
    """A member's name as a key: without leading slash, empty components, ``.`` and ``..``.

    It is empty if the name leads out of the archive.
    """
    passed: list[bytes] = []
    for component in name.split(b"/"):
        if component == b"..":
            if not passed:
                return b""
            passed.pop()
        elif component not in (b"", b"."):
            passed.append(component)
    return b"/".join(passed)
