"""Which scopes a transport's section of policy.json may name (containers-policy.json(5), "Supported transports").

A scope that can never match an image is a mistake that silently widens or narrows trust, so it is an error. For the
transport docker it is a warning only, because other implementations accept any scope there. Scopes of transports that
are unknown here are not checked.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Final

from container_image_proxy.errors import InvalidReferenceError, MalformedDocumentError, shown
from container_image_proxy.image.reference import parse_reference, policy_identity

if TYPE_CHECKING:
    from collections.abc import Callable

_ATOMIC: Final = re.compile(r"[^/]*(?:/[^:/]*(?:/[^:/]*(?::[^:/]*)?)?)?")
_ALGORITHM_AND_DIGEST: Final = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-f]{32,}")
_WILDCARD: Final = re.compile(r"\*(?:\.[A-Za-z0-9-]+)+")
_STORAGE: Final = re.compile(r"\[(?:[^@\]]+@)?/[^\]]*\].*", re.DOTALL)


def _check_path(scope: str) -> str | None:
    if not scope.startswith("/"):
        return "must be an absolute path"
    if scope == "/":
        return 'use the transport\'s default scope ""'
    canonical = "/" + posixpath.normpath(scope).lstrip("/")  # normpath keeps two leading slashes (POSIX)
    return None if scope == canonical else f"must be written {canonical!r}"


def _check_ostree(scope: str) -> str | None:
    path, colon, _ = scope.partition(":")
    return _check_path(path) if colon else "must be a repository's path, a colon, and a branch or its beginning"


def _refuse(scope: str) -> str | None:  # noqa: ARG001 - whatever the scope is
    return 'the transport knows only its default scope ""'


# By transport: those of containers-transports(5), and those that it had in the past. docker has no check.
_CHECKS: Final[dict[str, Callable[[str], str | None]]] = {
    "atomic": lambda scope: None if _ATOMIC.fullmatch(scope) else "must be host[:port][/namespace[/imagestream[:tag]]]",
    "containers-storage": lambda scope: None if _STORAGE.fullmatch(scope) else "must begin with [driver@/graph/root]",
    "dir": _check_path,
    "docker-archive": _refuse,
    "docker-daemon": lambda scope: "a bare digest is no namespace" if _ALGORITHM_AND_DIGEST.fullmatch(scope) else None,
    "oci": _check_path,
    "oci-archive": _check_path,
    "ostree": _check_ostree,
    "sif": _check_path,
    "tarball": _refuse,
}

TRANSPORTS: Final = frozenset({"docker", *_CHECKS})
"""The transports that policy.json can name; this daemon does not fetch by all of them."""


def verify_scope(transport: str, scope: str) -> None:
    """Raise :class:`MalformedDocumentError` if ``transport`` can have no such scope.

    The default scope "" is always legal.
    """
    complaint = _CHECKS[transport](scope) if scope and transport in _CHECKS else None
    if complaint:
        raise MalformedDocumentError(f"scope {shown(scope)}: {complaint}", ("transports", transport))


def warn_about_docker_scope(scope: str) -> str | None:
    """A warning if ``scope`` matches no image in any registry: it is not a full name (``busybox``), or not a name."""
    # A host or namespace is written in full if a name below it, with a tag, needs no completion.
    if not scope or _WILDCARD.fullmatch(scope) or _expand(f"{scope}/x/x:1") == f"{scope}/x/x:1":
        return None
    meant = _expand(scope)
    if meant == scope:
        return None
    remedy = f"; in full that is {meant!r}" if meant is not None else ""
    return f"transports.docker: scope {shown(scope)} can match no image{remedy}"


def _expand(text: str) -> str | None:
    """The full name under which policy knows an image; None if ``text`` is no reference."""
    try:
        return policy_identity(parse_reference(text).with_default_tag())
    except InvalidReferenceError:
        return None
