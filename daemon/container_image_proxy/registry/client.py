"""The registry client: manifests and blobs of references, from wherever the registries configuration says.

The daemon has one, shared by all threads. It puts the layers together: ``http/sender.py`` says how a request is sent,
``attempts`` in which order places are asked and how often. What it returns is unverified, except that a manifest or
small blob with another digest than the one asked for counts as a failure of the place that sent it.
Must not decide what is trusted. Spec: OCI distribution-spec, "Pull" and "Content Discovery".
"""

from __future__ import annotations

from contextlib import closing
from copy import copy
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from container_image_proxy.concurrency.memory import unmetered
from container_image_proxy.errors import (
    DigestMismatchError,
    Error,
    InvalidManifestError,
    RegistryError,
    UnknownManifestError,
)
from container_image_proxy.image.manifest import UntrustedManifest, parse_manifest
from container_image_proxy.image.media_types import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1,
    DOCKER_SCHEMA1_SIGNED,
    OCI_INDEX,
    OCI_MANIFEST,
)
from container_image_proxy.image.schema1 import without_signatures
from container_image_proxy.registry.api import DistributionApi
from container_image_proxy.registry.attempts import Clock
from container_image_proxy.registry.auth.login import Login
from container_image_proxy.registry.auth.realms import TokenRealms
from container_image_proxy.registry.auth.token import Tokens
from container_image_proxy.registry.download import Download
from container_image_proxy.registry.endpoints import Endpoint, Repository
from container_image_proxy.registry.http.connections import Connections
from container_image_proxy.registry.http.headers import parse_content_length, parse_content_range, parse_media_type
from container_image_proxy.registry.http.proxies import parse_proxies
from container_image_proxy.registry.http.redirects import Redirects
from container_image_proxy.registry.http.request import Request
from container_image_proxy.registry.http.schemes import Schemes
from container_image_proxy.registry.http.target import parse_target
from container_image_proxy.registry.places import Places
from container_image_proxy.registry.referrers import (
    MAX_PAGES,
    first_page,
    is_without_api,
    next_page,
    parse_referrers,
    referrers_tag,
    select_referrers,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.config.certificates import CertificateDirectories
    from container_image_proxy.config.limits import Limits
    from container_image_proxy.config.registries import Registries
    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.manifest import Descriptor, Index, IndexEntry
    from container_image_proxy.image.reference import Reference
    from container_image_proxy.registry.auth.keychain import Keychain
    from container_image_proxy.registry.http.reply import Reply

_ACCEPT: Final = (
    f"{OCI_MANIFEST}, {OCI_INDEX}, {DOCKER_MANIFEST}, {DOCKER_LIST}, {DOCKER_SCHEMA1_SIGNED}, {DOCKER_SCHEMA1}"
)
_OK: Final = frozenset({HTTPStatus.OK})
_OK_OR_UNCHANGED: Final = frozenset({HTTPStatus.OK, HTTPStatus.NOT_MODIFIED})
_OK_OR_PART: Final = frozenset({HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT})
_OK_OR_NO_PART: Final = _OK_OR_PART | {HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE}


class RegistryClient:
    """Speaks to all registries and mirrors. Thread-safe.

    ``where`` is a reference, for which the registry and its mirrors are asked in turn, or one place of them, which is
    asked alone. ``first`` is asked before all others, if it is among those that may be asked.
    """

    def __init__(
        self,
        *,
        registries: Registries,
        keychain: Keychain,
        certificates: CertificateDirectories,
        limits: Limits,
        tls_verify: bool | None = None,
        environ: Mapping[str, str],
        token_realms: Collection[str] = (),
        user_agent_prefix: str = "",
        clock: Clock = Clock(),  # noqa: B008 - frozen
    ) -> None:
        """``tls_verify`` overrides ``insecure`` of every registry. ``environ`` names the proxies. ``token_realms`` are
        hosts that may have the credentials of any registry. ``user_agent_prefix`` comes first in ``User-Agent``.

        Raises :class:`ConfigurationError` if a proxy of the environment cannot be used.
        """
        self._limits = limits
        self._clock = clock
        self._places = Places(registries, limits, clock, tls_verify=tls_verify)
        self._connections = Connections(
            limits=limits,
            certificates=certificates,
            proxies=parse_proxies(environ),
            user_agent_prefix=user_agent_prefix,
        )
        # In this order: see registry/http/sender.py.
        self._redirects = Redirects(self._connections, limits)
        realms = TokenRealms(frozenset(host.lower() for host in token_realms))
        tokens = Tokens(self._redirects, limits, realms=realms, clock=clock.now)
        self._api = DistributionApi(Schemes(Login(self._redirects, tokens, keychain, clock.now)), limits)
        self._take: Callable[[int], object] = unmetered

    def metered(self, take: Callable[[int], object]) -> RegistryClient:
        """The same client, which calls ``take`` with the size in bytes of each document that it reads into memory."""
        client = copy(self)  # shallow: connections, tokens, and what is known of failures stay common
        client._take = take  # noqa: SLF001 - of its own kind
        return client

    def prepare(self, reference: Reference) -> None:
        """Do what needs no network before the first request for ``reference``.

        Raises :class:`Error` as that request would, if the configuration is to blame.
        """
        for place in self._places.of(reference):
            self._connections.prepare(place)

    def first_place(self, reference: Reference) -> Repository:
        """Where ``reference`` is asked for first."""
        return self._places.first(reference)

    def fetch_manifest(
        self, context: Context, where: Reference | Repository, digest: Digest | None = None
    ) -> UntrustedManifest:
        """The manifest or index that ``where`` names, or the one in its repository with ``digest``.

        Raises :class:`UnknownManifestError`, :class:`UpstreamError` or :class:`IntegrityError`.
        """
        manifest, _ = self.find_manifest(context, where, digest)
        assert manifest is not None  # noqa: S101 - there may be none only with unless: for mypy
        return manifest

    def find_manifest(
        self,
        context: Context,
        where: Reference | Repository,
        digest: Digest | None = None,
        *,
        unless: Digest | None = None,
        first: Repository | None = None,
    ) -> tuple[UntrustedManifest | None, Repository]:
        """As :meth:`fetch_manifest`, and the place that it came from. None if it is the one with the digest ``unless``.

        What belongs to a manifest (blobs, signatures) is best asked for at that place: another may have an older image.
        """

        def ask(place: Repository) -> UntrustedManifest | None:
            wanted = digest or place.reference.digest
            headers, expected = {"Accept": _ACCEPT}, _OK
            if unless is not None:
                headers["If-None-Match"] = f'"{unless}"'  # registries use the digest as ETag
                expected = _OK_OR_UNCHANGED
            path = f"manifests/{wanted or place.reference.tag}"
            reply = self._api.get(context, place, path, phase="manifest", headers=headers, expected=expected)
            if reply.status == HTTPStatus.NOT_MODIFIED:
                reply.discard(context)
                return None
            manifest = self._read_manifest(context, reply)
            # The caller verifies, too. This is to turn to another mirror while there is one.
            if wanted is not None and not wanted.matches(manifest.raw):
                raise DigestMismatchError(f"{reply.endpoint} sent another manifest than {wanted}")
            if place.is_mirror:
                # What a captive portal answers in a mirror's stead must not keep the next place from being asked.
                try:
                    parse_manifest(manifest)
                except InvalidManifestError as error:
                    raise error.retold(f"{reply.endpoint} sent no usable manifest: {error}") from None
            # Not every registry knows If-None-Match.
            return None if unless is not None and unless.matches(manifest.raw) else manifest

        attempts = self._places.attempts(context, where, first=first)
        manifest = attempts.ask(ask)
        return manifest, attempts.endpoint

    def _read_manifest(self, context: Context, reply: Reply) -> UntrustedManifest:
        media_type = parse_media_type(reply.header("Content-Type") or "")
        raw = reply.read_all(context, self._limits.manifest_size, self._take)
        if raw is None:
            raise InvalidManifestError(f"{reply.endpoint} sent a manifest of over {self._limits.manifest_size} bytes")
        return UntrustedManifest(without_signatures(raw), media_type)

    def fetch_blob(self, context: Context, where: Reference | Repository, descriptor: Descriptor) -> bytes:
        """A small blob, whole, with the digest that ``descriptor`` names.

        Raises what the reader of :meth:`open_blob` raises.
        """
        self._take(descriptor.size)
        content = memoryview(bytearray(max(1, descriptor.size)))  # a reader takes no empty buffer
        with closing(self.open_blob(context, where, descriptor)) as reader:
            return bytes(content[: reader.readinto(content)])

    def open_blob(
        self,
        context: Context,
        where: Reference | Repository,
        descriptor: Descriptor,
        *,
        first: Repository | None = None,
        offset: int = 0,
        stop: int | None = None,
    ) -> Download[Repository]:
        """A reader of the blob's bytes from ``offset`` up to ``stop``, by default the end. They are unverified.

        Nothing is asked for before the reader is read. It raises :class:`UnknownBlobError`, :class:`UpstreamError` or
        :class:`IntegrityError`. The ``urls`` of the descriptor are never fetched.
        """
        # A host in ``urls`` could ask for a login and get the registry's credentials (CVE-2020-15157, of containerd).
        end = descriptor.size if stop is None else stop

        def open_at(place: Repository, offset: int | None) -> Reply:
            is_part = offset is not None and (offset > 0 or end < descriptor.size)
            return self._api.get(
                context,
                place,
                f"blobs/{descriptor.digest}",
                phase="blob",
                headers={"Range": f"bytes={offset}-{end - 1}"} if is_part else {},
                expected=_OK_OR_NO_PART if is_part else _OK_OR_PART,
            )

        attempts = self._places.attempts(context, where, first=first)
        return Download(context, open_at, attempts, descriptor, self._limits, self._clock, offset, end)

    def measure_blob(
        self, context: Context, where: Reference | Repository, digest: Digest, *, first: Repository | None = None
    ) -> int:
        """The blob's size in bytes, as a place that has it says. Raises what a reader of the blob raises."""

        def ask(place: Repository) -> int:
            # The first byte is asked for. HEAD would do, but not all storage to which registries redirect takes it.
            headers = {"Range": "bytes=0-0"}
            reply = self._api.get(
                context, place, f"blobs/{digest}", phase="blob", headers=headers, expected=_OK_OR_PART
            )
            try:
                if reply.status == HTTPStatus.PARTIAL_CONTENT:
                    size = parse_content_range(reply.header("Content-Range") or "").complete
                else:
                    size = parse_content_length(reply.header("Content-Length") or "")
            finally:
                reply.close()
            if size is None:
                raise reply.fault(RegistryError, f"{reply.endpoint} does not say how large {digest} is")
            return size

        return self._places.attempts(context, where, first=first).ask(ask)

    def fetch_referrers(
        self, context: Context, where: Reference | Repository, digest: Digest, artifact_type: str
    ) -> tuple[IndexEntry, ...]:
        """The referrers of ``digest`` whose type is ``artifact_type`` or is not told; at most ``MAX_REFERRERS``.

        Raises what :meth:`list_referrers` raises.
        """
        lists = self.list_referrers(context, where, digest, artifact_type)
        return select_referrers((entry for index in lists for entry in index.manifests), artifact_type)

    def list_referrers(
        self, context: Context, where: Reference | Repository, digest: Digest, artifact_type: str = ""
    ) -> tuple[Index, ...]:
        """The lists of the manifests in that repository that say they are about ``digest``, as the registry has them.

        A registry without an API for them has at most one: the index that clients keep under a tag. A registry may
        filter by ``artifact_type``, and need not. Raises :class:`UpstreamError` or :class:`IntegrityError`.
        Spec: OCI distribution-spec, "Listing Referrers" and "Referrers Tag Schema".
        """

        def ask(place: Repository) -> tuple[Index, ...]:
            found: list[Index] = []
            path: str | None = first_page(digest, artifact_type)
            headers = {"Accept": OCI_INDEX}
            while path is not None:
                reply = self._api.get(context, place, path, phase="referrers", headers=headers, expected=_OK)
                found.append(parse_referrers(self._read_manifest(context, reply), reply.endpoint))
                path = next_page(reply, place)
                if path is not None and len(found) == MAX_PAGES:
                    raise reply.fault(RegistryError, f"{place.domain} lists referrers on more than {MAX_PAGES} pages")
            return tuple(found)

        try:
            return self._places.attempts(context, where).ask(ask)
        except Error as error:
            if not is_without_api(error):
                raise
        place = where if isinstance(where, Repository) else self.first_place(where)
        place = place.with_tag(referrers_tag(digest))
        try:
            return (parse_referrers(self.fetch_manifest(context, place), str(place.reference)),)
        except UnknownManifestError:
            return ()

    def fetch_document(self, context: Context, url: str, *, limit: int) -> bytes | None:
        """The document of at most ``limit`` bytes at ``url`` (http or https); None if there is none (404).

        No credentials are sent but the URL's own. Raises :class:`UpstreamError`, also for a larger document.
        """
        try:
            target = parse_target(url)
        except RegistryError as error:
            raise error.retold(f"no signature can be fetched from the URL that registries.d makes: {error}") from None
        request = Request(
            target=target,
            endpoint=Endpoint(domain=target.origin.authority),
            phase="signature",
            authorization=target.authorization,
        )

        def ask(_: Endpoint) -> bytes | None:
            # Past the login: a lookaside is no registry, so the credentials of one are none of its business.
            reply = self._redirects.send(request, context)
            if reply.status == HTTPStatus.NOT_FOUND:
                reply.discard(context)
                return None
            if reply.status != HTTPStatus.OK:
                raise reply.error(context)
            document = reply.read_all(context, limit, self._take)
            if document is None:
                raise reply.fault(RegistryError, f"{reply.endpoint} sent a document of over {limit} bytes")
            return document

        return self._places.attempts_at(context, request.endpoint).ask(ask)

    def close(self) -> None:
        """Close the connections that are kept for reuse."""
        self._connections.close()
