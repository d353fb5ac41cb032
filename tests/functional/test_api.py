"""The HTTP API over the real socket of the real daemon, on a layout."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests_unixsocket

from tests.support.daemon import RunningDaemon, activated, write_instance, write_policy
from tests.support.layouts import OCI_CONFIG, OCI_MANIFEST, Layout, StoredImage, layer_tar, multi_arch
from tests.support.privilege import needs_root, status_for

ARM = "linux/arm64"


@dataclass(frozen=True)
class Served:
    daemon: RunningDaemon
    os: StoredImage
    tools: dict[str, StoredImage]
    docker: StoredImage
    artifact: StoredImage


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An instance with a default image, a multi-arch one, a Docker one and an artifact."""
    place = tmp_path_factory.mktemp("api")
    os_image = Layout(place / "os").image(
        [layer_tar({"etc/os-release": b"ID=test\n"}), layer_tar({"big": bytes(3 << 20)})], name="1", compression=""
    )
    tools = multi_arch(place / "tools", "linux/amd64", ARM)
    docker = Layout(place / "docker").image(name="1", docker=True)
    artifact = Layout(place / "artifact").artifact(name="1")
    write_instance(
        place / "config",
        "test",
        f"""
        default = "os"
        [images.os]
        reference = "oci:{place}/os:1"
        platform = "linux/amd64"
        [images.tools]
        reference = "oci:{place}/tools:latest"
        platform = "linux/amd64"
        [images.docker]
        reference = "oci:{place}/docker:1"
        [images.artifact]
        reference = "oci:{place}/artifact:1"
        [images.private]
        reference = "oci:{place}/os:1"
        access.users = ["daemon"]
        [trust]
        policy = "{write_policy(place)}"
        """,
    )
    with activated(place / "run", ["--instance", "test", "--config-dir", str(place / "config")]) as daemon:
        yield Served(daemon, os_image, tools, docker, artifact)


def test_the_manifest_comes_with_its_digest_and_type(served: Served) -> None:
    reply = served.daemon.get("/manifest")
    assert (reply.status, reply.body) == (200, served.os.manifest)
    assert reply.headers["content-type"] == OCI_MANIFEST
    assert reply.headers["manifest-digest"] == served.os.digest
    assert reply.headers["etag"] == f'"{served.os.digest}"'
    assert reply.headers["image-reference"].endswith("/os:1")
    assert "index-digest" not in reply.headers


def test_the_configuration_is_byte_for_byte_the_author_s(served: Served) -> None:
    reply = served.daemon.get("/config")
    assert (reply.status, reply.body) == (200, served.os.config)
    assert reply.headers["content-type"] == OCI_CONFIG


def test_blobs_are_fetched_by_digest_and_by_a_beginning_of_it(served: Served) -> None:
    for digest, content in served.os.blobs.items():
        for name in (digest, digest[: len("sha256:") + 12]):
            reply = served.daemon.get(f"/blobs/{name}")
            assert (reply.status, reply.body) == (200, content)
            assert reply.headers["content-length"] == str(len(content))
            assert reply.headers["content-type"] == "application/octet-stream"
            assert reply.headers["etag"] == f'"{digest}"'


def test_repr_digest_is_that_of_rfc_9530(served: Served) -> None:
    digest, content = next(iter(served.os.blobs.items()))
    reply = served.daemon.get(f"/blobs/{digest}")
    assert reply.headers["repr-digest"] == f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"
    manifest = served.daemon.get("/images/docker/manifest")
    assert (
        manifest.headers["repr-digest"]
        == f"sha-256=:{base64.b64encode(hashlib.sha256(manifest.body).digest()).decode()}:"
    )


def test_a_docker_manifest_is_served_as_oci_with_every_blob_fetchable(served: Served) -> None:
    reply = served.daemon.get("/images/docker/manifest")
    manifest = reply.json
    assert reply.headers["content-type"] == manifest["mediaType"] == OCI_MANIFEST
    assert (
        reply.headers["manifest-digest"] == served.docker.digest != f"sha256:{hashlib.sha256(reply.body).hexdigest()}"
    )
    assert manifest["config"]["mediaType"] == OCI_CONFIG
    for descriptor in (manifest["config"], *manifest["layers"]):
        blob = served.daemon.get(f"/images/docker/blobs/{descriptor['digest']}")
        assert f"sha256:{hashlib.sha256(blob.body).hexdigest()}" == descriptor["digest"]


