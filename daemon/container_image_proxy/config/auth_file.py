"""One credentials file: containers-auth.json(5), Docker's config.json, and the old .dockercfg. Bytes in, entries out.

Which files there are and what follows from an entry is ``keychain``'s. No message of this module quotes a file's
content: it is made of secrets.
"""

from __future__ import annotations

import binascii
import logging
import re
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct, field

from container_image_proxy.config.once import warn_once
from container_image_proxy.errors import ConfigurationError, InvalidReferenceError, blamed_on
from container_image_proxy.image import docker_hub
from container_image_proxy.image.confidential import Confidential
from container_image_proxy.image.documents import convert, fold_keys, text_of
from container_image_proxy.image.strict_json import parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from container_image_proxy.errors import KeyPath

_log = logging.getLogger(__name__)
_BASE64: Final = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_SCHEMES: Final = ("http://", "https://")


class AuthEntry(Confidential, frozen=True):
    """An entry as it stands in the file: ``auth`` is base64 of ``user:password``, which may stand beside it, too."""

    auth: str = ""
    identity_token: str = field(name="identitytoken", default="")
    registry_token: str = field(name="registrytoken", default="")
    username: str = ""
    password: str = ""


class _File(Struct, frozen=True, rename="camel"):
    """``credsStore`` is Docker's, and podman knows nothing of it: it is no error whatever it is."""

    auths: dict[str, Any] = field(default_factory=dict)
    cred_helpers: dict[str, Any] = field(default_factory=dict)
    creds_store: Any = ""


class AuthFileContent(Struct, frozen=True):
    """What a file says: entries by key, helpers by registry, and the helper for all that is in neither."""

    entries: Mapping[str, AuthEntry]
    helpers: Mapping[str, str]
    store: str = ""


def parse_auth_file(raw: bytes, file: str, *, is_legacy: bool = False) -> AuthFileContent:
    """Read a whole file; ``is_legacy`` is the format of .dockercfg, which is nothing but the entries.

    :class:`ConfigurationError` if it is not JSON of that shape. Keys count without regard to case, as elsewhere.
    """
    with blamed_on(file):
        value = parse_json(raw, "the content")
        if is_legacy:
            return AuthFileContent(_read_entries(value, ()), {})
        written = _File() if value is None else convert(fold_keys(value, _File), _File)
        if not isinstance(written.creds_store, str):
            warn_once(_log, f"{file}: credsStore: must be a string, ignored")
        return AuthFileContent(
            entries=_read_entries(written.auths, ("auths",)),
            helpers={
                registry: convert("" if helper is None else helper, str, ("credHelpers", registry))
                for registry, helper in written.cred_helpers.items()
            },
            store=text_of(written.creds_store),
        )


def _read_entries(value: object, path: KeyPath) -> Mapping[str, AuthEntry]:
    """The entries by key; null is how Go writes an empty one, and so is the whole."""
    entries = convert(value, dict[str, Any] | None, path) or {}  # type: ignore[arg-type]  # a union is no type to mypy
    return {key: _read_entry(entry, (*path, key)) for key, entry in entries.items()}


def _read_entry(value: object, path: KeyPath) -> AuthEntry:
    return AuthEntry() if value is None else convert(fold_keys(value, AuthEntry), AuthEntry, path)


def lookup_keys(name: str) -> tuple[str, ...]:
    """The keys under which credentials for ``registry[/path]`` may stand: itself, then its parents up to the registry.

    :class:`InvalidReferenceError` for a URL and for a name with tag or digest.
    """
    path = name.partition("/")[2]
    if name.startswith(_SCHEMES) or "@" in name or ":" in path:
        raise InvalidReferenceError(f"{name!r} is not registry[/repository]")
    components = name.split("/")
    return tuple("/".join(components[:end]) for end in range(len(components), 0, -1))


def find_entry(content: AuthFileContent, name: str, *, is_legacy: bool = False) -> tuple[str, AuthEntry] | None:
    """The entry for ``registry[/path]`` and the key that it has in the file.

    An exact key counts before all; then ``docker login``'s keys do, which were URLs once. Nothing matches by its first
    characters: ``registry.example`` is neither ``registry.example.evil.example`` nor ``registry.example:444``.
    """
    registry = name.partition("/")[0]
    for key in (registry,) if is_legacy else lookup_keys(name):
        if key in content.entries:
            return key, content.entries[key]
    wanted = _normalize_registry(registry)
    keys = (key for key in content.entries if normalize_key(key, is_legacy=is_legacy) == wanted)
    return next(((key, content.entries[key]) for key in keys), None)


def normalize_key(key: str, *, is_legacy: bool = False) -> str:
    """The registry that a file's key means if it was a URL, or the key itself; Docker Hub by one of its names."""
    stripped = key.removeprefix("http://").removeprefix("https://")
    return _normalize_registry(stripped.partition("/")[0] if is_legacy or stripped != key else stripped)


def _normalize_registry(registry: str) -> str:
    return docker_hub.OLD_DOMAIN if docker_hub.is_docker_hub(registry) else registry


def decode_auth(entry: AuthEntry, file: str, key: str) -> tuple[str, str]:
    """User and password of an entry, both empty if it holds none, as where a helper keeps them.

    ``auth`` counts before the members ``username`` and ``password``, which Docker and Kubernetes write at times. What
    is ignored is told.
    """
    if not entry.auth:
        return entry.username, entry.password
    packed = entry.auth.replace("\r", "").replace("\n", "")
    if not _BASE64.fullmatch(packed):  # Python takes surplus padding, or not, by its version
        raise ConfigurationError(file, "is not base64 of user:password", key=f"auths.{key}.auth")
    # A password is sent as the bytes that it is, in whichever encoding.
    decoded = binascii.a2b_base64(packed).decode("utf-8", "surrogateescape")
    user, colon, password = decoded.partition(":")
    password = password.strip("\0")
    if not colon:
        warn_once(_log, f"{file}: auths.{key}.auth: has no colon between user and password, ignored")
        return entry.username, entry.password
    if (entry.username or entry.password) and (entry.username, entry.password) != (user, password):
        warn_once(_log, f"{file}: auths.{key}: username and password are not those of auth, ignored")
    return user, password
