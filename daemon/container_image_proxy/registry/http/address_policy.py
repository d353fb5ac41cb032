"""Where a connection may lead when a registry named its target, and not the administrator. Pure.

A token realm or a redirect is chosen by whoever runs the registry, or sits in front of it. It must not turn this daemon
into a way to the host's own network. Link-local and cloud metadata addresses are never connected to, private ones only
for a registry that is private itself. The check is made on the address that is connected to: what a name stands for can
change between a check and its use.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from container_image_proxy.concurrency.context import AddressPolicy
from container_image_proxy.errors import RegistryError

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Where clouds tell a host's secrets to whoever asks from it: AWS and most others, AWS by IPv6, Alibaba, Azure, Oracle.
_METADATA: Final = frozenset(
    map(ipaddress.ip_address, ("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"))
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last 32 bits


def is_private(address: str) -> bool:
    """Whether ``address`` is in a private network, or is this host's own."""
    # "Not global" says more than is_private, which leaves out the shared space of carriers (RFC 6598, 100.64.0.0/10).
    return not _parse(address).is_global


def verify_address(addresses: AddressPolicy, host: str, address: str) -> None:
    """Raise :class:`RegistryError` unless ``address``, which ``host`` resolves to, may be connected to."""
    if addresses is AddressPolicy.ANYWHERE:
        return
    parsed = _parse(address)
    # An unspecified address (0.0.0.0, ::) leads to this host.
    forbidden = parsed in _METADATA or parsed.is_link_local or parsed.is_multicast or parsed.is_unspecified
    if forbidden or (addresses is AddressPolicy.PUBLIC and not parsed.is_global):
        raise RegistryError(f"refused to connect to {host}: the registry named it, and it leads into a private network")


def _parse(text: str) -> _Address:
    """The address without its zone. An IPv4 address that is embedded in one of IPv6 counts as what it is."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address  # RFC 4291 section 2.5.5.2, RFC 3056
