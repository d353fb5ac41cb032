"""Credentials for registries: where they are looked for, in which order, and whose they are.

containers-auth.json(5), the ``credential-helpers`` of containers-registries.conf(5), ``credsStore`` of Docker's
config.json, a systemd credential named ``auth.json``. Credentials are found by the name of the place that is contacted,
never by the name of the image that was asked for. The credentials of a registry therefore do not reach its mirrors.
``registry`` sends them.
"""

from __future__ import annotations

import logging
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from msgspec import Struct, field

from container_image_proxy.config.auth_file import decode_auth, find_entry, lookup_keys, parse_auth_file
from container_image_proxy.config.locations import (
    ROOT,
    find_auth_credential,
    find_default_auth_files,
    find_named_auth_file,
)
from container_image_proxy.config.once import warn_once
from container_image_proxy.config.registries import AUTH_FILES
from container_image_proxy.config.trusted_file import (
    load_trusted_file,
    load_trusted_file_if_present,
    load_trusted_file_if_readable,
)
from container_image_proxy.errors import ConfigurationError
from container_image_proxy.image import docker_hub
from container_image_proxy.image.confidential import Confidential
from container_image_proxy.registry.auth.helpers import CredentialHelpers

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.config.auth_file import AuthFileContent
    from container_image_proxy.image.reference import Reference

CREDENTIAL_STORE: Final = "/etc/credstore/container-image-proxy.{}.auth.json"
"""Where the unit of an instance looks for its credentials (systemd.exec(5), LoadCredential=)."""
_log = logging.getLogger(__name__)
_MAX_FILE: Final = 1 << 20


class Credentials(Confidential, frozen=True):
    """User and password, or an identity token (an OAuth2 refresh token, for which tokens are to be had), or both.

    ``registry_token`` is a Bearer token itself, where there is nothing else. ``origin`` names the file or helper that
    supplied them, for messages.
    """

    username: str
    password: str
    identity_token: str = ""
    origin: str = ""
    registry_token: str = ""


class AuthFile(Confidential, frozen=True):
    """A file to search. Unless ``content`` is set it is read for each lookup: rotated credentials count at once.

    One that ``is_required`` was named by somebody; others need not exist, nor be meant for us. ``remedy`` tells what to
    do if one that cannot be read is wanted.
    """

    path: Path
    is_required: bool = False
    is_legacy: bool = False
    remedy: str = ""
    content: bytes | None = None

    def load(self) -> AuthFileContent | None:
        """What the file says now, one whole version of it; None if it is absent, or not to be read, and may be."""
        raw = self.content if self.content is not None else self._read()
        return None if raw is None else parse_auth_file(raw, str(self.path), is_legacy=self.is_legacy)

    def _read(self) -> bytes | None:
        if self.is_required:
            return load_trusted_file(self.path, limit=_MAX_FILE, secret=True)
        return load_trusted_file_if_readable(self.path, limit=_MAX_FILE, secret=True, remedy=self.remedy)


class Keychain(Struct, frozen=True):
    """Answers who we are towards a registry. ``given`` are the credentials of the command line, by registry."""

    files: tuple[AuthFile, ...] = ()
    helpers: tuple[str, ...] = (AUTH_FILES,)
    programs: CredentialHelpers = field(default_factory=lambda: CredentialHelpers({}))
    given: Mapping[str, Credentials] = field(default_factory=lambda: MappingProxyType({}))

    def credentials_for(self, context: Context, reference: Reference) -> Credentials | None:
        """The credentials for the place where ``reference`` is pulled from (``PullSource.reference``); None: anonymous.

        :class:`ConfigurationError` if a file is broken or a helper fails, and no other source has any.
        """
        return self.find(context, reference.name)

    def find(self, context: Context, name: str) -> Credentials | None:
        """The credentials for ``registry[/path]``, the most specific entry of the first source that has any."""
        registry = lookup_keys(name)[-1]
        if registry in self.given:
            return self.given[registry]
        failures: list[ConfigurationError] = []
        for helper in self.helpers:
            try:
                if helper == AUTH_FILES:
                    found = self._find_in_files(context, name)
                else:
                    found = self._ask(context, helper, registry, "registries.conf")
            except ConfigurationError as error:
                failures.append(error)
                continue
            if found:
                for failure in failures:
                    warn_once(_log, f"{failure}; credentials for {registry} are from {found.origin}")
                return found
        if failures:
            raise failures[0].retold("; ".join(map(str, failures)))
        return None

    def _find_in_files(self, context: Context, name: str) -> Credentials | None:
        return next((found for file in self.files if (found := self._find_in_file(context, file, name))), None)

    def _find_in_file(self, context: Context, file: AuthFile, name: str) -> Credentials | None:
        """An entry's helper counts before the entry itself, and both before the helper for everything."""
        content = file.load()
        if content is None:
            return None
        registry = lookup_keys(name)[-1]
        if registry in content.helpers:
            return self._ask(context, content.helpers[registry], registry, f"credHelpers in {file.path}")
        return _decode(file, content, name) or self._ask_store(context, file, content, registry)

    def _ask_store(
        self, context: Context, file: AuthFile, content: AuthFileContent, registry: str
    ) -> Credentials | None:
        """``credsStore`` is Docker's; podman ignores it, so that one that is not here, or not for us, stops nobody."""
        if not content.store:
            return None
        server = docker_hub.SERVER_URL if docker_hub.is_docker_hub(registry) else registry
        try:
            return self._ask(context, content.store, server, f"credsStore in {file.path}")
        except ConfigurationError as error:
            warn_once(_log, f"{file.path}: credsStore: ignored: {error}")
            return None

    def _ask(self, context: Context, helper: str, server: str, said_by: str) -> Credentials | None:
        answer = self.programs.get(context, helper, server)
        if answer is None:
            return None
        origin = f"docker-credential-{helper} ({said_by})"
        return Credentials(answer.username, answer.password, answer.identity_token, origin)


