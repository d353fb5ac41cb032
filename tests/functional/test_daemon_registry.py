"""Real registries through the real daemon: every kind of image, over HTTP and HTTPS, with every kind of login."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.authority import Authority
from tests.support.daemon import RunningDaemon, activated, stand_alone, write_instance, write_policy
from tests.support.host import write_auth_file
from tests.support.layouts import OCI_CONFIG, OCI_MANIFEST, Layout, multi_arch
from tests.support.registries import (
    PASSWORD,
    USER,
    DockerRegistry,
    TokenServer,
    docker_registry,
    needs_docker_registry,
)

pytestmark = needs_docker_registry

KINDS = ("oci", "docker", "list", "zstd", "artifact", "pinned")


def fill(place: Path, registry: DockerRegistry) -> dict[str, str]:
    """One image of each kind; the references by kind."""
    layout = Layout(place / "images")
    image = layout.image(name="oci")
    layout.image(name="zstd", compression="zstd")
    layout.artifact(name="artifact")
    multi_arch(place / "list", "linux/amd64", "linux/arm64")
    references = {kind: registry.push(f"{layout.path}:{kind}", f"{kind}:1") for kind in ("oci", "zstd", "artifact")}
    references["docker"] = registry.push(f"{layout.path}:oci", "docker:1", "--format=v2s2")
    references["list"] = registry.push(place / "list", "list:1")
    references["pinned"] = f"{registry.authority}/oci:ignored@{image.digest}"
    return references


@pytest.fixture(scope="module", params=["http", "https"])
def daemon(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """An instance over a registry with a login; plain HTTP must be allowed, HTTPS needs the test's authority."""
    place = tmp_path_factory.mktemp(request.param)
    authority = Authority(place)
    certificate = authority.issue("127.0.0.1") if request.param == "https" else None
    with docker_registry(place / "registry", htpasswd=True, certificate=certificate) as registry:
        references = fill(place, registry)
        (place / "certs").mkdir()
        (place / "certs/test.crt").write_bytes(authority.certificate.read_bytes())
        images = "".join(
            f'[images.{kind}]\nreference = "docker://{references[kind]}"\nplatform = "linux/amd64"\n' for kind in KINDS
        )
        transport = f'cert-dir = "{place}/certs"' if request.param == "https" else "tls-verify = false"
        write_auth_file(place / "auth.json", {registry.authority: (USER, PASSWORD)})
        settings = (
            f'[registry]\nauthfile = "{place}/auth.json"\n{transport}\n[trust]\npolicy = "{write_policy(place)}"\n'
        )
        write_instance(place / "config", "test", images + settings)
        with activated(place / "run", ["--instance", "test", "--config-dir", str(place / "config")]) as running:
            yield running


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_is_served_as_oci_with_all_its_blobs(daemon: RunningDaemon, kind: str) -> None:
    reply = daemon.get(f"/images/{kind}/manifest")
    assert (reply.status, reply.headers["content-type"]) == (200, OCI_MANIFEST), reply.body
    manifest = reply.json
    assert manifest["mediaType"] == OCI_MANIFEST
    assert manifest["layers"]
    for descriptor in (manifest["config"], *manifest["layers"]):
        blob = daemon.curl("--fail", f"http://x/images/{kind}/blobs/{descriptor['digest']}")
        assert blob.returncode == 0, blob.stderr
        assert f"sha256:{hashlib.sha256(blob.stdout).hexdigest()}" == descriptor["digest"]
    assert ("index-digest" in reply.headers) == (kind == "list")


def test_a_docker_manifest_keeps_its_configuration_and_says_its_own_digest(daemon: RunningDaemon) -> None:
    reply = daemon.get("/images/docker/manifest")
    assert reply.headers["manifest-digest"] != f"sha256:{hashlib.sha256(reply.body).hexdigest()}"
    assert reply.json["config"]["mediaType"] == OCI_CONFIG
    config = daemon.get("/images/docker/config")
    assert f"sha256:{hashlib.sha256(config.body).hexdigest()}" == reply.json["config"]["digest"]


def test_a_list_is_resolved_for_another_platform(daemon: RunningDaemon) -> None:
    assert daemon.get("/images/list/config?platform=linux/arm64").json["architecture"] == "arm64"
    assert daemon.get("/images/list/manifest?platform=linux/riscv64").status == 404


@pytest.mark.demand("DIG-manifest-by-digest")
def test_the_digest_decides_and_not_the_tag_beside_it(daemon: RunningDaemon) -> None:
    pinned, tagged = daemon.get("/images/pinned/manifest"), daemon.get("/images/oci/manifest")
    assert pinned.headers["manifest-digest"] == tagged.headers["manifest-digest"]
    assert ":ignored@sha256:" in pinned.headers["image-reference"]


def test_a_registry_with_tokens_and_one_login_each(tmp_path: Path) -> None:
    tokens = TokenServer(tmp_path / "tokens")
    Layout(tmp_path / "layout").image(name="x")
    with tokens.upstream, docker_registry(tmp_path / "registry", token_server=tokens) as registry:
        reference = registry.push(f"{tmp_path}/layout:x", "private/os:1")
        options = ["--tls-verify=false", "--policy", str(write_policy(tmp_path)), f"docker://{reference}"]
        with stand_alone(tmp_path / "run", ["--creds", f"{USER}:{PASSWORD}", *options]) as daemon:
            manifest = daemon.get("/manifest").json
            assert daemon.get(f"/blobs/{manifest['layers'][0]['digest']}").status == 200
        with stand_alone(tmp_path / "run2", ["--creds", f"{USER}:guess", *options]) as daemon:
            reply = daemon.get("/manifest")
            assert (reply.status, reply.json["code"], reply.json["phase"]) == (502, "UNAUTHORIZED", "token")
            assert "--creds" in reply.json["detail"]
            assert "guess" not in daemon.log_text() + reply.body.decode()
        with stand_alone(tmp_path / "run3", ["--no-creds", *options]) as daemon:
            assert daemon.get("/manifest").json["code"] == "UNAUTHORIZED"


def test_http_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    Layout(tmp_path / "layout").image(name="x")
    with docker_registry(tmp_path / "registry") as registry:
        reference = registry.push(f"{tmp_path}/layout:x", "os:1")
        arguments = ["--policy", str(write_policy(tmp_path)), f"docker://{reference}"]
        with stand_alone(tmp_path / "run", arguments) as daemon:
            reply = daemon.get("/manifest")
    problem = reply.json
    assert (reply.status, problem["phase"], problem["retryable"]) == (502, "connect", False)
    assert "--tls-verify=false" in problem["detail"]
