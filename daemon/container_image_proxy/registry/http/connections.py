"""The lowest :class:`Sender`: one request over one connection, by way of the proxy and with the trust meant for it.

It chooses proxy, TLS files and address policy by the request's target. The ``Authorization`` that a request brings is
sent as it is. Must not follow redirects, or log in. Spec: RFC 9112, containers-certs.d(5).
"""

from __future__ import annotations

import ipaddress
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from container_image_proxy import __version__
from container_image_proxy.concurrency.context import AddressPolicy
from container_image_proxy.config.certificates import TlsFiles
from container_image_proxy.errors import InvalidReferenceError, UpstreamError
from container_image_proxy.registry.http.address_policy import is_private, verify_address
from container_image_proxy.registry.http.connect import resolve
from container_image_proxy.registry.http.failures import error_for_exception
from container_image_proxy.registry.http.pools import FAILURES, Adapter, RoundTrip
from container_image_proxy.registry.http.reply import Reply
from container_image_proxy.registry.http.request import Request
from container_image_proxy.registry.http.socks import parse_socks_proxy
from container_image_proxy.registry.http.target import parse_target
from container_image_proxy.registry.http.tls import client_context, fingerprint

if TYPE_CHECKING:
    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.config.certificates import CertificateDirectories
    from container_image_proxy.config.limits import Limits
    from container_image_proxy.registry.endpoints import Endpoint
    from container_image_proxy.registry.http.proxies import Proxies
    from container_image_proxy.registry.http.socks import SocksProxy

_USER_AGENT: Final = f"container-image-proxy/{__version__}"


class _Profile(Struct, frozen=True):
    """What two requests must have in common to share connections: TLS files, address policy, and SOCKS proxy."""

    files: TlsFiles
    verify: bool
    addresses: AddressPolicy
    socks: SocksProxy | None


class _Trusting(Struct, frozen=True):
    """An adapter, and the fingerprint of the TLS files that it was made with."""

    adapter: Adapter
    fingerprint: tuple[object, ...]


