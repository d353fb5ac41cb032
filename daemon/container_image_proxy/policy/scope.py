"""Which scopes a transport's section of policy.json may name (containers-policy.json(5), "Supported transports").

A scope that can never match is a mistake that would silently widen or narrow trust, so it is an error; under docker,
where other implementations take any, a doubt. Transports that are not known here may name what they like.
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
    canonical = "/" + posixpath.normpath(scope).lstrip("/")
    return None if scope == canonical else f"must be written {canonical!r}"


def _check_ostree(scope: str) -> str | None:
    path, colon, _ = scope.partition(":")
    return _check_path(path) if colon else "must be a repository's path, a colon, and a branch or its beginning"


def _check_daemon(scope: str) -> str | None:
    return "a bare digest is no namespace" if _ALGORITHM_AND_DIGEST.fullmatch(scope) else None


def _refuse(scope: str) -> str | None:  # noqa: ARG001 - whatever the scope is
    return 'the transport knows only its default scope ""'


# By transport, as far as containers-transports(5) and its history know any but docker.
_CHECKS: Final[dict[str, Callable[[str], str | None]]] = {
    "atomic": lambda scope: None if _ATOMIC.fullmatch(scope) else "must be host[:port][/namespace[/imagestream[:tag]]]",
    "containers-storage": lambda scope: None if _STORAGE.fullmatch(scope) else "must begin with [driver@/graph/root]",
    "dir": _check_path,
    "docker-archive": _refuse,
    "docker-daemon": _check_daemon,
    "oci": _check_path,
    "oci-archive": _check_path,
    "ostree": _check_ostree,
    "sif": _check_path,
    "tarball": _refuse,
}


TRANSPORTS: Final = frozenset({"docker", *_CHECKS})
"""Those that the ecosystem knows, whether or not anything can be fetched by them here."""


def verify_scope(transport: str, scope: str) -> None:
    """Raise :class:`MalformedDocumentError` if ``transport`` can have no such scope. The default one is always fine."""
    complaint = _CHECKS[transport](scope) if scope and transport in _CHECKS else None
    if complaint:
        raise MalformedDocumentError(f"scope {shown(scope)}: {complaint}", ("transports", transport))


def doubt_docker_scope(scope: str) -> str | None:
    """What makes a scope match no image in a registry: it is not written in full, or not a name at all."""
    if not scope or _WILDCARD.fullmatch(scope) or _expand(f"{scope}/x/x:1") == f"{scope}/x/x:1":
        return None
    meant = _expand(scope)
    if meant == scope:
        return None
    remedy = f"; in full that is {meant!r}" if meant is not None else ""
    return f"transports.docker: scope {shown(scope)} can match no image{remedy}"


def _expand(text: str) -> str | None:
    """The full name of an image as policy knows it."""
    try:
        return policy_identity(parse_reference(text).with_default_tag())
    except InvalidReferenceError:
        return None
