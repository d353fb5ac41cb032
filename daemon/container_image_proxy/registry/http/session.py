"""HTTP towards registries: one GET or POST, its redirects followed under our rules, its answer read within its limits.

The only importer of ``requests``. Nothing of its comfort is used that would decide something for us: no environment,
no cookies, no redirects, no decoding, no retries, no trust store of its own; so the adapter is called and not a
``Session``, which reads the bodies of redirects whole even when it does not follow them. Knows no registry API, and
no credentials beyond the one header that it is handed, which goes to the origin of the first URL and to no other.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import requests
from msgspec import Struct
from msgspec.structs import replace
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from container_image_proxy import __version__
from container_image_proxy.concurrency.context import AddressPolicy
from container_image_proxy.config.certificates import TlsFiles
from container_image_proxy.errors import InvalidReferenceError, RegistryError
from container_image_proxy.registry.http.address_policy import is_private, verify_address
from container_image_proxy.registry.http.connect import POOL_CLASSES, Exchange, Patience, resolve
from container_image_proxy.registry.http.failures import error_for_exception
from container_image_proxy.registry.http.reply import REDIRECTS, Reply
from container_image_proxy.registry.http.request import Request
from container_image_proxy.registry.http.socks import parse_socks_proxy
from container_image_proxy.registry.http.target import parse_target
from container_image_proxy.registry.http.tls import client_context

if TYPE_CHECKING:
    import ssl

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.config.certificates import CertificateDirectories
    from container_image_proxy.config.limits import Limits
    from container_image_proxy.registry.endpoints import Endpoint
    from container_image_proxy.registry.http.proxies import Proxies
    from container_image_proxy.registry.http.socks import SocksProxy

# At DEBUG it shows URLs with their signatures; at WARNING that a pool was full, which is nothing to warn of.
logging.getLogger("urllib3").setLevel(logging.ERROR)

_USER_AGENT: Final = f"container-image-proxy/{__version__}"
_HOSTS: Final = 16  # whose idle connections are kept: a registry may redirect to any number of hosts


class _Profile(Struct, frozen=True):
    """Everything that makes connections unfit to be shared: whom we trust, who we are, where we may go, and how."""

    files: TlsFiles
    verify: bool
    addresses: AddressPolicy
    socks: SocksProxy | None


class HttpSession:
    """Connections to all registries, kept for reuse. Thread-safe."""

    def __init__(self, *, limits: Limits, certificates: CertificateDirectories, proxies: Proxies) -> None:
        self._limits = limits
        self._certificates = certificates
        self._proxies = proxies
        self._adapters: dict[_Profile, _Adapter] = {}
        self._files: dict[str, TlsFiles] = {}
        self._private: dict[str, bool] = {}
        self._lock = threading.Lock()

    def prepare(self, endpoint: Endpoint) -> None:
        """Load what the first request to ``endpoint`` would wait for, the trust store; :class:`ConfigurationError`."""
        target = parse_target(f"https://{endpoint.authority}/")
        request = Request(target=target, endpoint=endpoint, phase="connect")
        self._adapter(self._profile(request, AddressPolicy.ANYWHERE))

    def send(self, request: Request, context: Context) -> Reply:
        """The answer, redirects followed; its status may be anything.

        Raises :class:`UpstreamError` if there is none, :class:`RegistryError` for one that must not be used.
        """
        context = context.within(_head_time(self._limits))
        for _ in range(self._limits.redirects + 1):
            reply = self._exchange(request, context)
            location = reply.header("Location")
            if reply.status not in REDIRECTS or not location:
                return reply
            reply.discard(context)
            request = self._follow(request, location)
        raise self._refused(request, f"redirects more than {self._limits.redirects} times")

    def _follow(self, request: Request, location: str) -> Request:
        """The request that a redirect asks for, without what is not for its target's eyes."""
        here = request.target
        try:
            there = parse_target(location, here)
        except RegistryError as error:
            raise self._refused(request, f"redirects to a URL that cannot be asked for: {error}") from None
        if there.origin == here.origin:
            if there.is_in_api or not here.is_in_api:
                return replace(request, target=there)
            return replace(request, target=there, authorization=None, withheld=request.authorization)
        if not request.may_leave_origin:
            raise self._refused(request, "redirects to another host, where requests for tokens do not go")
        if here.origin.scheme == "https" and there.origin.scheme == "http" and not request.endpoint.insecure:
            raise self._refused(request, "redirects from https to http")
        return replace(request, target=there, authorization=None, withheld=None, is_named=False, trusts_target=False)

    def _refused(self, request: Request, reason: str) -> RegistryError:
        return RegistryError(
            f"{request.endpoint.domain} {reason}", phase=request.phase, endpoint=request.endpoint.domain
        )

    def _exchange(self, request: Request, context: Context) -> Reply:
        target, limits = request.target, self._limits
        profile = self._profile(request, self._addresses(request, context))
        proxy = self._proxies.proxy_for(target.origin)
        if proxy is not None:
            _verify_literal(profile.addresses, target.origin.host)
        if profile.socks is not None:
            proxy = None  # it is part of how connections are made, of which the HTTP library need not know
        is_forwarded = proxy is not None and target.origin.scheme == "http"
        exchange = Exchange(
            context.towards(profile.addresses),
            idle=limits.first_byte_timeout,
            request_target=target.url if is_forwarded else target.request_target,
            socks=profile.socks,
        )
        try:
            context.check()
            response = self._adapter(profile).send(
                _prepare(request),
                stream=True,
                timeout=(Patience.of(exchange, limits.connect_timeout), Patience.of(exchange, exchange.idle)),
                verify=profile.verify,
                proxies={target.origin.scheme: proxy} if proxy is not None else {},
            )
        except (requests.RequestException, HTTPError, TimeoutError) as error:
            phase = request.phase if exchange.has_connected else "connect"
            raise error_for_exception(
                exchange.failure or error, phase=phase, endpoint=target.origin.authority
            ) from None
        return Reply(response, request, limits)

    def _profile(self, request: Request, addresses: AddressPolicy) -> _Profile:
        origin, endpoint = request.target.origin, request.endpoint
        is_same_host = origin.host == endpoint.host
        return _Profile(
            files=self._tls_files(request),
            verify=not (endpoint.insecure and is_same_host),
            addresses=addresses,
            socks=parse_socks_proxy(self._proxies.proxy_for(origin) or ""),
        )

    def _addresses(self, request: Request, context: Context) -> AddressPolicy:
        """Where connections for ``request`` may lead, by who named its target."""
        if request.target.origin.host == request.endpoint.host:
            return AddressPolicy.ANYWHERE
        return AddressPolicy.PRIVATE if request.is_named else self._addresses_from(request.endpoint, context)

    def _tls_files(self, request: Request) -> TlsFiles:
        """The registry's authorities hold for where it sends us, client certificates only for whom they are meant."""
        own = self._own_files(request.endpoint.domain)
        if request.endpoint.is_at(request.target.origin):
            return own
        theirs = self._files_for(request.target.origin.authority)
        is_known = request.trusts_target or request.target.origin.host == request.endpoint.host
        authorities = tuple(dict.fromkeys((*own.authorities, *theirs.authorities)))
        return TlsFiles(authorities, theirs.client if is_known else ())

    def _own_files(self, domain: str) -> TlsFiles:
        """Those of a configured place, remembered; for other hosts that would be as many as upstream can name."""
        if domain not in self._files:
            self._files[domain] = self._files_for(domain)
        return self._files[domain]

    def _files_for(self, domain: str) -> TlsFiles:
        with suppress(InvalidReferenceError):  # a host that an upstream named need not be a registry's
            return self._certificates.for_host(domain)
        return TlsFiles()

    def _addresses_from(self, endpoint: Endpoint, context: Context) -> AddressPolicy:
        """Where ``endpoint`` may send us; as long as its own addresses are unknown, not into a private network."""
        if endpoint.host not in self._private:
            try:
                addresses = resolve(endpoint.host, 0, context.within(self._limits.connect_timeout))
            except OSError:
                return AddressPolicy.PUBLIC
            self._private[endpoint.host] = any(is_private(address[0]) for _, address in addresses)
        return AddressPolicy.PRIVATE if self._private[endpoint.host] else AddressPolicy.PUBLIC

    def _adapter(self, profile: _Profile) -> _Adapter:
        with self._lock:
            if profile not in self._adapters:
                context = client_context(profile.files, verify=profile.verify)
                self._adapters[profile] = _Adapter(context, self._limits.connections)
            return self._adapters[profile]

    def close(self) -> None:
        """Close the connections that are kept; those in use close with their replies."""
        with self._lock:
            for adapter in self._adapters.values():
                adapter.close()
            self._adapters.clear()


