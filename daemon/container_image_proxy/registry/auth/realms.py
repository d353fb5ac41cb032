"""Which token services may learn the credentials of a registry (contrib/adr/0018).

A registry sends its clients elsewhere for tokens, and the realm that it names is only a text in an answer. Credentials
go to the registry's own site, to the service that the registry is known to have in another domain
(``token-services.toml``), and to hosts that the administrator names (``token-realms``).

The public suffix list, its private part included, says where a site ends: ``registry.example.de`` and
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
    """The rule. ``named`` are the hosts (``host`` or ``host:port``, lower case) that the administrator named."""

    named: frozenset[str] = frozenset()

    def is_named(self, realm: Origin) -> bool:
        """Whether the administrator named the host of ``realm``, either without a port or with this one."""
        host = f"[{realm.host}]" if ":" in realm.host else realm.host
        return not self.named.isdisjoint({host, realm.authority})

    def may_have_credentials(self, registry_host: str, realm: Origin) -> bool:
        """Whether credentials for ``registry_host`` (without port) may be sent to ``realm``."""
        # The cheap questions come first: the public suffix list takes time to read.
        return (
            realm.host == registry_host
            or self.is_named(realm)
            or _is_known_service(registry_host, realm.host)
            or is_same_site(registry_host, realm.host)
        )


def is_same_site(registry_host: str, host: str) -> bool:
    """Whether both hosts (without port) are in a domain that only one owner can have."""
    if host == registry_host:
        return True
    if _is_address(host) or _is_address(registry_host):
        return False
    # The part of a host's name that somebody registered, or all of it if it is a public suffix itself; None below a top
    # domain that the list does not know.
    suffixes = _public_suffixes()
    own, other = suffixes.get_sld(registry_host, strict=True), suffixes.get_sld(host, strict=True)
    if own is None and other is None:
        # It is not known where a private domain (registry.corp, registry.apps.cluster.local) ends. Whoever has a name
        # decides about the names below it, so one of the two has to be below the other.
        upper, lower = sorted((registry_host, host), key=len)
        return "." in upper and lower.endswith(f".{upper}")
    return bool(own == other)


@functools.cache
def _public_suffixes() -> Any:
    """The list. Reading it takes 60 ms, and the library loads urllib: so only when a registry is met that needs it."""
    from publicsuffix2 import PSL_FILE, PublicSuffixList  # type: ignore[import-untyped]  # noqa: PLC0415

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
    """Whether ``token-services.toml`` has the pair; ``*`` stands for one label of a registry's name."""
    labels = registry_host.split(".")
    patterns = (
        pattern.split(".")
        for service in _data()["service"]
        if host == service["realm"]
        for pattern in service["registries"]
    )
    return any(
        len(pattern) == len(labels)
        and all(wanted in {"*", label} for wanted, label in zip(pattern, labels, strict=True))
        for pattern in patterns
    )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
