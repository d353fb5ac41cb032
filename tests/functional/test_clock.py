"""A wall clock that jumps by a day whenever it is looked at: every time-out is by another clock."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.daemon import UnixConnection, stand_alone, write_policy
from tests.support.gpg import Signer
from tests.support.layouts import Layout, StoredImage, layer_tar, single_image
from tests.support.openpgp import make_openpgp_key
from tests.support.upstream import (
    Connection,
    ReceivedRequest,
    Upstream,
    answering,
    by_path,
    content,
    image,
)

pytestmark = pytest.mark.demand("clock-jump")

DAY = 86_400
JUMPING = """
import itertools, os, time
real, looks, step = time.time, itertools.count(), float(os.environ["CLOCK_STEP"])
time.time = lambda: real() + step * next(looks)
time.time_ns = lambda: int(time.time() * 1e9)
"""


@pytest.fixture
def forward(tmp_path: Path) -> dict[str, str]:
    """The environment of a process whose clock is a day later at each look."""
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock/sitecustomize.py").write_text(JUMPING)
    return {"PYTHONPATH": str(tmp_path / "clock"), "CLOCK_STEP": str(DAY)}


@pytest.fixture
def backward(forward: dict[str, str]) -> dict[str, str]:
    """The same, but a day earlier at each look."""
    return forward | {"CLOCK_STEP": str(-DAY)}


class Registry:
    """Wants a token for everything, and counts those that it gave; each is good for a minute."""

    def __init__(self, stored: StoredImage) -> None:
        self.tokens = 0
        self._routes = by_path(image(stored, tag="1"))

    def __call__(self, request: ReceivedRequest, connection: Connection) -> None:
        if request.path.endswith("/token"):
            self.tokens += 1
            connection.answer(200, json.dumps({"token": "sesame", "expires_in": 60}).encode())
        elif request.headers.get("authorization") != "Bearer sesame":
            challenge = f'Bearer realm="http://{request.headers["host"]}/token",service="x"'
            connection.answer(401, b"", {"WWW-Authenticate": challenge})
        else:
            self._routes(request, connection)


@contextlib.contextmanager
def registry_of_a_large_image(place: Path) -> Iterator[tuple[Upstream, Registry, StoredImage]]:
    stored = Layout(place / "layout").image([layer_tar({"big": os.urandom(3 << 20)})], name="1", compression="")
    registry = Registry(stored)
    with Upstream(registry) as upstream:
        yield upstream, registry, stored


def test_the_clock_of_these_tests_jumps(forward: dict[str, str], tmp_path: Path) -> None:
    single_image(tmp_path / "layout", name="1")
    with stand_alone(tmp_path / "run", ["--insecure-policy", f"oci:{tmp_path}/layout:1"], environ=forward) as daemon:
        dates = {daemon.get("/manifest").headers["date"] for _ in range(3)}
    assert len({date.split(" ", 1)[1][:11] for date in dates}) == 3


def test_nothing_is_given_up_because_the_clock_is_put_forward(tmp_path: Path, forward: dict[str, str]) -> None:
    with registry_of_a_large_image(tmp_path) as (upstream, registry, stored):
        options = ["--tls-verify=false", "--insecure-policy", f"docker://{upstream.authority}/os:1"]
        with (
            stand_alone(tmp_path / "run", options, environ=forward) as daemon,
            contextlib.closing(UnixConnection(daemon.socket)) as client,
        ):
            for target in ("/manifest", f"/blobs/{stored.layer_digests[0]}", "/config", "/manifest"):
                client.request("GET", target)
                answer = client.getresponse()
                assert answer.status == 200
                assert len(answer.read()) == int(answer.headers["content-length"])
            client.sock.sendall(b"GET /config HTTP/1.1\r\n")
            client.sock.sendall(b"Host: x\r\n\r\n")
            assert client.sock.recv(100).startswith(b"HTTP/1.1 200 ")
    assert registry.tokens == 1


def test_signatures_are_verified_though_the_clock_is_put_forward(tmp_path: Path, forward: dict[str, str]) -> None:
    with signed_upstream(tmp_path, []) as options, stand_alone(tmp_path / "run", options, environ=forward) as daemon:
        reply = daemon.get("/manifest")
        assert reply.status == 200, reply.body


def test_verification_ends_though_the_clock_is_put_back(tmp_path: Path, backward: dict[str, str]) -> None:
    many = [make_openpgp_key(number) for number in range(10_000)]
    with signed_upstream(tmp_path, many) as options:
        in_time = ["--verification-timeout=2", *options]
        with stand_alone(tmp_path / "run", in_time, environ=backward) as daemon:
            reply = daemon.get("/manifest")
    assert (reply.status, reply.json["retryable"]) == (403, True)


@contextlib.contextmanager
def signed_upstream(place: Path, more_keys: list[bytes]) -> Iterator[list[str]]:
    """The command line for a signed image; the policy has its key and these."""
    stored = single_image(place / "layout")
    with Signer() as signer, Upstream(answering(404)) as upstream:
        (place / "keys.gpg").write_bytes(b"".join([signer.public_key, *more_keys]))
        signature = signer.sign_image(f"{upstream.authority}/os:1", stored.digest)
        upstream.handler = by_path({"/signature-1": content(signature)} | image(stored, tag="1"))
        (place / "registries.d").mkdir()
        (place / "registries.d/x.yaml").write_text(f"default-docker:\n  lookaside: {upstream.url}/lookaside\n")
        requirement = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": f"{place}/keys.gpg"}
        policy = write_policy(place, {"default": [requirement]})
        options = ["--tls-verify=false", "--policy", str(policy), "--registries.d", f"{place}/registries.d"]
        yield [*options, f"docker://{upstream.authority}/os:1"]


@pytest.mark.parametrize("step", [DAY, -DAY])
def test_an_idle_daemon_leaves_when_its_time_is_over_and_not_before(
    tmp_path: Path, forward: Mapping[str, str], step: int
) -> None:
    single_image(tmp_path / "layout", name="1")
    options = ["--idle-exit", "4", "--insecure-policy", f"oci:{tmp_path}/layout:1"]
    environ = {**forward, "CLOCK_STEP": str(step)}
    with stand_alone(tmp_path / "run", options, environ=environ) as daemon:
        for _ in range(3):
            assert daemon.get("/manifest").status == 200
        assert daemon.process.wait(30) == 0


@pytest.mark.parametrize("step", [DAY, -DAY])
def test_a_stop_waits_for_a_transfer_and_not_for_ever(tmp_path: Path, forward: Mapping[str, str], step: int) -> None:
    stored = Layout(tmp_path / "layout").image([layer_tar({"big": os.urandom(3 << 20)})], name="1", compression="")
    options = ["--insecure-policy", f"oci:{tmp_path}/layout:1"]
    with stand_alone(tmp_path / "run", options, environ={**forward, "CLOCK_STEP": str(step)}) as daemon:
        with contextlib.closing(UnixConnection(daemon.socket)) as client:
            client.request("GET", f"/blobs/{stored.layer_digests[0]}")
            answer = client.getresponse()
            begin = answer.read(1000)
            daemon.signal(signal.SIGTERM)
            daemon.wait_for_notification("STOPPING=1")
            assert begin + answer.read() == stored.layers[0]
        assert daemon.process.wait(30) == 0
