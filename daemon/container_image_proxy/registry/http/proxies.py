"""Which proxy leads to an origin: ``HTTP_PROXY``, ``HTTPS_PROXY`` and ``NO_PROXY`` of an environment. Pure.

A proxy speaks HTTP (http, https) or SOCKS5 (socks5, socks5h). The rules are those of the containers tools (Go's
golang.org/x/net/http/httpproxy): upper case wins over lower case, this host is never proxied, and ``NO_PROXY`` takes
hosts with their subdomains, ``.suffix`` and ``*.suffix``, addresses, networks, each with a port if wanted, or ``*``.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from container_image_proxy.errors import ConfigurationError
from container_image_proxy.image.confidential import Confidential
from container_image_proxy.registry.http import socks
from container_image_proxy.registry.http.socks import parse_socks_proxy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from container_image_proxy.registry.http.origin import Origin

_SCHEMES: Final = frozenset({"http", "https"}) | socks.SCHEMES


class Proxies(Confidential, frozen=True):
    """The proxy's URL for each scheme, and the rules of ``NO_PROXY``. ``repr`` shows neither: URLs have secrets."""

    by_scheme: Mapping[str, str]
    exceptions: tuple[str, ...] = ()

    def proxy_for(self, origin: Origin) -> str | None:
        """The URL of the proxy that leads to ``origin``; None to connect directly."""
        proxy = self.by_scheme.get(origin.scheme)
        if proxy is None:
            return None
        address = _address(origin.host)
        is_this_host = origin.host == "localhost" or (address is not None and address.is_loopback)
        return None if is_this_host or any(_covers(rule, origin) for rule in self.exceptions) else proxy


def parse_proxies(environ: Mapping[str, str]) -> Proxies:
    """Read the variables of ``environ``.

    Raises :class:`ConfigurationError` for a proxy that cannot be used: requests must not go around it silently.
    """
    # A CGI server hands the request header "Proxy" to its programs as HTTP_PROXY ("httpoxy").
    names = {"http": ("http_proxy",) if "REQUEST_METHOD" in environ else ("HTTP_PROXY", "http_proxy"),
             "https": ("HTTPS_PROXY", "https_proxy")}  # fmt: skip
    found = {scheme: _first(environ, candidates) for scheme, candidates in names.items()}
    exceptions = _first(environ, ("NO_PROXY", "no_proxy"))[1].split(",")
    return Proxies(
        {scheme: _parse_proxy(name, value) for scheme, (name, value) in found.items() if value},
        tuple(rule.strip().lower() for rule in exceptions if rule.strip()),
    )


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, str]:
    return next(((name, environ[name]) for name in names if environ.get(name)), (names[0], ""))


def _parse_proxy(name: str, value: str) -> str:
    url = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in _SCHEMES and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        parse_socks_proxy(url)
    except ValueError:
        usable = False
    if not usable:
        raise ConfigurationError(
            "the environment",
            "is no proxy of HTTP (http://, https://) or SOCKS5 (socks5://, socks5h://)",
            key=name,
            remedy="unset or correct it",
        )
    return url


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None


def _covers(rule: str, origin: Origin) -> bool:
    """Whether a rule of ``NO_PROXY`` holds for ``origin``. A rule that cannot be read holds for nothing, as in Go."""
    if rule == "*":
        return True
    address = _address(origin.host)
    if "/" in rule:
        try:
            # Bits beyond the mask are ignored, as by Go's ParseCIDR.
            return address is not None and address in ipaddress.ip_network(rule, strict=False)
        except ValueError:
            return False
    if _address(rule) is not None:
        return _address(rule) == address
    name, colon, port = rule.rpartition(":")
    if colon and port.isdecimal():
        return name != "*" and port == str(origin.port) and _covers(name, origin)
    # A name covers the domains below it as well; with a dot in front, those alone. No other asterisk means anything.
    suffix = rule[1:] if rule.startswith("*.") else rule
    is_parent = origin.host.endswith(suffix if suffix.startswith(".") else f".{suffix}")
    return is_parent or origin.host == suffix
