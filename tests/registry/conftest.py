"""Fixtures of the tests of the registry client."""

from __future__ import annotations

from pathlib import Path

import pytest

from container_image_proxy.registry.http.sockets import PunctualSocket
from tests.support.authority import Authority
from tests.support.hosts import NAMES, World
from tests.support.layouts import single_image
from tests.support.names import resolve_names


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(single_image(tmp_path / "layout"), Authority(tmp_path), tmp_path / "certs.d")
    resolve_names(monkeypatch, NAMES)
    connect = PunctualSocket.connect_ex

    def record(self: PunctualSocket, address: tuple[str, int]) -> int:
        world.dialled.append(address[0])
        return connect(self, address)

    monkeypatch.setattr(PunctualSocket, "connect_ex", record)
    return world