def _head_time(limits: Limits) -> float:
    """How long a request may take until the end of its answer's head, whatever redirects are on the way."""
    return 2 * limits.connect_timeout + limits.first_byte_timeout


def _prepare(request: Request) -> requests.PreparedRequest:
    """The request but for its target, of which the library learns the origin only: it goes by another way."""
    target = request.target
    headers = {"Host": target.host_header, "User-Agent": _USER_AGENT, "Accept-Encoding": "identity", **request.headers}
    if request.authorization is not None:
        headers["Authorization"] = request.authorization
    method = "GET" if request.form is None else "POST"
    url = f"{target.origin.scheme}://{target.origin.authority}/"
    return requests.Request(method, url, headers=headers, data=request.form).prepare()


def _verify_literal(addresses: AddressPolicy, host: str) -> None:
    """Behind a proxy nobody here sees what a name stands for; an address can be judged all the same."""
    with suppress(ValueError):
        verify_address(addresses, host, str(ipaddress.ip_address(host)))


class _Adapter(HTTPAdapter):
    """requests' adapter with our own TLS context and our own way to connect, to the proxy as well."""

    def __init__(self, context: ssl.SSLContext, connections: int) -> None:
        self._context = context
        super().__init__(pool_connections=_HOSTS, pool_maxsize=connections)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:  # noqa: FBT001, FBT002 - requests'
        super().init_poolmanager(connections, maxsize, block, ssl_context=self._context, **options)
        self.poolmanager.pool_classes_by_scheme = POOL_CLASSES

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        manager = super().proxy_manager_for(proxy, ssl_context=self._context, **options)
        manager.pool_classes_by_scheme = POOL_CLASSES
        return manager

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        """What :class:`Reply` reads; the original would read the cookies, in quadratic time, to throw them away."""
        response = requests.Response()
        response.status_code = resp.status
        response.raw = resp
        response.request = req
        return response

    def cert_verify(self, *_: Any) -> None:
        """Leave the context as it is; the original would add a bundle of requests' own."""

    def close(self) -> None:
        """Close the idle connections now; the original leaves them to the garbage collector."""
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in manager.pools.keys():  # noqa: SIM118 - iterating over it is not implemented
                manager.pools[key].close()
        super().close()
