"""Host names for tests: a resolver map in this process, so that several hosts can live on addresses of loopback."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

import pytest


def resolve_names(monkeypatch: pytest.MonkeyPatch, names: Mapping[str, str | list[str]]) -> list[str]:
    """Let ``socket.getaddrinfo`` know only these names (and addresses); returns the list of names asked for."""
    real = socket.getaddrinfo
    asked: list[str] = []

    def getaddrinfo(host: Any, port: Any, *args: Any, **options: Any) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else str(host)
        asked.append(name)
        if name not in names and not _is_address(name):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        addresses = names.get(name, name)
        found = [addresses] if isinstance(addresses, str) else addresses
        return [info for address in found for info in real(address, port, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def _is_address(name: str) -> bool:
    return ":" in name or name.replace(".", "").isdecimal()


def has_ipv6_loopback() -> bool:
    """Whether something can listen at ::1 here."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True