def test_an_index_is_resolved_for_the_configured_platform_or_the_one_asked_for(served: Served) -> None:
    reply = served.daemon.get("/images/tools/manifest")
    assert reply.headers["manifest-digest"] == served.tools["linux/amd64"].digest
    assert reply.headers["index-digest"].startswith("sha256:")
    arm = served.daemon.get(f"/images/tools/manifest?platform={ARM}")
    assert arm.headers["manifest-digest"] == served.tools[ARM].digest
    assert served.daemon.get(f"/images/tools/config?platform={ARM}").json["architecture"] == "arm64"
    blob = served.tools[ARM].layer_digests[0]
    assert served.daemon.get(f"/images/tools/blobs/{blob}?platform={ARM}").status == 200


def test_an_artifact_has_manifest_and_blobs(served: Served) -> None:
    manifest = served.daemon.get("/images/artifact/manifest").json
    assert served.daemon.get(f"/images/artifact/blobs/{manifest['layers'][0]['digest']}").body == b"an artifact"
    assert served.daemon.get("/images/artifact/config").headers["content-type"] == "application/vnd.oci.empty.v1+json"


def test_the_verification_says_which_policy_decided_and_why(served: Served) -> None:
    reply = served.daemon.get("/verification")
    receipt = reply.json
    assert (reply.status, reply.headers["manifest-digest"]) == (200, served.os.digest)
    assert (receipt["scope"], receipt["manifest_digest"]) == ("default", served.os.digest)
    assert receipt["policy_file"].endswith("/policy.json")
    assert [verdict["accepted"] for verdict in receipt["verdicts"]] == [True]
    arm = served.daemon.get(f"/images/tools/verification?platform={ARM}").json
    assert arm["manifest_digest"] == served.tools[ARM].digest
    assert arm["index_digest"].startswith("sha256:")
    assert f"verified oci:{served.daemon.socket.parents[1]}/os:1 as {served.os.digest}" in served.daemon.log_text()


def test_images_lists_what_the_peer_may_have(served: Served) -> None:
    images = {image["name"]: image for image in served.daemon.get("/images").json}
    assert list(images) == ["os", "tools", "docker", "artifact"]
    assert images["os"]["default"] is True
    assert images["tools"]["platform"] == "linux/amd64"
    assert images["tools"]["reference"].startswith("oci:")


@pytest.mark.demand("PEER-uid")
def test_an_image_for_others_is_denied(served: Served) -> None:
    reply = served.daemon.get("/images/private/manifest")
    assert (reply.status, reply.json["code"]) == (403, "DENIED")


@pytest.mark.demand("HTTP-methods")
@pytest.mark.parametrize("path", ["/manifest", "/config", "/images"])
def test_head_says_what_get_would_without_the_body(served: Served, path: str) -> None:
    get, head = served.daemon.get(path), served.daemon.request("HEAD", path)
    ignored = {"date"}
    assert (head.status, head.body) == (200, b"")
    assert {k: v for k, v in head.headers.items() if k not in ignored} == {
        k: v for k, v in get.headers.items() if k not in ignored
    }


def test_head_of_a_blob_says_its_size(served: Served) -> None:
    digest, content = list(served.os.blobs.items())[-1]
    head = served.daemon.request("HEAD", f"/blobs/{digest}")
    assert (head.status, head.headers["content-length"], head.body) == (200, str(len(content)), b"")


