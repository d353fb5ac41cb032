"""A fleet's pull-through cache: Debian's docker-registry in proxy mode as the mirror, the origin behind it.

The set-up is the one of contrib/fleet.md, read from there. Cache up, down, corrupt, and stalled in mid-blob.
"""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
import yaml
from msgspec.structs import replace

from container_image_proxy.config.registries_conf import load_registries
from container_image_proxy.image.digest import parse_digest
from container_image_proxy.image.manifest import Descriptor
from container_image_proxy.image.reference import parse_reference
from tests.support.authority import Authority, Issued
from tests.support.contexts import CONTEXT
from tests.support.host import Host, fetch_image
from tests.support.layouts import Layout, StoredImage, layer_tar
from tests.support.readers import pieces
from tests.support.registries import DockerRegistry, docker_registry, free_port, needs_docker_registry
from tests.support.registry_client import LIMITS, registry_client

pytestmark = needs_docker_registry

DOCUMENT = Path(__file__).resolve().parents[2] / "contrib" / "fleet.md"
MIB = 1 << 20
CURL_PARTIAL_FILE = 18


@dataclass(frozen=True)
class Fleet:
    """An origin with one image, and a cache in front of it."""

    directory: Path
    stored: StoredImage
    origin: DockerRegistry
    cache: DockerRegistry
    authority: Authority

    @property
    def small(self) -> str:
        return self.stored.layer_digests[0]

    @property
    def big(self) -> str:
        return self.stored.layer_digests[1]

    def host(self, name: str) -> Host:
        """One more host of the fleet; nothing but registries.conf tells it of the cache."""
        host = Host(self.directory / name)
        text = documented("toml")
        for place, real in {
            "registry.example.com": f'{self.origin.authority}"\ninsecure = true #',
            "cache.example.com:5000": self.cache.authority,
        }.items():
            assert text.count(f'"{place}"') == 1
            text = text.replace(place, real)
        host.write_registries(text)
        host.trust(self.cache.authority, self.authority.certificate)
        return host

    @property
    def images(self) -> dict[str, str]:
        return {"os": f"docker://{self.origin.authority}/os:1"}

    def fill(self) -> None:
        """Let the cache have everything; it stores a blob after it has passed it on."""
        with self.host("first").daemon(self.images) as daemon:
            assert fetch_image(daemon, "os") == self.stored.blobs
        links = self.cache.storage / "docker/registry/v2/repositories/os/_layers/sha256"
        for digest in self.stored.blobs:
            await_true((links / digest.removeprefix("sha256:") / "link").exists)

    def spoil(self, digest: str, content: bytes) -> None:
        """Let the cache's disk have other content than it should."""
        self.cache.blob_file(digest).write_bytes(content)


