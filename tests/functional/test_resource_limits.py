"""The limits that the unit sets suffice for 64 transfers, and hold whatever a registry sends to sixty clients."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from tests.support.cgroup import Limited, limited
from tests.support.daemon import RunningDaemon, UnixConnection
from tests.support.host import Host
from tests.support.layouts import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Layout,
)
from tests.support.machine import ROOT
from tests.support.privilege import ORDINARY_UID, ordinary_user, public_directory
from tests.support.upstream import Handler, Upstream, answering, by_path, content, image

KIB = 1 << 10
MIB = 1 << 20
LARGEST = 4 * MIB  # that a manifest may be
PLATFORMS, IMAGES = 60, 20
STREAMS = 64


def shipped(name: str) -> int:
    """A limit of the unit, in bytes if it is of memory."""
    unit = (ROOT / "systemd/container-image-proxy@.service").read_text()
    (found,) = re.findall(rf"^{name}=(\d+)(M?)$", unit, re.MULTILINE)
    return int(found[0]) * (MIB if found[1] else 1)


@contextmanager
def serving(
    place: Path, upstream: Upstream, images: dict[str, str], *, keys: str = "", tasks: int = 0
) -> Iterator[tuple[RunningDaemon, Limited]]:
    """The daemon as the unit runs it: within its limits, and with a runtime directory in memory, which counts."""
    host = Host(place / "host")
    host.write_registries(f'[[registry]]\nlocation = "{upstream.authority}"\ninsecure = true\n')
    with (
        limited(memory=shipped("MemoryMax"), tasks=tasks or shipped("TasksMax")) as group,
        tempfile.TemporaryDirectory(dir="/dev/shm") as runtime,
        host.daemon(images, environ={"RUNTIME_DIRECTORY": runtime}, keys=keys, prefix=group.prefix) as daemon,
    ):
        yield daemon, group


# --- what a registry sends --------------------------------------------------------------------------------------------


def descriptor(number: int, media_type: str, **fields: object) -> dict[str, object]:
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": 1, **fields}


def manifest(number: int, extra: str = "", **fields: object) -> bytes:
    """A small one that nobody else has, with ``extra`` members."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(number, OCI_CONFIG),
        "layers": [],
        **fields,
    }
    return f"{json.dumps(document, separators=(',', ':'))[:-1]},{extra or '0:0'}}}".replace(",0:0", "").encode()


def one_long_text(number: int) -> bytes:
    """Every character takes four bytes, because one of them is far up."""
    return manifest(number, f'"x":"\N{ROCKET}{"a" * (LARGEST - 1000)}"')


def as_many_values_as_may_be(number: int) -> bytes:
    values = '{"":0},' * 49_000
    return manifest(number, f'"x":[{values}0],"y":"\N{ROCKET}{"a" * (LARGEST - len(values) - 2000)}"')


def more_values_than_may_be(number: int) -> bytes:
    return manifest(number, f'"x":[{"{}," * (LARGEST // 3 - 1000)}0]')


def as_many_layers_as_may_be(number: int) -> bytes:
    layers = [descriptor(layer, OCI_LAYER, annotations={"a": "b" * 200}) for layer in range(10_000)]
    return manifest(number, layers=layers)


def layers_to_be_converted(number: int) -> bytes:
    layers = [descriptor(layer, DOCKER_LAYER) for layer in range(10_000)]
    return manifest(number, mediaType=DOCKER_MANIFEST, config=descriptor(number, DOCKER_CONFIG), layers=layers)


def index_of(manifests: list[bytes], media_type: str) -> bytes:
    entries = [
        {
            "mediaType": media_type,
            "digest": f"sha256:{hashlib.sha256(raw).hexdigest()}",
            "size": len(raw),
            "platform": {"os": "linux", "architecture": f"a{number}"},
        }
        for number, raw in enumerate(manifests)
    ]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


