"""One request over one connection, to whom and by way of whom its target says, with the trust that is meant for it.

The lowest :class:`Sender`: it follows no redirect and logs in nowhere. The ``Authorization`` that a request brings is
sent as it is.
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
from container_image_proxy.errors import InvalidReferenceError
from container_image_proxy.registry.http.address_policy import is_private, verify_address
from container_image_proxy.registry.http.connect import resolve
from container_image_proxy.registry.http.failures import error_for_exception
from container_image_proxy.registry.http.pools import FAILURES, Adapter, RoundTrip
from container_image_proxy.registry.http.reply import Reply
from container_image_proxy.registry.http.request import Request
from container_image_proxy.registry.http.socks import parse_socks_proxy
from container_image_proxy.registry.http.target import parse_target
from container_image_proxy.registry.http.tls import client_context

if TYPE_CHECKING:
    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.config.certificates import CertificateDirectories
    from container_image_proxy.config.limits import Limits
    from container_image_proxy.registry.endpoints import Endpoint
    from container_image_proxy.registry.http.proxies import Proxies
    from container_image_proxy.registry.http.socks import SocksProxy

_USER_AGENT: Final = f"container-image-proxy/{__version__}"


class _Profile(Struct, frozen=True):
    """Everything that makes connections unfit to be shared: whom we trust, who we are, where we may go, and how."""

    files: TlsFiles
    verify: bool
    addresses: AddressPolicy
    socks: SocksProxy | None


class Connections:
    """Connections to all registries, kept for reuse. Thread-safe."""

    def __init__(
        self, *, limits: Limits, certificates: CertificateDirectories, proxies: Proxies, user_agent_prefix: str = ""
    ) -> None:
        self._limits = limits
        self._certificates = certificates
        self._proxies = proxies
        self._user_agent = " ".join(filter(None, (user_agent_prefix, _USER_AGENT)))
        self._adapters: dict[_Profile, Adapter] = {}
        self._files: dict[str, TlsFiles] = {}
        self._private: dict[str, bool] = {}
        self._lock = threading.Lock()

    def prepare(self, endpoint: Endpoint) -> None:
        """Load what the first request to ``endpoint`` would wait for, the trust store; :class:`ConfigurationError`."""
        target = parse_target(f"https://{endpoint.authority}/")
        request = Request(target=target, endpoint=endpoint, phase="connect")
        self._adapter(self._profile(request, AddressPolicy.ANYWHERE))

    def send(self, request: Request, context: Context) -> Reply:
        """The answer, whatever it is. Raises :class:`UpstreamError` if there is none, :class:`RegistryError` if the
        target may not be connected to.
        """
        target, limits = request.target, self._limits
        profile = self._profile(request, self._addresses(request, context))
        proxy = self._proxies.proxy_for(target.origin)
        if proxy is not None:
            _verify_literal(profile.addresses, target.origin.host)
        if profile.socks is not None:
            proxy = None  # it is part of how connections are made, of which the HTTP library need not know
        is_forwarded = proxy is not None and target.origin.scheme == "http"
        trip = RoundTrip(
            context.towards(profile.addresses),
            idle=limits.first_byte_timeout,
            request_target=target.url if is_forwarded else target.request_target,
            socks=profile.socks,
        )
        try:
            context.check()
        except TimeoutError as error:  # nobody failed to connect: phase "connect" would be a reason to speak http
            raise error_for_exception(request, error) from None
        try:
            raw = self._adapter(profile).ask(
                trip,
                "GET" if request.form is None else "POST",
                f"{target.origin.scheme}://{target.origin.authority}",
                self._headers(request),
                request.form,
                connect_seconds=limits.connect_timeout,
                proxy=proxy,
            )
        except FAILURES as error:
            failed = request if trip.has_connected else replace(request, phase="connect")
            raise error_for_exception(failed, trip.failure or error) from None
        assert trip.answer is not None  # noqa: S101 - the connection read this answer: for mypy
        return Reply(raw, trip.answer, request, limits)

    def _headers(self, request: Request) -> dict[str, str]:
        own = {"Host": request.target.host_header, "User-Agent": self._user_agent, "Accept-Encoding": "identity"}
        login = {"Authorization": request.authorization} if request.authorization is not None else {}
        return {**own, **request.headers, **login}

    def _profile(self, request: Request, addresses: AddressPolicy) -> _Profile:
        origin, endpoint = request.target.origin, request.endpoint
        return _Profile(
            files=self._tls_files(request),
            verify=not (endpoint.insecure and origin.host == endpoint.host),
            addresses=addresses,
            socks=parse_socks_proxy(self._proxies.proxy_for(origin) or ""),
        )

    def _addresses(self, request: Request, context: Context) -> AddressPolicy:
        """Where connections for ``request`` may lead, by who named its target.

        As long as an endpoint's own addresses are unknown, it may not send us into a private network.
        """
        endpoint = request.endpoint
        if request.target.origin.host == endpoint.host:
            return AddressPolicy.ANYWHERE
        if request.is_named:
            return AddressPolicy.PRIVATE
        if endpoint.host not in self._private:
            try:
                addresses = resolve(endpoint.host, 0, context.within(self._limits.connect_timeout))
            except OSError:
                return AddressPolicy.PUBLIC
            self._private[endpoint.host] = any(is_private(address[0]) for _, address in addresses)
        return AddressPolicy.PRIVATE if self._private[endpoint.host] else AddressPolicy.PUBLIC

    def _tls_files(self, request: Request) -> TlsFiles:
        """The registry's authorities hold for where it sends us, client certificates only for whom they are meant."""
        domain = request.endpoint.domain
        if domain not in self._files:  # other hosts are not remembered: they are as many as upstream can name
            self._files[domain] = self._files_for(domain)
        own = self._files[domain]
        if request.endpoint.is_at(request.target.origin):
            return own
        theirs = self._files_for(request.target.origin.authority)
        is_known = request.trusts_target or request.target.origin.host == request.endpoint.host
        authorities = tuple(dict.fromkeys((*own.authorities, *theirs.authorities)))
        return TlsFiles(authorities, theirs.client if is_known else ())

    def _files_for(self, domain: str) -> TlsFiles:
        with suppress(InvalidReferenceError):  # a host that an upstream named need not be a registry's
            return self._certificates.for_host(domain)
        return TlsFiles()

    def _adapter(self, profile: _Profile) -> Adapter:
        with self._lock:
            if profile not in self._adapters:
                context = client_context(profile.files, verify=profile.verify)
                self._adapters[profile] = Adapter(context, self._limits.connections)
            return self._adapters[profile]

    def close(self) -> None:
        """Close the connections that are kept; those in use close with their replies."""
        with self._lock:
            for adapter in self._adapters.values():
                adapter.close()
            self._adapters.clear()


def _verify_literal(addresses: AddressPolicy, host: str) -> None:
    """Behind a proxy nobody here sees what a name stands for; an address can be judged all the same."""
    with suppress(ValueError):
        verify_address(addresses, host, str(ipaddress.ip_address(host)))