class Connections:
    """Connections to all registries, kept for reuse. Thread-safe."""

    def __init__(
        self, *, limits: Limits, certificates: CertificateDirectories, proxies: Proxies, user_agent_prefix: str = ""
    ) -> None:
        self._limits = limits
        self._certificates = certificates
        self._proxies = proxies
        self._user_agent = " ".join(filter(None, (user_agent_prefix, _USER_AGENT)))
        self._adapters: dict[_Profile, _Trusting] = {}
        self._files: dict[str, TlsFiles] = {}
        self._private: dict[str, bool] = {}
        self._generation = 0  # of the TLS files
        self._lock = threading.Lock()

    def prepare(self, endpoint: Endpoint) -> None:
        """Load what the first request to ``endpoint`` would wait for: the trust store. Raises as that would
        (:class:`ConfigurationError`).
        """
        target = parse_target(f"https://{endpoint.authority}/")
        request = Request(target=target, endpoint=endpoint, phase="connect")
        self._adapter(self._profile(request, AddressPolicy.ANYWHERE))

    def send(self, request: Request, context: Context) -> Reply:
        """The answer, whatever its status.

        Raises :class:`UpstreamError` if there is none, among them :class:`RegistryError` if the target may not be
        connected to, and :class:`ConfigurationError` if a TLS file cannot be used.
        """
        generation = self._generation
        try:
            return self._send(request, context)
        except UpstreamError:
            # The authority or the client certificate may be a new one, which somebody has put there meanwhile.
            self._forget_replaced_files()
            if generation == self._generation:
                raise
        return self._send(request, context)

    def _send(self, request: Request, context: Context) -> Reply:
        target, limits = request.target, self._limits
        profile = self._profile(request, self._addresses(request, context))
        proxy = self._proxies.proxy_for(target.origin)
        if proxy is not None:
            # Behind a proxy nobody here sees what a name stands for. An address can be judged all the same.
            with suppress(ValueError):
                address = str(ipaddress.ip_address(target.origin.host))
                verify_address(profile.addresses, target.origin.host, address)
        if profile.socks is not None:
            proxy = None  # SOCKS is part of how connections are made, of which the HTTP library need not know
        is_forwarded = proxy is not None and target.origin.scheme == "http"  # absolute-form, RFC 9112 section 3.2.2
        trip = RoundTrip(
            context.towards(profile.addresses),
            idle=limits.first_byte_timeout,
            request_target=target.url if is_forwarded else target.request_target,
            socks=profile.socks,
        )
        try:
            context.check()
        except TimeoutError as error:
            # Here and not by the connection: its failure has the phase "connect", which is a reason to speak http.
            raise error_for_exception(request, error) from None
        # Lengths, ranges and digests are those of the bytes as they are stored (contrib/adr/0021).
        own = {"Host": target.host_header, "User-Agent": self._user_agent, "Accept-Encoding": "identity"}
        login = {"Authorization": request.authorization} if request.authorization is not None else {}
        try:
            raw = self._adapter(profile).ask(
                trip,
                "GET" if request.form is None else "POST",
                f"{target.origin.scheme}://{target.origin.authority}",
                {**own, **request.headers, **login},
                request.form,
                connect_seconds=limits.connect_timeout,
                proxy=proxy,
            )
        except FAILURES as error:
            failed = request if trip.has_connected else replace(request, phase="connect")
            raise error_for_exception(failed, trip.failure or error) from None
        assert trip.answer is not None  # noqa: S101 - the connection read this answer: for mypy
        return Reply(raw, trip.answer, request, limits)

    def _profile(self, request: Request, addresses: AddressPolicy) -> _Profile:
        origin, endpoint = request.target.origin, request.endpoint
        return _Profile(
            files=self._tls_files(request),
            # "insecure" is an exception for one host. Where it redirects to has to prove itself.
            verify=not (endpoint.insecure and origin.host == endpoint.host),
            addresses=addresses,
            socks=parse_socks_proxy(self._proxies.proxy_for(origin) or ""),
        )

    def _addresses(self, request: Request, context: Context) -> AddressPolicy:
        """Where connections for ``request`` may lead, by who named its target: administrator or registry."""
        endpoint = request.endpoint
        if request.target.origin.host == endpoint.host:
            return AddressPolicy.ANYWHERE
        if request.is_named:
            return AddressPolicy.PRIVATE
        if endpoint.host not in self._private:
            try:
                addresses = resolve(endpoint.host, 0, context.within(self._limits.connect_timeout))
            except OSError:
                # Behind a proxy the name may be unknown here. Then nothing says that the registry is a private one.
                return AddressPolicy.PUBLIC
            self._private[endpoint.host] = any(is_private(address[0]) for _, address in addresses)
        return AddressPolicy.PRIVATE if self._private[endpoint.host] else AddressPolicy.PUBLIC

    def _tls_files(self, request: Request) -> TlsFiles:
        """The TLS files for the request's target.

        A registry's authorities hold for where it sends us, too: storage of its own has certificates of the same
        authority. A client certificate goes only to the host whose directory it is in, and to no stranger.
        """
        domain = request.endpoint.domain
        own = self._files.get(domain)
        if own is None:  # only configured places are remembered: upstream can name any number of others
            own = self._files[domain] = self._files_for(domain)
        if request.endpoint.is_at(request.target.origin):
            return own
        theirs = self._files_for(request.target.origin.authority)
        is_known = request.trusts_target or request.target.origin.host == request.endpoint.host
        authorities = tuple(dict.fromkeys((*own.authorities, *theirs.authorities)))
        return TlsFiles(authorities, theirs.client if is_known else ())

    def _files_for(self, domain: str) -> TlsFiles:
        with suppress(InvalidReferenceError):  # a host that an upstream named need not follow the grammar of registries
            return self._certificates.for_host(domain)
        return TlsFiles()

    def _adapter(self, profile: _Profile) -> Adapter:
        # Under the lock, so that many first requests load the trust store once.
        with self._lock:
            if profile not in self._adapters:
                before = fingerprint(profile.files)
                context = client_context(profile.files, verify=profile.verify)
                adapter = Adapter(context, self._limits.connections)
                self._adapters[profile] = _Trusting(adapter, before)
            return self._adapters[profile].adapter

    def _forget_replaced_files(self) -> None:
        """Have all TLS files read anew if some are not those any more with which connections are made."""
        with self._lock:
            known = list(self._files.items())  # other threads add to it without the lock
            has_others = any(files != self._files_for(domain) for domain, files in known)
            if not has_others and all(one.fingerprint == fingerprint(key.files) for key, one in self._adapters.items()):
                return
            self._files.clear()
            self._close_adapters()
            self._generation += 1

    def close(self) -> None:
        """Close the connections that are kept; those in use close with their replies."""
        with self._lock:
            self._close_adapters()

    def _close_adapters(self) -> None:
        for one in self._adapters.values():
            one.adapter.close()
        self._adapters.clear()
