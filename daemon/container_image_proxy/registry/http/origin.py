"""Origins, and the text ``host[:port]`` that they are written as. Pure. Spec: RFC 6454, RFC 3986 section 3.2."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from msgspec import Struct

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
# A colon without a port is allowed, and means the scheme's own (RFC 3986 section 3.2.3).
_AUTHORITY: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{0,5}))?")
_HIGHEST_PORT: Final = 65535


class Origin(Struct, frozen=True):
    """Scheme ("http" or "https"), host (lower case, without brackets) and port (RFC 6454 section 4)."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """``host[:port]`` as people and certs.d write it: the port is there unless it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def split_authority(text: str) -> tuple[str, int | None]:
    """The host as in :class:`Origin`, and the port, or None if the text names none.

    An IPv6 address has many spellings. All of them become one, so that hosts can be compared. Raises ``ValueError`` for
    anything that is not ``host[:port]``.
    """
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        raise ValueError("not host[:port]")
    address, name, port = match.groups()
    host = str(ipaddress.IPv6Address(address)) if address else name.lower()
    if port and not 0 < int(port) <= _HIGHEST_PORT:
        raise ValueError("not a port")
    return host, int(port) if port else None