def documented(language: str) -> str:
    """The document's first example in a language."""
    example = re.search(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert example
    return example[1]


def cache_settings(directory: Path, origin: str, address: str, certificate: Issued) -> dict[str, Any]:
    """The documented configuration of the cache, with our own places, names and certificate."""
    settings: dict[str, Any] = yaml.safe_load(documented("yaml"))
    settings["storage"]["filesystem"]["rootdirectory"] = str(directory / "storage")
    settings["http"]["addr"] = address
    settings["http"]["tls"] = {"certificate": str(certificate.certificate), "key": str(certificate.key)}
    settings["proxy"]["remoteurl"] = f"http://{origin}"
    return settings


def await_true(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = monotonic() + seconds
    while not condition():
        assert monotonic() < end, "waited in vain"
        sleep(0.01)


@contextlib.contextmanager
def freezing(registry: DockerRegistry) -> Iterator[Callable[[], None]]:
    """A function that lets the registry stall, connections and all, until the end of the block."""
    process = registry.process
    assert process is not None
    try:
        yield lambda: process.send_signal(signal.SIGSTOP)
    finally:
        process.send_signal(signal.SIGCONT)


def asked(registry: DockerRegistry, path: str = "/v2/os/") -> int:
    """How many GETs below ``path`` the registry's access log has."""
    return len(re.findall(rf'"GET {re.escape(path)}', registry.log.read_text()))


def wrong(content: bytes) -> bytes:
    """The same size, the last bit different."""
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    layers = [layer_tar({"small": b"small"}), layer_tar({"big": bytes(range(256)) * (32 * MIB // 256)})]
    stored = Layout(tmp_path / "layout").image(layers, name="latest", compression="")
    with docker_registry(tmp_path / "origin") as origin:
        origin.push(tmp_path / "layout", "os:1", "--preserve-digests")
        authority, port = Authority(tmp_path), free_port()
        certificate = authority.issue("127.0.0.1")
        settings = cache_settings(tmp_path / "cache", origin.authority, f"127.0.0.1:{port}", certificate)
        with docker_registry(tmp_path / "cache", port=port, settings=settings) as cache:
            yield Fleet(tmp_path, stored, origin, cache, authority)


def test_the_origin_serves_a_fleet_once(fleet: Fleet) -> None:
    fleet.fill()
    blobs = asked(fleet.origin, "/v2/os/blobs/")
    with (
        fleet.host("second").daemon(fleet.images) as second,
        fleet.host("third").daemon(fleet.images) as third,
        ThreadPoolExecutor() as pool,
    ):
        received = list(pool.map(lambda daemon: fetch_image(daemon, "os"), [second, third]))
    assert received == [fleet.stored.blobs] * 2
    assert asked(fleet.origin, "/v2/os/blobs/") == blobs, "the origin was asked for what the cache had"


@pytest.mark.demand("mirror-down")
def test_without_the_cache_the_origin_serves(fleet: Fleet) -> None:
    fleet.cache.stop()
    with fleet.host("only").daemon(fleet.images) as daemon:
        assert fetch_image(daemon, "os") == fleet.stored.blobs
        assert f"{fleet.cache.authority} failed, trying {fleet.origin.authority}" in daemon.log_text()
    assert asked(fleet.origin, "/v2/os/manifests/1") == 1


@pytest.mark.demand("mirror-down")
def test_a_cache_that_has_lost_its_origin_serves_what_it_has(fleet: Fleet) -> None:
    fleet.fill()
    fleet.origin.stop()
    images = {"tag": fleet.images["os"], "digest": f"docker://{fleet.origin.authority}/os@{fleet.stored.digest}"}
    with fleet.host("second").daemon(images) as daemon:
        assert [fetch_image(daemon, name) for name in images] == [fleet.stored.blobs] * 2


@pytest.mark.demand("mirror-corrupt-blob")
def test_wrong_bytes_of_a_corrupt_cache_are_never_complete_and_the_origin_heals_them(fleet: Fleet) -> None:
    fleet.fill()
    fleet.spoil(fleet.small, wrong(fleet.stored.blobs[fleet.small]))
    fleet.spoil(fleet.big, wrong(fleet.stored.blobs[fleet.big]))
    with fleet.host("second").daemon(fleet.images) as daemon:
        daemon.get("/manifest")
        big = daemon.curl("--fail", f"http://x/blobs/{fleet.big}")
        assert big.returncode == CURL_PARTIAL_FILE
        assert len(big.stdout) < len(fleet.stored.blobs[fleet.big])
        assert fetch_image(daemon, "os") == fleet.stored.blobs
    with fleet.host("third").daemon(fleet.images) as daemon:
        daemon.get("/manifest")
        assert daemon.get(f"/blobs/{fleet.small}").body == fleet.stored.blobs[fleet.small]
        assert fetch_image(daemon, "os") == fleet.stored.blobs, "the cache was asked again"
    assert f"{fleet.cache.authority} failed, trying {fleet.origin.authority}" in daemon.log_text()


@pytest.mark.demand("mirror-corrupt-blob")
def test_blobs_that_the_cache_has_lost_a_part_of_come_from_the_origin(fleet: Fleet) -> None:
    fleet.fill()
    fleet.spoil(fleet.small, b"")
    fleet.spoil(fleet.big, fleet.stored.blobs[fleet.big][: 3 * MIB])
    with fleet.host("second").daemon(fleet.images) as daemon:
        assert fetch_image(daemon, "os") == fleet.stored.blobs


@pytest.mark.demand("stall-mid-blob")
def test_a_cache_that_stalls_in_mid_blob_costs_the_idle_timeout_once(fleet: Fleet) -> None:
    fleet.fill()
    host = fleet.host("only")
    reference = parse_reference(f"{fleet.origin.authority}/os@{fleet.stored.digest}")
    registries = load_registries(path=host.registries_conf, environ={}, home=host.directory, uid=0)
    certificates = host.registries_conf.parent / "certs.d"
    limits = replace(LIMITS, idle_timeout=0.5)
    before = asked(fleet.cache, f"/v2/os/blobs/{fleet.small}")
    with registry_client(registries=registries, certificates=certificates, limits=limits, tls_verify=None) as client:

        def fetch(digest: str, *, after_first_piece: Callable[[], None] = lambda: None) -> None:
            content = fleet.stored.blobs[digest]
            read = pieces(client.open_blob(CONTEXT, reference, Descriptor("", parse_digest(digest), len(content))))
            first = next(read)
            after_first_piece()
            assert first + b"".join(read) == content

        with freezing(fleet.cache) as freeze:
            fetch(fleet.big, after_first_piece=freeze)
            fetch(fleet.small)
    with registry_client() as client:
        client.fetch_manifest(CONTEXT, parse_reference(f"{fleet.cache.authority}/os:1"))
    assert asked(fleet.cache, f"/v2/os/blobs/{fleet.small}") == before, "the stalled cache was asked for the next blob"
    assert f'"GET /v2/os/blobs/{fleet.big} HTTP/1.1" 206' in fleet.origin.log.read_text()
