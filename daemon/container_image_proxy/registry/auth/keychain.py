"""Credentials for registries: where they are looked for, in which order, and whose they are.

They are found by the name of the place that is contacted, never by the name of the image that was asked for. The
credentials of a registry therefore do not reach its mirrors.
Must not send them, which ``login`` does. Spec: containers-auth.json(5), ``credential-helpers`` of
containers-registries.conf(5), ``credsStore`` of Docker's config.json, systemd.exec(5) for the credential ``auth.json``.
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
"""Bytes of an auth.json: some thousand entries."""


class Credentials(Confidential, frozen=True):
    """User and password, or an identity token, or both.

    ``identity_token`` is an OAuth2 refresh token, with which a token service is asked. ``registry_token`` is a Bearer
    token itself, and comes alone. ``origin`` names the file or helper that supplied them, for messages.
    """

    username: str
    password: str
    identity_token: str = ""
    origin: str = ""
    registry_token: str = ""


class AuthFile(Confidential, frozen=True):
    """A file to search. Unless ``content`` is set it is read for each lookup: rotated credentials count at once.

    A file that ``is_required`` was named by somebody. Any other need not exist, nor be meant for us: what it could
    grant is then missing, and nothing else (contrib/adr/0016). ``remedy`` says what to do if the file is wanted and
    cannot be read.
    """

    path: Path
    is_required: bool = False
    is_legacy: bool = False
    remedy: str = ""
    content: bytes | None = None

    def load(self) -> AuthFileContent | None:
        """What the file says now; None if it cannot be read and is not required.

        Raises :class:`ConfigurationError` if it cannot be read and is required, or is malformed.
        """
        raw = self.content
        if raw is None and self.is_required:
            raw = load_trusted_file(self.path, limit=_MAX_FILE, secret=True, if_denied=self.remedy)
        elif raw is None:
            raw = load_trusted_file_if_readable(self.path, limit=_MAX_FILE, secret=True, remedy=self.remedy)
        return None if raw is None else parse_auth_file(raw, str(self.path), is_legacy=self.is_legacy)


class Keychain(Struct, frozen=True):
    """Finds out who we are towards a registry.

    ``given`` are the credentials of the command line, by registry, which count before all others. ``helpers`` are asked
    in their order; one of them stands for ``files``. ``programs`` runs the others.
    """

    files: tuple[AuthFile, ...] = ()
    helpers: tuple[str, ...] = (AUTH_FILES,)
    programs: CredentialHelpers = field(default_factory=lambda: CredentialHelpers({}))
    given: Mapping[str, Credentials] = field(default_factory=lambda: MappingProxyType({}))

    def credentials_for(self, context: Context, reference: Reference) -> Credentials | None:
        """As :meth:`find`, for the place from which ``reference`` is pulled (``PullSource.reference``)."""
        return self.find(context, reference.name)

    def find(self, context: Context, name: str) -> Credentials | None:
        """The credentials for ``registry[/path]``: the most specific entry of the first source that has any.

        None stands for anonymous. Raises :class:`ConfigurationError` if a file is broken or a helper fails, and no
        other source has any.
        """
        registry = lookup_keys(name)[-1]
        if registry in self.given:
            return self.given[registry]
        failures: list[ConfigurationError] = []
        for helper in self.helpers:
            try:
                if helper == AUTH_FILES:
                    each = (self._find_in_file(context, file, name) for file in self.files)
                    found = next(filter(None, each), None)
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

    def _find_in_file(self, context: Context, file: AuthFile, name: str) -> Credentials | None:
        """The credentials that one file has: of a registry's own helper, of its entry, or of the helper for all."""
        content = file.load()
        if content is None:
            return None
        registry = lookup_keys(name)[-1]
        if registry in content.helpers:
            return self._ask(context, content.helpers[registry], registry, f"credHelpers in {file.path}")
        found = _decode(file, content, name)
        if found or not content.store:
            return found
        # For Docker Hub, docker login hands its helper this URL.
        server = docker_hub.SERVER_URL if docker_hub.is_docker_hub(registry) else registry
        try:
            return self._ask(context, content.store, server, f"credsStore in {file.path}")
        except ConfigurationError as error:
            # credsStore is Docker's, and podman ignores it. One that is not installed here stops nobody.
            warn_once(_log, f"{file.path}: credsStore: ignored: {error}")
            return None

    def _ask(self, context: Context, helper: str, server: str, said_by: str) -> Credentials | None:
        answer = self.programs.get(context, helper, server)
        if answer is None:
            return None
        origin = f"docker-credential-{helper} ({said_by})"
        return Credentials(answer.username, answer.password, answer.identity_token, origin)


def _decode(file: AuthFile, content: AuthFileContent, name: str) -> Credentials | None:
    """The credentials of the most specific entry for ``name``; None without one, or if it is empty."""
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
    """The keychain of the user ``uid``, checked as far as that needs no network and no helper.

    ``creds`` (``--creds``) are for the named registries, not for their mirrors. ``content`` is that of ``authfile``, if
    it was read already. ``instance`` is named in messages.
    Raises :class:`ConfigurationError` if a required file cannot be read, a file is malformed, or no helper can have the
    name that one has in the configuration.
    """
    if no_creds:
        return Keychain(helpers=())
    if authfile and content is not None:
        files: tuple[AuthFile, ...] = (AuthFile(authfile, content=content),)
    else:
        files = find_auth_files(authfile=authfile, environ=environ, home=home, uid=uid, root=root, instance=instance)
    keychain = Keychain(files, credential_helpers, CredentialHelpers(environ), creds)
    # Say now what would otherwise fail with the first pull. A file that need not exist may still break later.
    for file in files:
        file.load()
    for helper in credential_helpers:
        if helper != AUTH_FILES:
            keychain.programs.find(helper)
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
    """The files to search, in order. A file that somebody named, or that systemd handed over, is the only one."""
    named = authfile or find_named_auth_file(environ)
    if named:
        handed = f"instead of naming it, a drop-in of the unit with LoadCredential=auth.json:{named} hands it over"
        return (AuthFile(named, is_required=True, remedy=handed if instance else "name a file of this user's own"),)
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