def routes_of(manifests: list[bytes], media_type: str) -> dict[str, Handler]:
    return {
        "/v2/": answering(200, b"{}"),
        "/manifests/hostile": content(index_of(manifests, media_type), OCI_INDEX),
        **{f"/manifests/sha256:{hashlib.sha256(raw).hexdigest()}": content(raw, media_type) for raw in manifests},
    }


@pytest.mark.demand("LIM-manifest")
@pytest.mark.demand("JSON-depth")
@pytest.mark.parametrize(
    ("make", "media_type", "status"),
    [
        (one_long_text, OCI_MANIFEST, 200),
        (as_many_values_as_may_be, OCI_MANIFEST, 200),
        (more_values_than_may_be, OCI_MANIFEST, 502),
        (as_many_layers_as_may_be, OCI_MANIFEST, 200),
        (layers_to_be_converted, DOCKER_MANIFEST, 200),
    ],
)
def test_sixty_platforms_at_once_stay_within_the_limits(
    tmp_path: Path, make: Callable[[int], bytes], media_type: str, status: int
) -> None:
    manifests = [make(number) for number in range(PLATFORMS)]
    stored = Layout(tmp_path / "layout").image(name="1")
    with (
        Upstream(by_path(image(stored, tag="good") | routes_of(manifests, media_type))) as upstream,
        serving(
            tmp_path, upstream, {name: f"docker://{upstream.authority}/{name}:{name}" for name in ("hostile", "good")}
        ) as (daemon, group),
        ThreadPoolExecutor(PLATFORMS) as clients,
    ):
        targets = [f"/images/hostile/manifest?platform=linux/a{number}" for number in range(PLATFORMS)]
        replies = list(clients.map(daemon.get, targets))
        assert {reply.status for reply in replies} <= {status, 503}
        assert status in {reply.status for reply in replies}
        assert group.killed() == 0, group.peak()
        assert daemon.get("/images/good/manifest").body == stored.manifest


def nested_indexes(number: int) -> dict[str, Handler]:
    """As deep as can be, each as large as can be: more than an image may have at all."""
    routes: dict[str, Handler] = {}
    raw, media_type = one_long_text(number), OCI_MANIFEST
    for _ in range(4):
        routes[f"/manifests/sha256:{hashlib.sha256(raw).hexdigest()}"] = content(raw, media_type)
        entry = {
            "mediaType": media_type,
            "digest": f"sha256:{hashlib.sha256(raw).hexdigest()}",
            "size": len(raw),
            "platform": {"os": "linux", "architecture": "amd64"},
        }
        index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]})
        raw, media_type = f'{index[:-1]},"x":"{"a" * (LARGEST - 1000)}"}}'.encode(), OCI_INDEX
    return routes | {f"/image-{number}/manifests/1": content(raw, media_type)}


@pytest.mark.demand("LIM-manifest")
def test_many_images_with_more_than_an_image_may_have_stay_within_the_limits(tmp_path: Path) -> None:
    routes = {"/v2/": answering(200, b"{}")}
    for number in range(IMAGES):
        routes |= nested_indexes(number)
    with (
        Upstream(by_path(routes)) as upstream,
        serving(
            tmp_path,
            upstream,
            {f"i{number}": f"docker://{upstream.authority}/image-{number}:1" for number in range(IMAGES)},
            keys='platform = "linux/amd64"',
        ) as (daemon, group),
        ThreadPoolExecutor(IMAGES) as clients,
    ):
        replies = list(clients.map(daemon.get, [f"/images/i{number}/manifest" for number in range(IMAGES)]))
        assert {reply.status for reply in replies} <= {502, 503}
        assert any("more than" in reply.json["detail"] for reply in replies)
        assert group.killed() == 0, group.peak()


# --- what clients do --------------------------------------------------------------------------------------------------


