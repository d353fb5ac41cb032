"""Parses one credentials file: containers-auth.json(5), Docker's config.json, or the old .dockercfg.

``registry/auth/keychain`` chooses the files and uses the entries. No message of this module quotes a file's content,
because it consists of secrets.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct, field

from container_image_proxy.config.once import warn_once
from container_image_proxy.errors import ConfigurationError, InvalidReferenceError, MalformedDocumentError, blamed_on
from container_image_proxy.image import docker_hub
from container_image_proxy.image.confidential import Confidential
from container_image_proxy.image.documents import convert, decode_base64, fold_keys, text_of
from container_image_proxy.image.strict_json import parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from container_image_proxy.errors import KeyPath

_log = logging.getLogger(__name__)
_SCHEMES: Final = ("http://", "https://")


class AuthEntry(Confidential, frozen=True):
    """An entry of the file. ``auth`` is base64 of ``user:password``; some programs write both members as well."""

    auth: str = ""
    identity_token: str = field(name="identitytoken", default="")
    registry_token: str = field(name="registrytoken", default="")
    username: str = ""
    password: str = ""


class _File(Struct, frozen=True, rename="camel"):
    """The document. ``credsStore`` is Docker's and podman does not read it, so that no value of it is an error."""

    auths: dict[str, Any] = field(default_factory=dict)
    cred_helpers: dict[str, Any] = field(default_factory=dict)
    creds_store: Any = ""


class AuthFileContent(Struct, frozen=True):
    """Entries by key, credential helpers by registry, and ``store``, the helper for all other registries ("" if
    none).
    """

    entries: Mapping[str, AuthEntry]
    helpers: Mapping[str, str]
    store: str = ""


def parse_auth_file(raw: bytes, file: str, *, is_legacy: bool = False) -> AuthFileContent:
    """The content of a file; ``is_legacy`` is the format of .dockercfg, which has the entries alone.

    Keys are matched without regard to case, as in Go. :class:`ConfigurationError` about ``file`` if it is malformed.
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
    # Go writes null for an empty mapping and for an empty entry.
    entries = convert(value, dict[str, Any] | None, path) or {}  # type: ignore[arg-type]  # a union is no type to mypy
    return {
        key: AuthEntry() if entry is None else convert(fold_keys(entry, AuthEntry), AuthEntry, (*path, key))
        for key, entry in entries.items()
    }


def lookup_keys(name: str) -> tuple[str, ...]:
    """The keys that may hold credentials for ``registry[/path]``: the name itself, then its parents up to the registry.

    :class:`InvalidReferenceError` for a URL and for a name with tag or digest.
    """
    path = name.partition("/")[2]
    if name.startswith(_SCHEMES) or "@" in name or ":" in path:
        raise InvalidReferenceError(f"{name!r} is not registry[/repository]")
    components = name.split("/")
    return tuple("/".join(components[:end]) for end in range(len(components), 0, -1))


def find_entry(content: AuthFileContent, name: str, *, is_legacy: bool = False) -> tuple[str, AuthEntry] | None:
    """The entry for ``registry[/path]`` and its key in the file; None if there is none.

    An exact key is preferred. Then come keys that older versions of ``docker login`` wrote, which may be URLs.
    """
    # Whole names are compared, not beginnings: credentials for registry.example must not go to the registry
    # registry.example.evil.example, nor to registry.example:444.
    registry = name.partition("/")[0]
    for key in (registry,) if is_legacy else lookup_keys(name):
        if key in content.entries:
            return key, content.entries[key]
    wanted = _normalize_registry(registry)
    keys = (key for key in content.entries if normalize_key(key, is_legacy=is_legacy) == wanted)
    return next(((key, content.entries[key]) for key in keys), None)


def normalize_key(key: str, *, is_legacy: bool = False) -> str:
    """The registry of a key that is a URL, or else the key itself. The names of Docker Hub become one name."""
    stripped = key.removeprefix("http://").removeprefix("https://")
    return _normalize_registry(stripped.partition("/")[0] if is_legacy or stripped != key else stripped)


def _normalize_registry(registry: str) -> str:
    return docker_hub.OLD_DOMAIN if docker_hub.is_docker_hub(registry) else registry


def decode_auth(entry: AuthEntry, file: str, key: str) -> tuple[str, str]:
    """User and password of an entry. Both are "" if it has none, for example because a helper keeps them.

    ``auth`` is preferred to ``username`` and ``password``, and a warning is logged if they differ.
    :class:`ConfigurationError` about ``key`` of ``file`` if ``auth`` is not base64.
    """
    if not entry.auth:
        return entry.username, entry.password
    try:
        decoded = decode_base64(entry.auth)
    except MalformedDocumentError as error:
        raise ConfigurationError(file, "is not base64 of user:password", key=f"auths.{key}.auth") from error
    # A password may be in any encoding. surrogateescape keeps its bytes, which are sent as they are.
    user, colon, password = decoded.decode("utf-8", "surrogateescape").partition(":")
    password = password.strip("\0")  # as docker and podman do
    if not colon:
        warn_once(_log, f"{file}: auths.{key}.auth: has no colon between user and password, ignored")
        return entry.username, entry.password
    if (entry.username or entry.password) and (entry.username, entry.password) != (user, password):
        warn_once(_log, f"{file}: auths.{key}: username and password are not those of auth, ignored")
    return user, password
