"""TLS handshakes that fail, as the clients of the daemon meet them: the reason is told, and a mirror costs nothing."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.support.authority import Authority
from tests.support.daemon import Reply
from tests.support.host import Host
from tests.support.layouts import StoredImage, single_image
from tests.support.upstream import Upstream, by_path, image

pytestmark = pytest.mark.demand("tls-fail")

SERVER = "127.0.0.1"


def with_certificate(authority: Authority, *names: str, expired: bool = False) -> ssl.SSLContext:
    return authority.issue(*names, expired=expired).server_context()


def of_a_stranger(authority: Authority) -> ssl.SSLContext:
    (elsewhere := authority.directory / "elsewhere").mkdir()
    return Authority(elsewhere).issue(SERVER).server_context()


def of_another_time(authority: Authority) -> ssl.SSLContext:
    context = with_certificate(authority, SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def without_common_cipher(authority: Authority) -> ssl.SSLContext:
    context = with_certificate(authority, SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")  # its key is for ECDSA
    return context


CONTEXTS: dict[str, tuple[Callable[[Authority], ssl.SSLContext], str]] = {
    "expired": (lambda authority: with_certificate(authority, SERVER, expired=True), "certificate has expired"),
    "other-name": (lambda authority: with_certificate(authority, "other.example"), "not valid for"),
    "stranger": (of_a_stranger, "not trusted: .*unable to get local issuer|not trusted: .*certificate"),
    "old": (of_another_time, "TLS"),
    "no-cipher": (without_common_cipher, "TLS"),
}
ANSWERS = {
    "hangs-up": (b"", "connection was lost|TLS failed"),
    "alert": (b"\x15\x03\x03\x00\x02\x02\x28", "TLS"),  # handshake_failure
    "no-tls": (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "does not speak TLS"),
}


@contextlib.contextmanager
def saying(answer: bytes) -> Iterator[str]:
    """A server that says this to each ClientHello and hangs up: its authority."""
    with socket.create_server((SERVER, 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client:
                        client.recv(10_000)
                        client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"{SERVER}:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextlib.contextmanager
def failing(fault: str, authority: Authority, stored: StoredImage) -> Iterator[str]:
    """A registry with such a fault: its authority."""
    if fault in ANSWERS:
        with saying(ANSWERS[fault][0]) as place:
            yield place
        return
    make, _ = CONTEXTS[fault]
    with Upstream(by_path(image(stored, "1")), tls=make(authority)) as upstream:
        yield upstream.authority
        assert not upstream.requests


FAULTS = {fault: reason for fault, (_, reason) in (CONTEXTS | ANSWERS).items()}


@dataclass(frozen=True)
class Bench:
    """For each fault the registry that has it, what comes of it alone, and what of an image of which it is a mirror."""

    stored: StoredImage
    origins: dict[str, str]
    places: dict[str, str]
    alone: dict[str, Reply]
    mirrored: dict[str, Reply]
    log: str


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    place = tmp_path_factory.mktemp("tls")
    authority, host = Authority(place), Host(place / "host")
    stored = single_image(place / "layout")
    good = with_certificate(authority, SERVER)
    with contextlib.ExitStack() as servers:
        places = {fault: servers.enter_context(failing(fault, authority, stored)) for fault in FAULTS}
        registry = servers.enter_context(Upstream(by_path(image(stored, "1")), tls=good)).authority
        origins = {fault: f"{registry}/{fault}" for fault in FAULTS}
        for one in (registry, *places.values()):
            host.trust(one, authority.certificate)
        host.write_registries(
            "".join(
                f'[[registry]]\nlocation = "{origins[fault]}"\n[[registry.mirror]]\nlocation = "{places[fault]}/os"\n'
                for fault in FAULTS
            )
        )
        references = {f"alone-{fault}": f"docker://{bad}/os:1" for fault, bad in places.items()}
        references |= {f"mirrored-{fault}": f"docker://{origin}:1" for fault, origin in origins.items()}
        with host.daemon(references) as daemon, ThreadPoolExecutor(len(references)) as pool:
            names = dict(
                zip(references, pool.map(lambda name: daemon.get(f"/images/{name}/manifest"), references), strict=True)
            )
            alone, mirrored = ({fault: names[f"{kind}-{fault}"] for fault in FAULTS} for kind in ("alone", "mirrored"))
            yield Bench(stored, origins, places, alone, mirrored, daemon.log_text())


@pytest.mark.parametrize(("fault", "reason"), FAULTS.items(), ids=FAULTS)
def test_the_reason_is_told(bench: Bench, fault: str, reason: str) -> None:
    refused = bench.alone[fault]
    assert refused.status in (502, 503)
    assert refused.json["endpoint"] == bench.places[fault]
    assert re.search(reason, refused.json["detail"])


@pytest.mark.parametrize(("fault", "reason"), FAULTS.items(), ids=FAULTS)
def test_the_next_mirror_is_asked(bench: Bench, fault: str, reason: str) -> None:
    served, origin = bench.mirrored[fault], bench.origins[fault].partition("/")[0]
    assert (served.status, served.body) == (200, bench.stored.manifest)
    assert re.search(f"{bench.places[fault]} failed, trying {origin}: .*({reason})", bench.log)
