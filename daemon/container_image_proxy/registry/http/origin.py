"""Origins (RFC 6454), and the hosts and ports that they are written as. Pure."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from msgspec import Struct

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_AUTHORITY: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{0,5}))?")
_HIGHEST_PORT: Final = 65535


class Origin(Struct, frozen=True):
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