@pytest.mark.demand("mem-limit")
def test_the_limits_suffice_for_64_transfers_at_a_time(tmp_path: Path) -> None:
    stored = Layout(tmp_path / "layout").image([bytes(16 * MIB)], name="1", compression="")
    (digest,) = stored.layer_digests
    with (
        Upstream(by_path(image(stored, tag="1"))) as upstream,
        serving(tmp_path, upstream, {"os": f"docker://{upstream.authority}/os:1"}) as (daemon, group),
        ExitStack() as stack,
    ):
        transfers = [stack.enter_context(daemon.open(f"/blobs/{digest}")) for _ in range(STREAMS)]
        assert [transfer.read(1) for transfer in transfers] == [b"\0"] * STREAMS  # all are under way
        with ThreadPoolExecutor(STREAMS) as clients:
            sizes = list(clients.map(lambda transfer: len(transfer.read()), transfers))
        assert sizes == [16 * MIB - 1] * STREAMS
        assert group.killed() == 0, group.peak()


@pytest.mark.demand("client-stall")
def test_clients_that_do_not_take_large_answers_stay_within_the_limits(tmp_path: Path) -> None:
    """What a client has not taken cannot be given up, whatever becomes of its snapshot."""
    manifests = [one_long_text(number) for number in range(PLATFORMS)]
    with (
        Upstream(by_path(routes_of(manifests, OCI_MANIFEST))) as upstream,
        serving(tmp_path, upstream, {"hostile": f"docker://{upstream.authority}/os:hostile"}) as (daemon, group),
        ExitStack() as stack,
    ):
        answers = [
            stack.enter_context(daemon.open(f"/manifest?platform=linux/a{number}")) for number in range(PLATFORMS)
        ]
        statuses = [answer.status for answer in answers]
        assert set(statuses) == {200, 503}
        assert {answer.headers["retry-after"] for answer in answers if answer.status == 503} == {"1"}
        taken = [answer.read() for answer in answers if answer.status == 200]
        assert [body in manifests for body in taken] == [True] * len(taken)
        assert group.killed() == 0, group.peak()
        assert daemon.get(f"/manifest?platform=linux/a{PLATFORMS - 1}").status == 200


@pytest.mark.demand("client-stall")
def test_users_who_take_nothing_of_small_blobs_stay_within_the_limits(tmp_path: Path) -> None:
    """A small blob is in memory as a whole, and as many users as there can be clients may leave theirs there."""
    stored = Layout(tmp_path / "layout").image([bytes(MIB - KIB)], name="1", compression="")
    (digest,) = stored.layer_digests
    keys = f"[images.os.access]\nusers = [0, {ORDINARY_UID}]"
    with (
        public_directory() as place,
        Upstream(by_path(image(stored, tag="1"))) as upstream,
        serving(place, upstream, {"os": f"docker://{upstream.authority}/os:1"}, keys=keys) as (daemon, group),
        ExitStack() as clients,
    ):
        daemon.socket.parent.chmod(0o755)
        connections = [clients.enter_context(closing(UnixConnection(daemon.socket))) for _ in range(128)]
        for connection in connections[:64]:
            connection.connect()
        with ordinary_user():
            for connection in connections[64:]:
                connection.connect()
        for connection in connections:
            connection.request("GET", f"/blobs/{digest}")
        statuses = [connection.getresponse().status for connection in connections]
        assert statuses.count(200) == 64 + 48  # the last places are for users who have none
        assert group.killed() == 0, group.peak()


def test_clients_that_get_no_thread_are_told_to_come_back(tmp_path: Path) -> None:
    stored = Layout(tmp_path / "layout").image(name="1")
    with (
        Upstream(by_path(image(stored, tag="1"))) as upstream,
        serving(tmp_path, upstream, {"os": f"docker://{upstream.authority}/os:1"}, tasks=16) as (daemon, _),
        ExitStack() as stack,
    ):
        assert daemon.get("/manifest").status == 200
        answers = [stack.enter_context(daemon.open("/manifest")) for _ in range(40)]
        assert {answer.status for answer in answers} == {200, 503}
        stack.close()
        log = daemon.log_text()
        assert log.count("turned away") == 1
    assert "Traceback" not in log
