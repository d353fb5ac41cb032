"""What the names of a layer's members mean: paths below the root, and whiteouts. Pure.

Spec: OCI image-spec, layer.md, "Whiteouts".
"""

from __future__ import annotations

import os
from typing import Final

from container_image_client.errors import WrongContentError

_WHITEOUT: Final = b".wh."
_OPAQUE: Final = b".wh..wh..opq"
_OF_AUFS: Final = b".wh..wh."  # further names that mean nothing to anybody else
_LONGEST: Final = 4095  # PATH_MAX of linux/limits.h, without the NUL


def path_of(name: bytes) -> list[bytes]:
    """A member's path below the root, as podman reads it: a leading slash means the root, and ".." may not lead out."""
    verify_length(name)
    path: list[bytes] = []
    for component in name.split(b"/"):
        if component == b"..":
            if not path:
                raise WrongContentError(f"the name {shown(name)} in a layer leads out of the image")
            path.pop()
        elif component and component != b".":
            path.append(component)
    return path


def verify_length(name: bytes) -> None:
    """Raise :class:`WrongContentError` for a name, or a link's text, that no system call takes."""
    if len(name) > _LONGEST:
        raise WrongContentError(f"a name in a layer has {len(name)} bytes; {_LONGEST} are allowed: {shown(name)}")


def is_whiteout(name: bytes) -> bool:
    """Whether a member of this name hides something, instead of being something."""
    return name.startswith(_WHITEOUT)


def hidden_by(whiteout: bytes) -> bytes | None:
    """The name that a whiteout hides in its directory: empty for all of them, None if it means nothing."""
    if whiteout == _OPAQUE:
        return b""
    if whiteout.startswith(_OF_AUFS):
        return None
    hidden = whiteout.removeprefix(_WHITEOUT)
    if hidden in (b"", b".", b".."):
        raise WrongContentError(
            f"a layer has a whiteout named {shown(whiteout)}, which names nothing that it could hide"
        )
    return hidden


def shown(name: bytes) -> str:
    """A name for a message, whatever bytes it has."""
    return repr(os.fsdecode(name[:200]))
