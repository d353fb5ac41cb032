"""The registry client: manifests and blobs of references, from wherever the registries configuration says.

There is one for the daemon, shared by all threads. It puts the layers together: ``registry/http/sender.py`` says how a
request is sent, ``attempts`` the order of endpoints and retries. What it returns is unverified. It compares only the
digest of a manifest that was asked for by digest, to turn to another mirror in time.
"""

from __future__ import annotations

from contextlib import closing
from copy import copy
from functools import partial
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
    """Speaks to all registries and mirrors. Thread-safe."""

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
        """``tls_verify`` overrides ``insecure`` of every registry; ``environ`` names the proxies. ``user_agent_prefix``
        tells servers first who asks.

        :class:`ConfigurationError` if a proxy of the environment cannot be used.
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
        """The same client for one who asks ``take`` for the memory of each document, in bytes."""
        client = copy(self)
        client._take = take  # noqa: SLF001 - of its own kind
        return client

    def prepare(self, reference: Reference) -> None:
        """Do what needs no network before the first request for ``reference``; raises :class:`Error` as that would."""
        for place in self._places.of(reference):
            self._connections.prepare(place)

    def first_place(self, reference: Reference) -> Repository:
        """Where ``reference`` is asked for first.

        What belongs to a manifest can be asked for where that came from and nowhere else: the methods below take such a
        place instead of a reference.
        """
        return self._places.first(reference)

    def fetch_manifest(
        self,
        context: Context,
        where: Reference | Repository,
        digest: Digest | None = None,
        *,
        unless: Digest | None = None,
    ) -> UntrustedManifest | None:
        """The manifest or index that ``where`` names, or the one in its repository with ``digest``.

        None only if that is the one with the digest ``unless``. Raises :class:`UnknownManifestError`,
        :class:`UpstreamError`, :class:`IntegrityError`.
        """
        return self.find_manifest(context, where, digest, unless=unless)[0]

    def find_manifest(
        self,
        context: Context,
        where: Reference | Repository,
        digest: Digest | None = None,
        *,
        unless: Digest | None = None,
        first: Repository | None = None,
    ) -> tuple[UntrustedManifest | None, Repository]:
        """As :meth:`fetch_manifest`, and where it came from; ``first`` is asked before all others."""
        attempts = self._places.attempts(context, where, first=first)
        manifest = attempts.ask(partial(self._fetch_manifest, context, digest=digest, unless=unless))
        return manifest, attempts.endpoint

    def _fetch_manifest(
        self, context: Context, repository: Repository, *, digest: Digest | None, unless: Digest | None
    ) -> UntrustedManifest | None:
        digest = digest or repository.reference.digest
        name = str(digest) if digest is not None else repository.reference.tag
        headers = {"Accept": _ACCEPT} | ({"If-None-Match": f'"{unless}"'} if unless is not None else {})
        expected = _OK if unless is None else _OK_OR_UNCHANGED
        reply = self._api.get(
            context, repository, f"manifests/{name}", phase="manifest", headers=headers, expected=expected
        )
        if reply.status == HTTPStatus.NOT_MODIFIED:
            reply.discard(context)
            return None
        manifest = self._read_manifest(context, reply)
        if digest is not None and not digest.matches(manifest.raw):
            raise DigestMismatchError(f"{reply.endpoint} sent another manifest than {digest}")
        if repository.is_mirror:
            _verify_is_manifest(manifest, reply.endpoint)
        return None if unless is not None and unless.matches(manifest.raw) else manifest

    def _read_manifest(self, context: Context, reply: Reply) -> UntrustedManifest:
        media_type = parse_media_type(reply.header("Content-Type") or "")
        raw = reply.read_all(context, self._limits.manifest_size, self._take)
        if raw is None:
            raise InvalidManifestError(f"{reply.endpoint} sent a manifest of over {self._limits.manifest_size} bytes")
        return UntrustedManifest(without_signatures(raw), media_type)

    def fetch_blob(self, context: Context, where: Reference | Repository, descriptor: Descriptor) -> bytes:
        """A small blob, whole, as ``descriptor`` says. Raises what the reader of :meth:`open_blob` raises."""
        self._take(descriptor.size)
        content = memoryview(bytearray(max(1, descriptor.size)))
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
        """A reader of the blob from ``offset`` on, up to ``stop``, by default its end, unverified. Nothing is asked for
        until it is read, then ``first`` before all others.

        It raises :class:`UnknownBlobError`, :class:`UpstreamError` or :class:`IntegrityError`. The ``urls`` of the
        descriptor are never fetched.
        """
        attempts = self._places.attempts(context, where, first=first)
        end = descriptor.size if stop is None else stop
        open_at = partial(self._open_blob, context, descriptor=descriptor, stop=end)
        return Download(context, open_at, attempts, descriptor, self._limits, self._clock, offset, end)

    def _open_blob(
        self, context: Context, repository: Repository, offset: int | None, *, descriptor: Descriptor, stop: int
    ) -> Reply:
        is_part = offset is not None and (offset > 0 or stop < descriptor.size)
        headers = {"Range": f"bytes={offset}-{stop - 1}"} if is_part else {}
        expected = _OK_OR_NO_PART if is_part else _OK_OR_PART
        path = f"blobs/{descriptor.digest}"
        return self._api.get(context, repository, path, phase="blob", headers=headers, expected=expected)

    def measure_blob(
        self, context: Context, where: Reference | Repository, digest: Digest, *, first: Repository | None = None
    ) -> int:
        """How large the blob is, as whoever has it says. Raises what a reader of the blob does."""
        return self._places.attempts(context, where, first=first).ask(
            partial(self._measure_blob, context, digest=digest)
        )

    def _measure_blob(self, context: Context, repository: Repository, *, digest: Digest) -> int:
        """Ask for the first byte. HEAD would do, but not all storage to which registries redirect takes it."""
        headers = {"Range": "bytes=0-0"}
        path = f"blobs/{digest}"
        reply = self._api.get(context, repository, path, phase="blob", headers=headers, expected=_OK_OR_PART)
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

    def fetch_referrers(
        self, context: Context, where: Reference | Repository, digest: Digest, artifact_type: str
    ) -> tuple[IndexEntry, ...]:
        """The manifests in that repository that say they are about ``digest``, of ``artifact_type`` or of a type that
        is not told; at most ``MAX_REFERRERS``. Raises what :meth:`list_referrers` does.
        """
        lists = self.list_referrers(context, where, digest, artifact_type)
        return select_referrers((entry for index in lists for entry in index.manifests), artifact_type)

    def list_referrers(
        self, context: Context, where: Reference | Repository, digest: Digest, artifact_type: str = ""
    ) -> tuple[Index, ...]:
        """The lists of the manifests in that repository that say they are about ``digest``, as the registry has them.

        Where it has no API for them, the index that clients keep under a tag. ``artifact_type`` may shorten the lists.
        Raises :class:`UpstreamError` or :class:`IntegrityError`.
        """
        path = first_page(digest, artifact_type)
        try:
            return self._places.attempts(context, where).ask(partial(self._list_referrers, context, path=path))
        except Error as error:
            if not is_without_api(error):
                raise
            return self._fetch_tagged_referrers(context, where, digest)

    def _list_referrers(self, context: Context, repository: Repository, *, path: str) -> tuple[Index, ...]:
        found: tuple[Index, ...] = ()
        for _ in range(MAX_PAGES):
            headers = {"Accept": OCI_INDEX}
            reply = self._api.get(context, repository, path, phase="referrers", headers=headers, expected=_OK)
            found = (*found, parse_referrers(self._read_manifest(context, reply), reply.endpoint))
            following = next_page(reply, repository)
            if following is None:
                return found
            path = following
        raise RegistryError(f"{repository.domain} lists referrers on more than {MAX_PAGES} pages", phase="referrers")

    def _fetch_tagged_referrers(
        self, context: Context, where: Reference | Repository, digest: Digest
    ) -> tuple[Index, ...]:
        place = where if isinstance(where, Repository) else self.first_place(where)
        place = place.with_tag(referrers_tag(digest))
        try:
            index = self.fetch_manifest(context, place)
        except UnknownManifestError:
            return ()
        return (parse_referrers(index, str(place.reference)),) if index is not None else ()

    def fetch_document(self, context: Context, url: str, *, limit: int) -> bytes | None:
        """The document at ``url`` (http or https), with no credentials but the URL's own; None if there is none (404).

        Raises :class:`UpstreamError`, also for one of more than ``limit`` bytes.
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
        attempts = self._places.attempts_at(context, request.endpoint)
        return attempts.ask(lambda _: self._fetch_document(context, request, limit))

    def _fetch_document(self, context: Context, request: Request, limit: int) -> bytes | None:
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

    def close(self) -> None:
        """Close the connections that are kept for reuse."""
        self._connections.close()


def _verify_is_manifest(untrusted: UntrustedManifest, endpoint: str) -> None:
    """What a captive portal answers in a mirror's stead must not keep the next source from being asked."""
    try:
        parse_manifest(untrusted)
    except InvalidManifestError as error:
        raise error.retold(f"{endpoint} sent no usable manifest: {error}") from None