def _decode(file: AuthFile, content: AuthFileContent, name: str) -> Credentials | None:
    found = find_entry(content, name, is_legacy=file.is_legacy)
    if not found:
        return None
    key, entry = found
    user, password = decode_auth(entry, str(file.path), key)
    if user or password or entry.identity_token:
        if entry.registry_token:
            warn_once(_log, f"{file.path}: auths.{key}.registrytoken: ignored beside other credentials")
        return Credentials(user, password, entry.identity_token, str(file.path))
    if entry.registry_token:
        return Credentials("", "", "", str(file.path), entry.registry_token)
    return None


def load_keychain(
    *,
    authfile: Path | None = None,
    content: bytes | None = None,
    environ: Mapping[str, str],
    home: Path,
    uid: int,
    root: Path = ROOT,
    creds: Mapping[str, Credentials] = MappingProxyType({}),
    no_creds: bool = False,
    credential_helpers: tuple[str, ...] = (AUTH_FILES,),
    instance: str | None = None,
) -> Keychain:
    """The keychain of the user ``uid``. ``creds`` (``--creds``) are for the named registries, not for their mirrors;
    ``instance`` is for messages. ``content`` is that of ``authfile`` if it was read already.

    :class:`ConfigurationError` if a file that has to be there is not, or is broken, or a helper has no possible name.
    """
    if no_creds:
        return Keychain(helpers=())
    if authfile and content is not None:
        files: tuple[AuthFile, ...] = (AuthFile(authfile, content=content),)
    else:
        files = find_auth_files(authfile=authfile, environ=environ, home=home, uid=uid, root=root, instance=instance)
    keychain = Keychain(files, credential_helpers, CredentialHelpers(environ), creds)
    _check(keychain)
    return keychain


def find_auth_files(
    *,
    authfile: Path | None,
    environ: Mapping[str, str],
    home: Path,
    uid: int,
    root: Path = ROOT,
    instance: str | None = None,
) -> tuple[AuthFile, ...]:
    """The files to search, in order. One that is named, or handed over by systemd, is the only one."""
    named = authfile or find_named_auth_file(environ)
    if named:
        return (AuthFile(named, is_required=True),)
    credential = find_auth_credential(environ)
    content = load_trusted_file_if_present(credential, limit=_MAX_FILE) if credential else None
    if credential and content is not None:
        return (AuthFile(credential, content=content),)
    found = find_default_auth_files(environ=environ, home=home, uid=uid, root=root)
    place = f"put them into {CREDENTIAL_STORE.format(instance)}" if instance else "name a file by --authfile"
    remedy = f"if credentials are needed, {place}"
    return (
        *(AuthFile(path, remedy=remedy) for path in found),
        AuthFile(home / ".dockercfg", is_legacy=True, remedy=remedy),
    )


def _check(keychain: Keychain) -> None:
    """Say at start what would otherwise fail with the first pull; files that need not exist may still break later."""
    for file in keychain.files:
        file.load()
    for helper in keychain.helpers:
        if helper != AUTH_FILES:
            keychain.programs.find(helper)
