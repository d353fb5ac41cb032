"""Signatures that are made to be expensive, and clients that leave meanwhile: every answer comes, and nothing stays."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Reply, RunningDaemon, UnixConnection, activated, stand_alone, write_policy
from tests.support.gpg import Signer
from tests.support.layouts import Layout, single_image
from tests.support.openpgp import compressed, literal, make_openpgp_key, packet
from tests.support.sigstore import (
    EMAIL,
    Certificate,
    attachment,
    attachment_tag,
    make_leaf,
    make_slow_key,
)
from tests.support.upstream import Upstream, answering, by_path, content, image
from tests.support.waiting import await_true

SECONDS = 5  # that verification has, far more than what is refused in time takes, and less than the attack would
IMAGES = ("a", "b", "c", "d", "e")
MEGABYTES = bytes(1 << 20)


@pytest.fixture(scope="module")
def many_keys() -> list[bytes]:
    """As many keys as gpg needs a minute to import."""
    return [make_openpgp_key(number) for number in range(10_000)]


def deflated(content: bytes, times: int = 1) -> bytes:
    """The content, so many times, as a compressed packet of known length."""
    return packet(8, compressed(content * times)[1:])


def lookaside(place: Path, upstream: Upstream) -> list[str]:
    """The options by which the daemon finds signatures at the upstream."""
    (place / "registries.d").mkdir(exist_ok=True)
    (place / "registries.d/x.yaml").write_text(
        f"default-docker:\n  lookaside: {upstream.url}/lookaside\n  use-sigstore-attachments: true\n"
    )
    return ["--tls-verify=false", "--registries.d", str(place / "registries.d")]


def ask(place: Path, upstream: Upstream, requirement: dict[str, Any]) -> Reply:
    policy = write_policy(place, {"default": [requirement]})
    options = [*lookaside(place, upstream), "--policy", str(policy), f"--verification-timeout={SECONDS}"]
    with stand_alone(place / "run", [*options, f"docker://{upstream.authority}/os:1"]) as daemon:
        reply = daemon.get("/manifest")
        await_true(lambda: not gpgs(daemon), "the end of gpg")
        return reply


def gpgs(daemon: RunningDaemon) -> list[int]:
    """The processes that the daemon has."""
    tasks = Path(f"/proc/{daemon.process.pid}/task").glob("*/children")
    found: list[int] = []
    for task in tasks:
        with contextlib.suppress(OSError):
            found += map(int, task.read_text().split())
    return found


TOO_LARGE = "unpacks to more than 4194304 bytes"
TOO_MANY = "is not exactly one signature of one message"
BOMBS = {
    "zeros": (deflated(MEGABYTES, 45), TOO_LARGE),
    "packets-that-nobody-knows": (deflated(packet(60, MEGABYTES), 45), TOO_LARGE),
    "a-literal": (deflated(literal(MEGABYTES * 45)), TOO_LARGE),
    "nested": (deflated(deflated(deflated(MEGABYTES, 45))), TOO_LARGE),
    "nested-in-many": (deflated(deflated(deflated(MEGABYTES, 40), 40), 40), TOO_MANY),
}


@pytest.mark.demand("LIM-signatures")
@pytest.mark.parametrize(("bomb", "complaint"), BOMBS.values(), ids=BOMBS)
def test_signatures_that_unpack_to_gigabytes_are_refused_in_time(tmp_path: Path, bomb: bytes, complaint: str) -> None:
    assert len(bomb) < 100_000
    stored = single_image(tmp_path / "layout")
    signatures = {f"/signature-{number}": content(bomb) for number in range(1, 41)}
    with Signer() as signer, Upstream(by_path(signatures | image(stored, tag="1"))) as upstream:
        (tmp_path / "signer.gpg").write_bytes(signer.public_key)
        requirement = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": f"{tmp_path}/signer.gpg"}
        reply = ask(tmp_path, upstream, requirement)
    assert (reply.status, reply.json["retryable"]) == (403, False)
    (reason,) = reply.json["reasons"]
    assert reason.count(complaint) == 8
    assert reason.endswith("and 32 more do not count")


@pytest.mark.demand("LIM-signatures")
@pytest.mark.demand("SIG-multi")
def test_what_follows_a_good_signature_spoils_it(tmp_path: Path) -> None:
    stored = single_image(tmp_path / "layout")
    with Signer() as signer, Upstream(answering(404)) as upstream:
        (tmp_path / "signer.gpg").write_bytes(signer.public_key)
        good = signer.sign_image(f"{upstream.authority}/os:1", stored.digest)
        other = signer.sign_image(f"{upstream.authority}/os:2", stored.digest)
        upstream.handler = by_path({"/signature-1": content(good + other)} | image(stored, tag="1"))
        requirement = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": f"{tmp_path}/signer.gpg"}
        reply = ask(tmp_path, upstream, requirement)
    assert reply.status == 403
    assert "is not exactly one signature of one message" in reply.json["detail"]


@pytest.mark.demand("LIM-signatures")
def test_a_chain_of_slow_certificates_that_all_issued_each_other_is_refused_in_time(tmp_path: Path) -> None:
    slow, end = make_slow_key(), datetime.now(UTC) + timedelta(days=1)
    clique = [Certificate("ca", key=slow, valid_until=end) for _ in range(16)]
    leaf, root = make_leaf(clique[0], valid_until=end), Certificate("ca", valid_until=end)
    (tmp_path / "root.pem").write_bytes(root.pem)
    pki = {"caRootsPath": f"{tmp_path}/root.pem", "subjectEmail": EMAIL}
    chain = b"".join(link.pem for link in clique)
    stored = single_image(tmp_path / "layout")
    with Upstream(answering(404)) as upstream:
        name = f"{upstream.authority}/os:1"
        signature = attachment(
            Layout(tmp_path / "signature"), leaf.key, name, stored.digest, certificate=leaf.pem, chain=chain
        )
        routes = image(stored, tag="1") | image(signature, tag=attachment_tag(stored.digest))
        upstream.handler = by_path(routes)
        reply = ask(tmp_path, upstream, {"type": "sigstoreSigned", "pki": pki})
    assert (reply.status, reply.json["retryable"]) == (403, False)
    assert "leads to no trusted authority" in reply.json["detail"]


# --- what is broken off -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def signed_images(
    place: Path, environ: dict[str, str] | None = None, *, have_keys: bool = True
) -> Iterator[tuple[RunningDaemon, Signer]]:
    """Five images, each of which has a good signature by the key in a file of its own."""
    stored = single_image(place / "layout")
    with Signer() as signer, Upstream(answering(404)) as upstream:
        routes: dict[str, Any] = {}
        for name in IMAGES:
            if have_keys:
                write_keys(place, name, [signer.public_key])
            signature = signer.sign_image(f"{upstream.authority}/{name}:1", stored.digest)
            routes[f"/{name}@{stored.digest.replace(':', '=')}/signature-1"] = content(signature)
        upstream.handler = by_path(routes | image(stored, tag="1"))
        scopes = {f"{upstream.authority}/{name}": [signed_by(place, name)] for name in IMAGES}
        policy = write_policy(place, {"default": [{"type": "reject"}], "transports": {"docker": scopes}})
        tables = (f'[images.{name}]\nreference = "docker://{upstream.authority}/{name}:1"\n' for name in IMAGES)
        (place / "config").mkdir()
        (place / "config/test.toml").write_text(
            f'{"".join(tables)}[trust]\npolicy = "{policy}"\nverification-timeout = 600\n'
        )
        arguments = [*lookaside(place, upstream), "--instance", "test", "--config-dir", str(place / "config")]
        with activated(place / "run", arguments, environ=environ) as daemon:
            yield daemon, signer


def signed_by(place: Path, name: str) -> dict[str, str]:
    return {"type": "signedBy", "keyType": "GPGKeys", "keyPath": f"{place}/{name}.gpg"}


def write_keys(place: Path, name: str, keys: list[bytes]) -> None:
    new = place / f"{name}.new"
    new.write_bytes(b"".join(keys))
    new.chmod(0o600)
    new.rename(place / f"{name}.gpg")


def ask_for(daemon: RunningDaemon, name: str) -> UnixConnection:
    connection = UnixConnection(daemon.socket)
    connection.request("GET", f"/images/{name}/manifest")
    return connection


@pytest.mark.demand("client-disconnect")
def test_no_gpg_works_for_clients_that_have_left(tmp_path: Path, many_keys: list[bytes]) -> None:
    with signed_images(tmp_path, have_keys=False) as (daemon, _), contextlib.ExitStack() as others:
        await_true(lambda: "images will be rejected" in daemon.log_text(), "the end of the preparations")
        for number, name in enumerate(IMAGES):
            write_keys(tmp_path, name, many_keys[number:])
        with contextlib.closing(ask_for(daemon, IMAGES[0])):
            for name in IMAGES:
                others.enter_context(contextlib.closing(ask_for(daemon, name)))
            await_true(lambda: len(gpgs(daemon)) == len(IMAGES), "a gpg for each image")
            others.close()
            await_true(lambda: len(gpgs(daemon)) == 1, "the end of four of them")
        await_true(lambda: not gpgs(daemon), "the end of the last")


@pytest.mark.demand("LIM-signatures")
def test_what_takes_too_long_is_refused_and_leaves_no_process(tmp_path: Path, many_keys: list[bytes]) -> None:
    stored = single_image(tmp_path / "layout")
    with Signer() as signer, Upstream(answering(404)) as upstream:
        write_keys(tmp_path, "many", many_keys)
        signature = signer.sign_image(f"{upstream.authority}/os:1", stored.digest)
        upstream.handler = by_path({"/signature-1": content(signature)} | image(stored, tag="1"))
        reply = ask(tmp_path, upstream, signed_by(tmp_path, "many"))
    assert (reply.status, reply.json["code"], reply.json["retryable"]) == (403, "POLICY_REJECTED", True)
    assert reply.json["reasons"] == ["verification did not end within 5 s, which is what verification-timeout allows"]


def begin_import(place: Path, daemon: RunningDaemon, keys: list[bytes]) -> list[int]:
    """Have the daemon import the keys when it prepares itself anew: the processes by which it does."""
    await_true(lambda: "images will be rejected" in daemon.log_text(), "the end of the preparations")
    for name in IMAGES:
        write_keys(place, name, keys)
    daemon.signal(signal.SIGHUP)
    return await_true(lambda: gpgs(daemon), "the import of keys")


@pytest.mark.demand("sigterm-drain")
def test_a_daemon_that_stops_takes_its_gpg_along(tmp_path: Path, many_keys: list[bytes]) -> None:
    with signed_images(tmp_path, have_keys=False) as (daemon, _):
        begin_import(tmp_path, daemon, many_keys)
        assert daemon.stop() == 0  # nothing_left_behind sees to the rest


@pytest.mark.demand("sigkill")
def test_the_next_start_removes_what_a_killed_daemon_left(tmp_path: Path, many_keys: list[bytes]) -> None:
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    (tmp_path / "first").mkdir()
    with signed_images(tmp_path / "first", {"RUNTIME_DIRECTORY": str(runtime)}, have_keys=False) as (daemon, _):
        children = begin_import(tmp_path / "first", daemon, many_keys)
        daemon.signal(signal.SIGKILL)
        daemon.process.wait()
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # whom systemd would kill with the daemon
    (left,) = runtime.glob("*gpg*")
    (tmp_path / "second").mkdir()
    with signed_images(tmp_path / "second", {"RUNTIME_DIRECTORY": str(runtime)}) as (daemon, _):
        assert not left.exists()
        assert daemon.get("/images/a/manifest").status == 200
        assert f"removed {left}" in daemon.log_text()


@pytest.mark.parametrize("variable", ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "TMPDIR"])
def test_gpgs_homes_lie_where_the_environment_says_and_are_gone_afterwards(tmp_path: Path, variable: str) -> None:
    place = tmp_path / "place"
    place.mkdir(mode=0o700)
    with signed_images(tmp_path, {"XDG_RUNTIME_DIR": "", variable: str(place)}) as (daemon, _):
        seen = place.stat().st_mtime_ns
        assert daemon.get("/images/a/manifest").status == 200
        assert place.stat().st_mtime_ns > seen
        assert list(place.glob("*gpg*")) == []


@pytest.mark.parametrize("trouble", ["gone", "link", "open"])
def test_a_runtime_directory_that_is_not_what_it_was_is_not_trusted_and_no_image_is_refused_for_it(
    tmp_path: Path, trouble: str
) -> None:
    place, elsewhere = tmp_path / "place", tmp_path / "elsewhere"
    place.mkdir(mode=0o700)
    elsewhere.mkdir()
    with signed_images(tmp_path, {"XDG_RUNTIME_DIR": str(place)}) as (daemon, _):
        assert daemon.get("/images/a/manifest").status == 200
        await_true(lambda: not gpgs(daemon), "the end of the preparations")
        if trouble == "open":
            place.chmod(0o777)
        else:
            place.rmdir()
        if trouble == "link":
            elsewhere.chmod(0o777)
            place.symlink_to(elsewhere)
        daemon.wait_for_notification("READY=1")
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_notification("READY=1")
        assert daemon.get("/images/a/manifest").status == 200
        assert f"{place} cannot hold gpg's home directory: " in daemon.log_text()
        assert list(elsewhere.iterdir()) == []


def test_an_answer_says_who_signed_though_another_signature_is_a_bomb(tmp_path: Path) -> None:
    stored = single_image(tmp_path / "layout")
    with Signer() as signer, Upstream(answering(404)) as upstream:
        (tmp_path / "signer.gpg").write_bytes(signer.public_key)
        good = signer.sign_image(f"{upstream.authority}/os:1", stored.digest)
        routes = {"/signature-1": content(BOMBS["nested"][0]), "/signature-2": content(good)}
        upstream.handler = by_path(routes | image(stored, tag="1"))
        requirement = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": f"{tmp_path}/signer.gpg"}
        reply = ask(tmp_path, upstream, requirement)
    assert reply.status == 200, json.dumps(reply.json)
    assert reply.headers["signed-by"] == f"openpgp:{signer.fingerprint}"