@pytest.mark.parametrize("path", ["/manifest", "/config", "/blobs/{layer}"])
def test_if_none_match_saves_the_transfer(served: Served, path: str) -> None:
    target = path.format(layer=served.os.layer_digests[0])
    etag = served.daemon.get(target).headers["etag"]
    for condition in (etag, f'"x", W/{etag}', "*"):
        reply = served.daemon.get(target, {"If-None-Match": condition})
        assert (reply.status, reply.body, reply.headers["etag"]) == (304, b"", etag)
    assert served.daemon.get(target, {"If-None-Match": '"sha256:0"'}).status == 200


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/", 404, "NOT_FOUND"),
        ("/manifest/", 404, "NOT_FOUND"),
        ("/images/none/manifest", 404, "NAME_UNKNOWN"),
        ("/images/..%2fos/manifest", 400, "NAME_INVALID"),
        ("/images/%00/manifest", 400, "NAME_INVALID"),
        ("/images/-x/config", 400, "NAME_INVALID"),
        ("/blobs/sha256:" + "0" * 64, 404, "BLOB_UNKNOWN"),
        ("/blobs/sha256:abc", 400, "DIGEST_INVALID"),
        ("/blobs/", 400, "DIGEST_INVALID"),
        ("/blobs/md5:" + "0" * 32, 400, "DIGEST_INVALID"),
        ("/manifest?platform=linux", 400, "QUERY_INVALID"),
        ("/manifest?platform=", 400, "QUERY_INVALID"),
        ("/manifest?platform=a/b&platform=a/b", 400, "QUERY_INVALID"),
        ("/manifest?colour=red", 400, "QUERY_INVALID"),
        ("/images/tools/manifest?platform=plan9/pdp11", 404, "MANIFEST_UNKNOWN"),
        ("/quit", 404, "NOT_FOUND"),
    ],
)
def test_a_bad_request_is_told_why(served: Served, target: str, status: int, code: str) -> None:
    reply = served.daemon.get(target)
    assert (reply.status, reply.json["code"], reply.headers["content-type"]) == (
        status,
        code,
        "application/problem+json",
    )
    assert reply.json["detail"]


@pytest.mark.demand("DIG-request-path")
@pytest.mark.parametrize(
    "digest",
    [
        "sha256:%2e%2e%2fetc",
        "..%2f..",
        "sha256:" + "a" * 64 + "/x",
        "sha256:" + "a" * 63 + "%00",
        "sha256%253A" + "a" * 64,
        "%ff%fe",
        "sha256:" + "A" * 64,
    ],
)
def test_a_digest_is_never_a_path(served: Served, digest: str) -> None:
    assert served.daemon.get(f"/blobs/{digest}").status == 400


@pytest.mark.demand("HTTP-methods")
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "BREW"])
def test_other_methods_are_answered_405(served: Served, method: str) -> None:
    reply = served.daemon.request(method, "/manifest", {"Content-Length": "0"})
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")


def test_requests_unixsocket_and_curl_are_clients(served: Served, tmp_path: Path) -> None:
    with requests_unixsocket.Session() as session:
        url = f"http+unix://{str(served.daemon.socket).replace('/', '%2F')}/manifest"
        assert session.get(url).content == served.os.manifest
    layer = served.os.layer_digests[0]
    fetched = served.daemon.curl("--fail", f"http://localhost/blobs/{layer}")
    assert fetched.returncode == 0
    listing = subprocess.run(["tar", "t"], input=fetched.stdout, capture_output=True, check=True)
    assert b"etc/os-release" in listing.stdout


def test_a_connection_is_kept_and_pipelined_requests_are_answered_in_order(served: Served) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(served.daemon.socket))
        targets = ["/manifest", "/config", "/nothing", "/images"]
        client.sendall(b"".join(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for target in targets[:-1]))
        client.sendall(b"GET /images HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = b""
        while chunk := client.recv(65536):
            received += chunk
    positions = [
        received.index(marker) for marker in (served.os.manifest, served.os.config, b"NOT_FOUND", b'"artifact"')
    ]
    assert positions == sorted(positions)
    assert received.count(b"HTTP/1.1 ") == len(targets)


@needs_root
def test_the_daemon_answers_other_users_by_its_list(served: Served) -> None:
    """A peer that no image allows is turned away; one that a single image allows gets that image and no other."""
    assert status_for(1, served.daemon, "/images/private/manifest") == "200"
    assert status_for(1, served.daemon, "/manifest") == "403"
    assert status_for(2, served.daemon, "/manifest") == "403"
    assert json.loads(served.daemon.get("/images").body)
