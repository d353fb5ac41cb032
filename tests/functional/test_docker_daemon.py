"""docker-daemon: images, from podman's service, from dockerd, and from an engine that fails."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.support.authority import Authority
from tests.support.daemon import RunningDaemon, command, stand_alone, write_policy
from tests.support.engine import (
    RunningEngine,
    SimulatedEngine,
    docker_daemon,
    podman_service,
    simulated,
    simulated_on_tcp,
)
from tests.support.image_proxy import initialized
from tests.support.layouts import OCI_MANIFEST, Layout, StoredImage, layer_tar
from tests.support.makers.archives import NAME, new_layout, old_layout, unpacked, write_tar

ENGINES = pytest.mark.parametrize("engine", [podman_service, docker_daemon], ids=["podman", "dockerd"])
Start = Callable[[], AbstractContextManager[RunningEngine]]


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def an_image(directory: Path, text: bytes = b"hello\n", *, large: int = 0) -> StoredImage:
    return Layout(directory).image([layer_tar({"motd": text}), layer_tar({"large": os.urandom(large) or b"x"})])


def an_archive(directory: Path, image: StoredImage) -> Path:
    return write_tar(directory / f"{image.config_digest[7:]}.tar", old_layout(image))


@contextlib.contextmanager
def serving(directory: Path, reference: str, host: str, *options: str, **environ: str) -> Iterator[RunningDaemon]:
    arguments = [
        "--policy",
        str(write_policy(directory)),
        "--override-arch",
        "amd64",
        *options,
    ]
    where = ["--daemon-host", host] if host else []
    with tempfile.TemporaryDirectory(dir="/var/tmp") as disk:  # ``directory`` may be memory
        (directory / "spool").unlink(missing_ok=True)
        (directory / "spool").symlink_to(disk)
        arguments += ["--cache-dir", disk]
        with stand_alone(
            directory / "run", [*arguments, *where, f"docker-daemon:{reference}"], environ=environ
        ) as daemon:
            yield daemon


def assert_served(daemon: RunningDaemon, image: StoredImage) -> None:
    reply = daemon.get("/manifest")
    assert (reply.status, reply.headers["content-type"]) == (200, OCI_MANIFEST), reply.body
    assert reply.headers["manifest-digest"] == digest_of(reply.body)
    assert [daemon.get(f"/blobs/{one['digest']}").body for one in reply.json["layers"]] == list(unpacked(image))
    assert daemon.get("/config").json["rootfs"]["diff_ids"] == [digest_of(layer) for layer in unpacked(image)]


@ENGINES
def test_an_image_of_a_real_engine_is_served_by_name_and_by_id(tmp_path: Path, engine: Start) -> None:
    image = an_image(tmp_path / "layout", large=5 << 20)
    with engine() as running:
        image_id = running.load(an_archive(tmp_path, image), NAME)
        for number, reference in enumerate((NAME, image_id)):
            (place := tmp_path / str(number)).mkdir()
            with serving(place, reference, running.host) as daemon:
                assert_served(daemon, image)
                assert daemon.get(f"/blobs/{image.config_digest}").body == image.config


@ENGINES
def test_what_the_engine_saves_is_a_docker_archive(tmp_path: Path, engine: Start) -> None:
    image = an_image(tmp_path / "layout", large=100_000)
    with engine() as running:
        running.load(an_archive(tmp_path, image), NAME)
        status, saved = running.request("GET", f"/v1.40/images/get?names={NAME}")
    assert status == 200
    (tmp_path / "saved.tar").write_bytes(saved)
    options = ["--policy", str(write_policy(tmp_path)), "--override-arch", "amd64"]
    with stand_alone(tmp_path / "run", [*options, f"docker-archive:{tmp_path}/saved.tar:{NAME}"]) as daemon:
        assert_served(daemon, image)


@ENGINES
def test_a_name_that_moves_is_another_image_and_the_old_ones_blobs_stay(tmp_path: Path, engine: Start) -> None:
    old, new = an_image(tmp_path / "old"), an_image(tmp_path / "new", b"new\n")
    with engine() as running:
        running.load(an_archive(tmp_path, old), NAME)
        with serving(tmp_path, NAME, running.host) as daemon:
            first = daemon.get("/manifest").headers["manifest-digest"]
            running.load(an_archive(tmp_path, new), NAME)
            while daemon.get("/manifest").headers["manifest-digest"] == first:
                pass  # until the snapshot is no longer fresh
            assert_served(daemon, new)
            assert daemon.get(f"/blobs/{digest_of(unpacked(old)[0])}").body == unpacked(old)[0]


@ENGINES
def test_an_image_that_the_engine_has_not_is_not_found(tmp_path: Path, engine: Start) -> None:
    with engine() as running, serving(tmp_path, "example.com/none:1", running.host) as daemon:
        reply = daemon.get("/manifest")
        assert reply.status == 404
        assert f"the Docker daemon at {running.host} has no image example.com/none:1" in reply.json["detail"]


# --- the simulator ----------------------------------------------------------------------------------------------------


@pytest.fixture
def image(tmp_path: Path) -> StoredImage:
    return an_image(tmp_path / "layout", large=200_000)


@pytest.fixture
def fake(tmp_path: Path, image: StoredImage) -> SimulatedEngine:
    engine = SimulatedEngine()
    engine.add(NAME, an_archive(tmp_path, image).read_bytes(), image.config_digest)
    return engine


def test_an_image_is_exported_once_as_long_as_it_is_the_same(
    tmp_path: Path, fake: SimulatedEngine, image: StoredImage
) -> None:
    with simulated(fake, tmp_path / "sock") as host, serving(tmp_path, NAME, host) as daemon:
        assert_served(daemon, image)
        while len([one for one in fake.requests if one.endswith("/json")]) < 3:
            assert_served(daemon, image)
    assert len([one for one in fake.requests if one.endswith("/get")]) == 1
    assert f"/v1.41/images/{image.config_digest}/get" in fake.requests
    assert set(fake.requests) - {"/_ping"} == {
        f"/v1.41/images/{NAME}/json",
        f"/v1.41/images/{image.config_digest}/get",
    }


def test_an_engine_that_tells_no_version_is_asked_without(
    tmp_path: Path, fake: SimulatedEngine, image: StoredImage
) -> None:
    fake.version = None
    with simulated(fake, tmp_path / "sock") as host, serving(tmp_path, NAME, host) as daemon:
        assert_served(daemon, image)
    assert f"/images/{NAME}/json" in fake.requests


def test_check_tells_the_id_and_exports_nothing(tmp_path: Path, fake: SimulatedEngine, image: StoredImage) -> None:
    options = ["--check", "--policy", str(write_policy(tmp_path)), "--daemon-host", f"unix://{tmp_path}/sock"]
    line = command(*options, f"docker-daemon:{NAME}")
    with simulated(fake, tmp_path / "sock") as host:
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert (done.returncode, f"image {image.config_digest} of the Docker daemon at {host}" in done.stdout) == (
            0,
            True,
        )
    assert not [one for one in fake.requests if one.endswith("/get")]
    (tmp_path / "sock").unlink()
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, "No such file or directory" in done.stderr) == (78, True)


def test_skopeo_s_protocol_takes_the_option_too(tmp_path: Path, disk: Path, fake: SimulatedEngine) -> None:
    with simulated(fake, tmp_path / "sock") as host:
        options = ["--policy", write_policy(tmp_path), "--daemon-host", host, "--tmpdir", disk]
        with initialized(options) as proxy:
            assert proxy.call("OpenImage", f"docker-daemon:{NAME}").success


@pytest.mark.parametrize("by", ["option", "DOCKER_HOST"])
def test_where_the_engine_is_can_be_said_in_two_ways(
    tmp_path: Path, fake: SimulatedEngine, image: StoredImage, by: str
) -> None:
    with simulated(fake, tmp_path / "sock") as host:
        chosen, environ = (
            (host, {"DOCKER_HOST": "tcp://192.0.2.1:1"}) if by == "option" else ("", {"DOCKER_HOST": host})
        )
        with serving(tmp_path, NAME, chosen, **environ) as daemon:
            assert_served(daemon, image)


@pytest.mark.demand("docker-daemon-down")
def test_an_engine_that_is_not_there_is_told_and_asked_again(
    tmp_path: Path, fake: SimulatedEngine, image: StoredImage
) -> None:
    host = f"unix://{tmp_path}/sock"
    with serving(tmp_path, NAME, host) as daemon:
        reply = daemon.get("/manifest")
        assert (reply.status, reply.json["retryable"]) == (502, True)
        assert reply.json["detail"] == f"the Docker daemon at {host}: No such file or directory"
        with simulated(fake, tmp_path / "sock"):
            assert_served(daemon, image)
            kept = daemon.get(f"/blobs/{digest_of(unpacked(image)[0])}")
        assert daemon.get(f"/blobs/{digest_of(unpacked(image)[0])}").body == kept.body, "what was exported stays"


@pytest.mark.demand("docker-daemon-down")
def test_an_export_that_breaks_off_is_a_502_and_leaves_nothing(
    tmp_path: Path, fake: SimulatedEngine, image: StoredImage
) -> None:
    fake.cut_after = 60_000
    with simulated(fake, tmp_path / "sock") as host, serving(tmp_path, NAME, host) as daemon:
        reply = daemon.get("/manifest")
        assert (reply.status, reply.json["retryable"]) == (502, True)
        assert "the connection was lost" in reply.json["detail"]
        assert list((tmp_path / "spool").iterdir()) == []
        assert not [one for one in daemon.open_files() if one.startswith(str((tmp_path / "spool").resolve()))]
        fake.cut_after = None
        assert_served(daemon, image)
        assert len([one for one in daemon.open_files() if one.startswith(str((tmp_path / "spool").resolve()))]) == 1


@pytest.mark.parametrize(("status", "retryable"), [(500, True), (400, False)])
def test_an_engine_that_refuses_is_told_without_its_words(
    tmp_path: Path, fake: SimulatedEngine, status: int, *, retryable: bool
) -> None:
    fake.status = status
    with simulated(fake, tmp_path / "sock") as host, serving(tmp_path, NAME, host) as daemon:
        reply = daemon.get("/manifest")
        assert (reply.status, reply.json["retryable"]) == (502, retryable)
        assert f"answered {status}" in reply.json["detail"]
        assert b"stranger" not in reply.body


@pytest.mark.parametrize("inspection", [b"[]", b"{", b'{"Id": "../../x"}', b'{"Id": 1}', b"x" * (5 << 20)])
def test_an_answer_that_is_none_is_an_error(tmp_path: Path, fake: SimulatedEngine, inspection: bytes) -> None:
    fake.inspection = inspection
    with simulated(fake, tmp_path / "sock") as host, serving(tmp_path, NAME, host) as daemon:
        assert daemon.get("/manifest").status == 502


def test_another_image_than_the_one_that_an_id_names_is_refused(
    tmp_path: Path, fake: SimulatedEngine, image: StoredImage
) -> None:
    other = digest_of(b"other")
    fake.add(other, fake.exports[image.config_digest], other)
    with simulated(fake, tmp_path / "sock") as host, serving(tmp_path, other, host) as daemon:
        reply = daemon.get("/manifest")
        assert reply.status == 502
        assert "exports another image" in reply.json["detail"]


def test_an_engine_over_containerd_knows_images_by_their_manifests(tmp_path: Path, image: StoredImage) -> None:
    entries = dict(entry for entry in new_layout(image) if isinstance(entry, tuple))
    image_id = image.digest
    entries["index.json"] = b'{"schemaVersion": 2, "manifests": [{"digest": "%s", "size": 1}]}' % image_id.encode()
    fake = SimulatedEngine()
    fake.add(image_id, write_tar(tmp_path / "x.tar", list(entries.items())).read_bytes(), image_id)
    with simulated(fake, tmp_path / "sock") as host, serving(tmp_path, image_id, host) as daemon:
        assert_served(daemon, image)


@pytest.mark.parametrize("how", ["verified", "unverified", "option", "unknown-authority", "plain"])
def test_tcp_is_under_tls_as_docker_has_it(tmp_path: Path, fake: SimulatedEngine, image: StoredImage, how: str) -> None:
    (tmp_path / "ca").mkdir()
    (tmp_path / "certs").mkdir()
    authority = Authority(tmp_path / "ca")
    server, client = authority.issue("127.0.0.1"), authority.issue("client")
    for source, name in ((authority.certificate, "ca"), (client.certificate, "cert"), (client.key, "key")):
        (tmp_path / f"certs/{name}.pem").write_bytes(source.read_bytes())
    tls = None if how == "plain" else server.server_context(clients=authority.certificate)
    if how in {"unverified", "unknown-authority"}:
        (tmp_path / "certs/ca.pem").unlink()
    environ = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path / "certs")} if how != "option" else {}
    options = {"option": ["--daemon-cert-dir", str(tmp_path / "certs")], "unverified": ["--tls-verify=false"]}
    with simulated_on_tcp(fake, tls) as port, serving(
        tmp_path, NAME, f"tcp://127.0.0.1:{port}", *options.get(how, []), **environ
    ) as daemon:  # fmt: skip
        if how in {"unknown-authority", "plain"}:
            reply = daemon.get("/manifest")
            assert (reply.status, reply.json["retryable"]) == (502, False)
            assert ("does not speak TLS" if how == "plain" else "certificate") in reply.json["detail"]
        else:
            assert_served(daemon, image)


def test_http_is_not_under_tls(tmp_path: Path, fake: SimulatedEngine, image: StoredImage) -> None:
    with simulated_on_tcp(fake, None) as port, serving(tmp_path, NAME, f"http://127.0.0.1:{port}") as daemon:
        assert_served(daemon, image)
