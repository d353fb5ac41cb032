"""Which token services may learn the credentials of a registry.

A registry sends its clients elsewhere for tokens, and the realm that it names is only a text in an answer. Credentials
follow it to the registry's own site alone, to the service that the registry is known to have in another domain
(``token-services.toml``), and to hosts that the administrator names (``token-realms``).

Where a domain ends is what the public suffix list says, its private part included: ``registry.example.de`` and
``auth.example.de`` are one site, ``one.github.io`` and ``other.github.io`` are two. The list is the system's (Debian's
package ``publicsuffix``), or else the one that ``publicsuffix2`` brings. Nothing is ever downloaded.
Must not connect to anything. Spec: https://publicsuffix.org/list/, distribution's token authentication.
"""

from __future__ import annotations

import functools
import ipaddress
import logging
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

if TYPE_CHECKING:
    from container_image_proxy.registry.http.origin import Origin

_log = logging.getLogger(__name__)
SYSTEM_LIST: Final = Path("/usr/share/publicsuffix/public_suffix_list.dat")


class TokenRealms(Struct, frozen=True):
    """The rule, with the hosts (``host`` or ``host:port``) that the administrator named."""

    named: frozenset[str] = frozenset()

    def is_named(self, realm: Origin) -> bool:
        """Whether the administrator named ``realm``, for any port or for its own."""
        host = f"[{realm.host}]" if ":" in realm.host else realm.host
        return not self.named.isdisjoint({host, realm.authority})

    def may_have_credentials(self, registry_host: str, realm: Origin) -> bool:
        """Whether credentials for ``registry_host`` (without port) may be sent to ``realm``."""
        return (
            realm.host == registry_host
            or self.is_named(realm)
            or _is_known_service(registry_host, realm.host)
            or is_same_site(registry_host, realm.host)
        )


def is_same_site(registry_host: str, host: str) -> bool:
    """Whether both hosts (without port) are in a domain that only one owner can have.

    Where the public suffix list knows no end of domains (``registry.corp``, ``registry.apps.cluster.local``), only what
    is below the other is: who has a name decides about those below it.
    """
    if host == registry_host:
        return True
    if _is_address(host) or _is_address(registry_host):
        return False
    own, other = _registrable_domain(registry_host), _registrable_domain(host)
    if own is None and other is None:
        upper, lower = sorted((registry_host, host), key=len)
        return "." in upper and lower.endswith(f".{upper}")
    return own == other


def _registrable_domain(host: str) -> str | None:
    """The part of ``host`` that somebody registered, or all of it if it is public; None for an unknown top domain."""
    domain: str | None = _public_suffixes().get_sld(host, strict=True)
    return domain


@functools.cache
def _public_suffixes() -> Any:
    """The list, read when it is first needed: it takes 60 ms, and most registries never need it."""
    # Here, for it loads urllib.
    from publicsuffix2 import (  # type: ignore[import-untyped]  # noqa: PLC0415
        PSL_FILE,
        PublicSuffixList,
    )

    for path in (SYSTEM_LIST, Path(PSL_FILE)):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            continue
        if path != SYSTEM_LIST:
            _log.warning("%s is missing (Debian: publicsuffix), using the older list of publicsuffix2", SYSTEM_LIST)
        return PublicSuffixList([*lines, *(shared["rule"] for shared in _data()["shared"])])
    _log.warning("there is no public suffix list: token services beside a registry are not known as its own")
    return PublicSuffixList([])


@functools.cache
def _data() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("token-services.toml").read_text(encoding="utf-8"))


def _is_known_service(registry_host: str, host: str) -> bool:
    labels = registry_host.split(".")
    return any(
        host == service["realm"] and any(_matches(pattern.split("."), labels) for pattern in service["registries"])
        for service in _data()["service"]
    )


def _matches(pattern: list[str], labels: list[str]) -> bool:
    return len(pattern) == len(labels) and all(
        wanted in {"*", label} for wanted, label in zip(pattern, labels, strict=True)
    )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
