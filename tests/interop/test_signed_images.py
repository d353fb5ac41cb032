"""Signed images in a real registry: the running daemon's verdicts, and skopeo's on the same policy and image."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Reply, activated, stand_alone, write_instance, write_policy
from tests.support.gpg import Signer
from tests.support.layouts import Layout, StoredImage, single_image
from tests.support.registries import DockerRegistry, docker_registry, needs_docker_registry
from tests.support.sigstore import attachment, attachment_tag, make_key, public_pem
from tests.support.upstream import Handler, Upstream, answering, by_path, content, image

pytestmark = needs_docker_registry


IMAGES = ("gpg", "stranger", "unsigned", "sigstore", "moved")


@dataclass(frozen=True)
class Bench:
    """What is signed how: a registry, its signatures, keys on disk, and every verdict that daemon and skopeo gave."""

    place: Path
    registry: DockerRegistry
    stored: StoredImage
    fingerprint: str
    replies: dict[tuple[str, str], Reply]
    verifications: dict[tuple[str, str], Reply]
    blobs: dict[tuple[str, str], Reply]
    skopeo: dict[tuple[str, str], bool | None]


def policies(place: Path) -> dict[str, list[dict[str, Any]]]:
    gpg = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": f"{place}/signer.gpg"}
    sigstore = {
        "type": "sigstoreSigned",
        "keyPath": f"{place}/sigstore.pub",
        "signedIdentity": {"type": "matchRepository"},
    }
    return {"gpg": [gpg], "sigstore": [sigstore], "both": [gpg, sigstore], "reject": [{"type": "reject"}]}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    place = tmp_path_factory.mktemp("signed")
    key = make_key()
    stored = single_image(place / "layout", name="x")
    with (
        docker_registry(place / "registry") as registry,
        Signer() as signer,
        Signer("stranger@example.com") as stranger,
    ):
        for name, public in {"signer.gpg": signer.public_key, "sigstore.pub": public_pem(key)}.items():
            (place / name).write_bytes(public)
        write_registries_d(place, registry.authority)
        push(place, registry, "gpg", signer)
        push(place, registry, "stranger", stranger)
        push(place, registry, "unsigned", None)
        push(place, registry, "sigstore", None)
        attach(place, registry, "sigstore", key, stored.digest)
        push(place, registry, "moved", None)
        attach(place, registry, "moved", key, stored.digest, claimed="elsewhere")
        with ThreadPoolExecutor(2) as pool:
            skopeo = dict(pool.map(lambda pair: (pair, skopeo_accepts(place, registry, *pair)), pairs(place)))
        replies: dict[tuple[str, str], Reply] = {}
        verifications, blobs = dict(replies), dict(replies)
        for policy, requirements in policies(place).items():
            ask_daemon(place, registry, stored, policy, requirements, (replies, verifications, blobs))
        yield Bench(place, registry, stored, signer.fingerprint, replies, verifications, blobs, skopeo)


def pairs(place: Path) -> list[tuple[str, str]]:
    return [(policy, name) for policy in policies(place) for name in IMAGES]


def write_registries_d(place: Path, authority: str) -> None:
    (place / "registries.d").mkdir()
    (place / "registries.d/test.yaml").write_text(
        f"docker:\n  {authority}:\n    lookaside: file://{place}/lookaside\n    use-sigstore-attachments: true\n"
    )


def push(place: Path, registry: DockerRegistry, name: str, signer: Signer | None) -> None:
    options = ["--sign-by", signer.fingerprint] if signer else []
    environ = {**os.environ, **({"GNUPGHOME": str(signer.home)} if signer else {})}
    command = ["skopeo", "--insecure-policy", "--registries.d", str(place / "registries.d"), "copy", "--quiet"]
    target = f"docker://{registry.authority}/{name}:1"
    command += ["--dest-tls-verify=false", *options, f"oci:{place}/layout:x", target]
    subprocess.run(command, env=environ, check=True, capture_output=True)


def attach(place: Path, registry: DockerRegistry, name: str, key: Any, digest: str, *, claimed: str = "") -> None:
    """What cosign pushes: an image of signatures, tagged after the digest."""
    layout = Layout(place / f"attachment-{name}")
    attachment(layout, key, f"{registry.authority}/{claimed or name}", digest)
    registry.push(f"{layout.path}:x", f"{name}:{attachment_tag(digest)}")


def skopeo_accepts(place: Path, registry: DockerRegistry, policy: str, name: str) -> bool | None:
    """Its verdict; None if it cannot have one, because Debian 12 builds it without sigstore."""
    path = place / f"skopeo-{policy}.json"
    path.write_text(json.dumps({"default": policies(place)[policy]}))
    target = place / f"copied-{policy}-{name}"
    command = ["skopeo", "--policy", str(path), "--registries.d", str(place / "registries.d"), "copy", "--quiet"]
    command += ["--src-tls-verify=false", f"docker://{registry.authority}/{name}:1", f"dir:{target}"]
    done = subprocess.run(command, check=False, capture_output=True)
    return None if b"sigstore disabled" in done.stderr else done.returncode == 0


def ask_daemon(
    place: Path,
    registry: DockerRegistry,
    stored: StoredImage,
    policy: str,
    requirements: list[dict[str, Any]],
    answers: tuple[dict[tuple[str, str], Reply], ...],
) -> None:
    directory = place / f"daemon-{policy}"
    directory.mkdir()
    images = "".join(f'[images.{name}]\nreference = "docker://{registry.authority}/{name}:1"\n' for name in IMAGES)
    policy_file = write_policy(directory, {"default": requirements})
    trust = f'[trust]\npolicy = "{policy_file}"\nregistries-d = "{place}/registries.d"\n'
    write_instance(directory / "config", "test", f"{images}[registry]\ntls-verify = false\n{trust}")
    targets = ("manifest", "verification", f"blobs/{stored.layer_digests[0]}")
    with activated(directory / "run", ["--instance", "test", "--config-dir", str(directory / "config")]) as daemon:
        for name in IMAGES:
            for answer, target in zip(answers, targets, strict=True):
                answer[policy, name] = daemon.get(f"/images/{name}/{target}")


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("policy", ["gpg", "sigstore", "both", "reject"])
def test_daemon_and_skopeo_come_to_the_same_verdict(bench: Bench, policy: str, name: str) -> None:
    reply = bench.replies[policy, name]
    assert reply.status in (200, 403), reply.body
    assert bench.skopeo[policy, name] in (None, reply.status == 200)


def test_what_is_signed_by_the_right_key_is_served(bench: Bench) -> None:
    accepted = {pair for pair, reply in bench.replies.items() if reply.status == 200}
    assert accepted == {("gpg", "gpg"), ("sigstore", "sigstore")}


@pytest.mark.demand("SIG-before-use")
def test_rejected_means_that_nothing_leaves(bench: Bench) -> None:
    for pair, reply in bench.replies.items():
        if reply.status == 403:
            assert bench.blobs[pair].status == bench.verifications[pair].status == 403
            assert reply.json["code"] == "POLICY_REJECTED"
            assert reply.json["reasons"]


def test_the_client_sees_who_signed(bench: Bench) -> None:
    reply, receipt = bench.replies["gpg", "gpg"], bench.verifications["gpg", "gpg"].json
    assert reply.headers["signed-by"] == f"openpgp:{bench.fingerprint}"
    assert receipt["signed_by"] == [f"openpgp:{bench.fingerprint}"]
    assert receipt["manifest_digest"] == bench.stored.digest
    (verdict,) = receipt["verdicts"]
    assert verdict["accepted"] is True
    assert verdict["signature_source"].startswith(f"file://{bench.place}/lookaside/")
    assert bench.replies["sigstore", "sigstore"].headers["signed-by"].startswith("sigstore-key:")


def test_a_reason_says_what_a_person_needs_to_know(bench: Bench) -> None:
    (reason,) = bench.replies["sigstore", "moved"].json["reasons"]
    assert "elsewhere" in reason
    (unsigned,) = bench.replies["gpg", "unsigned"].json["reasons"]
    assert "signature" in unsigned


@pytest.fixture
def signed_upstream_policy(tmp_path: Path) -> Iterator[tuple[Path, Signer]]:
    with Signer() as signer:
        (tmp_path / "signer.gpg").write_bytes(signer.public_key)
        requirement = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": f"{tmp_path}/signer.gpg"}
        yield write_policy(tmp_path, {"default": [requirement]}), signer


def ask(tmp_path: Path, policy: Path, upstream: Upstream) -> Reply:
    (tmp_path / "registries.d").mkdir()
    (tmp_path / "registries.d/x.yaml").write_text(f"default-docker:\n  lookaside: {upstream.url}/lookaside\n")
    options = ["--tls-verify=false", "--policy", str(policy), "--registries.d", str(tmp_path / "registries.d")]
    with stand_alone(tmp_path / "run", [*options, f"docker://{upstream.authority}/os:1"]) as daemon:
        return daemon.get("/manifest")


@pytest.mark.demand("SIG-lookaside-stop")
@pytest.mark.parametrize(
    ("first", "status"),
    [
        pytest.param(None, 200, id="signed"),
        pytest.param(answering(404), 403, id="missing"),
        pytest.param(answering(403), 502, id="forbidden"),
        pytest.param(answering(200, b"no signature"), 502, id="garbage"),
        pytest.param(answering(200, b"x" * (5 << 20)), 502, id="too-large"),
    ],
)
def test_a_lookaside_ends_with_404_and_everything_else_fails_closed(
    tmp_path: Path, signed_upstream_policy: tuple[Path, Signer], first: Handler | None, status: int
) -> None:
    policy, signer = signed_upstream_policy
    stored = single_image(tmp_path / "layout")
    with Upstream(answering(404)) as upstream:
        signature = signer.sign_image(f"{upstream.authority}/os:1", stored.digest)
        routes = {
            "/signature-1": first or content(signature),
            "/signature-2": answering(404),
            "/signature-3": content(signature),
        }
        upstream.handler = by_path(routes | image(stored, tag="1"))
        reply = ask(tmp_path, policy, upstream)
        assert reply.status == status, reply.body
        assert not any("/signature-3" in path for path in upstream.paths())
        assert not any("/blobs/" in path for path in upstream.paths())


@pytest.mark.demand("LIM-signatures")
def test_a_lookaside_with_endless_signatures_is_refused(
    tmp_path: Path, signed_upstream_policy: tuple[Path, Signer]
) -> None:
    policy, signer = signed_upstream_policy
    stored = single_image(tmp_path / "layout")
    blob = signer.sign(b"{}")

    def handler(request: Any, connection: Any) -> None:
        (content(blob) if "/signature-" in request.path else by_path(image(stored, tag="1")))(request, connection)

    with Upstream(handler) as upstream:
        reply = ask(tmp_path, policy, upstream)
        assert reply.status == 502
        assert sum("/signature-" in path for path in upstream.paths()) == 129
