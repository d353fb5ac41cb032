"""Origins, and who may learn the credentials of a registry. Pure.

A registry may send a client to another host for its tokens. Credentials follow only to that registry's own site, else
any registry (or whoever can answer in its name once) could collect them at a host of its choice.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_AUTHORITY: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{0,5}))?")
_HIGHEST_PORT: Final = 65535

_TOKEN_HOSTS: Final = {"docker.io": "auth.docker.io", "registry-1.docker.io": "auth.docker.io"}
"""Token services that belong to a registry whatever their name is."""

_SHARED_SITES: Final = frozenset(
    [
        "akamaized.net",
        "aliyuncs.com",
        "amazonaws.com",
        "appspot.com",
        "azure.com",
        "azurewebsites.net",
        "cloudfront.net",
        "ddns.net",
        "deno.dev",
        "duckdns.org",
        "dyndns.org",
        "dynu.net",
        "firebaseapp.com",
        "fly.dev",
        "github.dev",
        "googleapis.com",
        "herokuapp.com",
        "hopto.org",
        "mooo.com",
        "myhuaweicloud.com",
        "netlify.app",
        "ngrok.app",
        "onrender.com",
        "ondigitalocean.app",
        "oraclecloud.com",
        "pages.dev",
        "pkg.dev",
        "railway.app",
        "run.app",
        "scw.cloud",
        "tencentcloudcr.com",
        "trycloudflare.com",
        "vercel.app",
        "web.app",
        "windows.net",
        "workers.dev",
        "zapto.org",
    ]
)
"""Domains of two names whose subdomains belong to different people."""
_COUNTRY_CODE: Final = 2
_SECOND_LEVELS: Final = frozenset({"ac", "co", "com", "edu", "gov", "net", "or", "org"})


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


def split_authority(text: str) -> tuple[str, int | None]:
    """The host of ``host[:port]`` as in :class:`Origin`, and the port if one is named; ``ValueError`` if it is neither.

    An IPv6 address has many spellings. All of them become one here, so that they can be compared.
    """
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        raise ValueError("not host[:port]")
    address, name, port = match.groups()
    host = str(ipaddress.IPv6Address(address)) if address else name.lower()
    if port and not 0 < int(port) <= _HIGHEST_PORT:
        raise ValueError("not a port")
    return host, int(port) if port else None


def is_own_site(registry_host: str, host: str) -> bool:
    """Whether ``host`` may learn credentials for ``registry_host`` (both without port).

    The same host; a subdomain of it; its parent domain, whose owner can answer in its name anyway; a known token
    service. Beside it (``registry.example.com`` and ``auth.example.com``) only where the parent domain can have but one
    owner: see :func:`_has_one_owner`. The administrator can name others.
    """
    if host == registry_host or _TOKEN_HOSTS.get(registry_host) == host:
        return True
    if "." not in registry_host or _is_address(host) or _is_address(registry_host):
        return False
    if host.endswith(f".{registry_host}"):
        return True
    parent = registry_host.partition(".")[2]
    is_above, is_beside = host == parent, host.partition(".")[2] == parent
    return (is_above and "." in parent) or (is_beside and _has_one_owner(parent))


def _has_one_owner(domain: str) -> bool:
    """Whether ``domain`` is one that people buy, as far as that can be told without the public suffix list.

    Two names, unless the last is a country's code (under ``fr`` there is ``gouv.fr``), the first is as short as one
    (``uk.com``), or it is a provider's; or three of the ``example.co.uk`` kind. No deeper domain: clouds and clusters
    have names for others below theirs at any depth.
    """
    labels = domain.split(".")
    if len(labels[-1]) == _COUNTRY_CODE:
        return len(labels) == 3 and labels[1] in _SECOND_LEVELS  # noqa: PLR2004 - example, co, uk
    return len(labels) == 2 and len(labels[0]) > _COUNTRY_CODE and domain not in _SHARED_SITES  # noqa: PLR2004


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
