"""Origins, and who may learn the credentials of a registry. Pure.

A registry may send a client to another host for its tokens. Credentials follow only to that registry's own site, else
any registry (or whoever can answer in its name once) could collect them at a host of its choice.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit, urlunsplit

from container_image_proxy.errors import RegistryError

DEFAULT_PORTS: Final = {"http": 80, "https": 443}

_TOKEN_HOSTS: Final = {"docker.io": "auth.docker.io", "registry-1.docker.io": "auth.docker.io"}
"""Token services that belong to a registry whatever their name is."""

_SHARED_SITES: Final = frozenset(
    [
        "amazonaws.com",
        "azurecr.io",
        "azurewebsites.net",
        "azure.com",
        "aliyuncs.com",
        "appspot.com",
        "cloudfront.net",
        "fly.dev",
        "github.io",
        "gitlab.io",
        "googleapis.com",
        "herokuapp.com",
        "myhuaweicloud.com",
        "netlify.app",
        "ngrok.io",
        "onrender.com",
        "pages.dev",
        "pkg.dev",
        "run.app",
        "scw.cloud",
        "tencentcloudcr.com",
        "vercel.app",
        "windows.net",
        "workers.dev",
    ]
)
"""Sites whose subdomains belong to different people: one more label makes a site there."""
_COUNTRY_CODE: Final = 2
_LONGEST_SECOND_LEVEL: Final = 3


@dataclass(frozen=True, slots=True)
class Origin:
    """RFC 6454: scheme, host (lower case, no brackets) and port."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """``host`` or ``host:port``, as people and certs.d write it: the port only where it is not the scheme's."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Target:
    """A URL fit to be requested: http or https, its origin known, without user information and fragment."""

    origin: Origin
    url: str


def parse_target(url: str, base: str = "") -> Target:
    """Read a URL, perhaps relative to ``base``; :class:`RegistryError`, which does not show it, if it is unusable."""
    try:
        parts = urlsplit(urljoin(base, url))
        origin = _origin(parts)
    except (ValueError, KeyError):
        raise RegistryError("the registry named a URL that is not http:// or https://, or is malformed") from None
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="")
    return Target(origin, urlunsplit(bare))


def _origin(parts: SplitResult) -> Origin:
    usual = DEFAULT_PORTS[parts.scheme]
    port = usual if parts.port is None else parts.port
    if port == 0 or not parts.hostname or not parts.hostname.isascii() or not parts.geturl().isprintable():
        raise ValueError
    return Origin(parts.scheme, parts.hostname, port)


def is_own_site(registry_host: str, host: str) -> bool:
    """Whether ``host`` may learn credentials for ``registry_host`` (both without port).

    The same host; a subdomain of it; a host of the same registrable site (``registry.example.com`` and
    ``auth.example.com``); a known token service. Without the public suffix list the site is estimated, and towards
    the narrower: see :func:`_site`.
    """
    if host == registry_host or _TOKEN_HOSTS.get(registry_host) == host:
        return True
    if _is_address(host) or _is_address(registry_host):
        return False
    if registry_host.count(".") and host.endswith(f".{registry_host}"):
        return True
    site = _site(registry_host)
    return site is not None and (host == site or host.endswith(f".{site}"))


def _site(host: str) -> str | None:
    """The registrable domain: two labels; three under second levels like ``co.uk`` and shared hosting sites."""
    labels = host.split(".")
    is_second_level = len(labels[-1]) == _COUNTRY_CODE and len(labels[-2:][0]) <= _LONGEST_SECOND_LEVEL
    size = 3 if is_second_level or ".".join(labels[-2:]) in _SHARED_SITES else 2
    return ".".join(labels[-size:]) if len(labels) >= size else None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
