"""The images as a registry under /v2/, over the real socket, on a layout and in front of a real registry."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.daemon import (
    Reply,
    RunningDaemon,
    activated,
    command,
    on_port,
    stand_alone,
    write_instance,
    write_policy,
)
from tests.support.host import Host
from tests.support.layouts import (
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    JSONObject,
    Layout,
    StoredImage,
    encode,
    layer_tar,
    multi_arch,
    single_image,
)
from tests.support.registries import DockerRegistry, docker_registry, free_port, needs_docker_registry
from tests.support.schema1 import schema1, write_directory
from tests.support.sigstore import attachment, attachment_tag, make_key, public_pem
from tests.support.upstream import Upstream, answering, by_path, content, image

ARM = "linux/arm64/v8"
ZERO = "sha256:" + "0" * 64


@dataclass(frozen=True)
class Served:
    daemon: RunningDaemon
    os: StoredImage
    docker: StoredImage
    tools: dict[str, StoredImage]
    index: bytes


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    place = tmp_path_factory.mktemp("distribution")
    os_image = Layout(place / "os").image(
        [layer_tar({"a": b"a"}), layer_tar({"big": bytes(3 << 20)})], name="1", compression=""
    )
    docker = Layout(place / "docker").image(name="1", docker=True)
    tools = multi_arch(place / "tools", "linux/amd64", ARM)
    named = json.loads((place / "tools/index.json").read_bytes())["manifests"][-1]
    write_instance(
        place / "config",
        "test",
        f"""
        default = "os"
        [images.os]
        reference = "oci:{place}/os:1"
        [images.docker]
        reference = "oci:{place}/docker:1"
        [images.tools]
        reference = "oci:{place}/tools:latest"
        platform = "linux/amd64"
        [images.private]
        reference = "oci:{place}/os:1"
        access.users = ["daemon"]
        [trust]
        policy = "{write_policy(place)}"
        """,
    )
    with activated(place / "run", ["--instance", "test", "--config-dir", str(place / "config")]) as daemon:
        index = (place / "tools/blobs" / named["digest"].replace(":", "/")).read_bytes()
        yield Served(daemon, os_image, docker, tools, index)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def error_of(reply: Reply) -> tuple[int, str]:
    """Status and code of an error, which is in the specification's format."""
    assert reply.headers["content-type"] == "application/json"
    (error,) = reply.json["errors"]
    assert error["message"]
    return reply.status, error["code"]


@pytest.mark.parametrize("path", ["/v2/", "/v2"])
def test_the_api_is_spoken_here_without_a_login(served: Served, path: str) -> None:
    reply = served.daemon.get(path)
    assert (reply.status, reply.json) == (200, {})
    assert reply.headers["docker-distribution-api-version"] == "registry/2.0"


def test_the_catalogue_lists_what_the_peer_may_have(served: Served) -> None:
    assert served.daemon.get("/v2/_catalog").json == {"repositories": ["docker", "os", "tools"]}
    first = served.daemon.get("/v2/_catalog?n=2")
    assert first.json == {"repositories": ["docker", "os"]}
    assert first.headers["link"] == '</v2/_catalog?n=2&last=os>; rel="next"'
    last = served.daemon.get("/v2/_catalog?n=2&last=os")
    assert (last.json, last.headers.get("link")) == ({"repositories": ["tools"]}, None)
    assert error_of(served.daemon.get("/v2/_catalog?n=x")) == (400, "UNSUPPORTED")


def test_an_image_has_one_tag(served: Served) -> None:
    assert served.daemon.get("/v2/os/tags/list").json == {"name": "os", "tags": ["latest"]}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_manifest_is_served_by_tag_and_digest_in_its_own_bytes(served: Served, method: str) -> None:
    for name, stored, media_type in (("os", served.os, OCI_MANIFEST), ("docker", served.docker, DOCKER_MANIFEST)):
        for reference in ("latest", stored.digest):
            reply = served.daemon.request(method, f"/v2/{name}/manifests/{reference}")
            assert (reply.status, reply.body) == (200, stored.manifest if method == "GET" else b"")
            assert reply.headers["content-type"] == media_type
            assert reply.headers["content-length"] == str(len(stored.manifest))
            assert reply.headers["docker-content-digest"] == stored.digest
            assert reply.headers["etag"] == f'"{stored.digest}"'


def test_if_none_match_saves_the_transfer(served: Served) -> None:
    reply = served.daemon.get("/v2/os/manifests/latest", {"If-None-Match": f'"{served.os.digest}"'})
    assert (reply.status, reply.body) == (304, b"")


def test_an_index_comes_by_tag_and_its_instances_by_digest(served: Served) -> None:
    reply = served.daemon.get("/v2/tools/manifests/latest")
    assert (reply.body, reply.headers["content-type"]) == (served.index, OCI_INDEX)
    assert served.daemon.get(f"/v2/tools/manifests/{digest_of(served.index)}").body == served.index
    for stored in served.tools.values():
        manifest = served.daemon.get(f"/v2/tools/manifests/{stored.digest}")
        assert (manifest.body, manifest.headers["content-type"]) == (stored.manifest, OCI_MANIFEST)
        for digest, blob in stored.blobs.items():
            assert served.daemon.get(f"/v2/tools/blobs/{digest}").body == blob


def test_blobs_come_whole_and_in_part(served: Served) -> None:
    for digest, blob in served.os.blobs.items():
        whole = served.daemon.get(f"/v2/os/blobs/{digest}")
        assert (whole.status, whole.body) == (200, blob)
        assert whole.headers["docker-content-digest"] == digest
        part = served.daemon.get(f"/v2/os/blobs/{digest}", {"Range": "bytes=10-19"})
        assert (part.status, part.body) == (206, blob[10:20])
        assert part.headers["content-range"] == f"bytes 10-19/{len(blob)}"
        head = served.daemon.request("HEAD", f"/v2/os/blobs/{digest}")
        assert (head.status, head.headers["content-length"], head.headers["accept-ranges"]) == (
            200,
            str(len(blob)),
            "bytes",
        )


def test_an_image_that_nothing_can_be_attached_to_has_no_referrers(served: Served) -> None:
    for digest in (served.os.digest, ZERO):  # "not found" would say that there is no such API
        reply = served.daemon.get(f"/v2/os/referrers/{digest}")
        assert (reply.status, reply.headers["content-type"]) == (200, OCI_INDEX)
        assert reply.json == {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}


@pytest.mark.demand("PEER-uid")
@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v2/none/manifests/latest", 404, "NAME_UNKNOWN"),
        ("GET", "/v2/some/where/else/tags/list", 404, "NAME_UNKNOWN"),
        ("GET", "/v2/..%2fos/manifests/latest", 400, "NAME_INVALID"),
        ("GET", "/v2//manifests/latest", 400, "NAME_INVALID"),
        ("GET", "/v2/private/manifests/latest", 403, "DENIED"),
        ("GET", f"/v2/private/blobs/{ZERO}", 403, "DENIED"),
        ("GET", "/v2/private/tags/list", 403, "DENIED"),
        ("GET", "/v2/os/manifests/2", 404, "MANIFEST_UNKNOWN"),
        ("GET", f"/v2/os/manifests/{'x' * 5000}", 404, "MANIFEST_UNKNOWN"),
        ("GET", f"/v2/os/manifests/{ZERO}", 404, "MANIFEST_UNKNOWN"),
        ("GET", f"/v2/os/manifests/sha256-{'0' * 64}.sig", 404, "MANIFEST_UNKNOWN"),
        ("GET", "/v2/os/manifests/sha256:123", 400, "DIGEST_INVALID"),
        ("GET", f"/v2/os/blobs/{ZERO}", 404, "BLOB_UNKNOWN"),
        ("GET", "/v2/os/blobs/sha256:1234567", 400, "DIGEST_INVALID"),
        ("GET", "/v2/os/referrers/x", 400, "DIGEST_INVALID"),
        ("GET", "/v2/os", 404, "NAME_UNKNOWN"),
        ("GET", "/v2/os/else", 404, "NAME_UNKNOWN"),
        ("POST", "/v2/os/blobs/uploads/", 405, "UNSUPPORTED"),
        ("PATCH", "/v2/os/blobs/uploads/1", 405, "UNSUPPORTED"),
        ("PUT", "/v2/os/manifests/latest", 405, "UNSUPPORTED"),
        ("DELETE", f"/v2/os/blobs/{ZERO}", 405, "UNSUPPORTED"),
        ("POST", "/v2/", 405, "UNSUPPORTED"),
    ],
)
def test_errors_are_the_specifications(served: Served, method: str, path: str, status: int, code: str) -> None:
    reply = served.daemon.request(method, path)
    assert error_of(reply) == (status, code)


def test_a_range_of_nothing_is_an_error_of_the_specification_with_the_size(served: Served) -> None:
    digest, blob = next(iter(served.os.blobs.items()))
    reply = served.daemon.get(f"/v2/os/blobs/{digest}", {"Range": f"bytes={len(blob)}-"})
    assert error_of(reply) == (416, "RANGE_INVALID")
    assert reply.headers["content-range"] == f"bytes */{len(blob)}"


def test_head_of_what_is_not_there_has_no_body(served: Served) -> None:
    reply = served.daemon.request("HEAD", "/v2/os/manifests/2")
    assert (reply.status, reply.body) == (404, b"")


# --- in front of a registry ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def in_front_of(host: Host, registry: str, images: dict[str, str], keys: str = "") -> Iterator[RunningDaemon]:
    host.write_registries(f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n')
    with host.daemon({name: f"docker://{registry}/{path}" for name, path in images.items()}, keys=keys) as daemon:
        yield daemon


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "host")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[DockerRegistry]:
    with docker_registry(tmp_path / "registry") as running:
        yield running


@needs_docker_registry
def test_the_default_image_is_also_found_under_its_repository_path(
    registry: DockerRegistry, host: Host, tmp_path: Path
) -> None:
    stored = single_image(tmp_path / "layout")
    registry.push(tmp_path / "layout", "some/where/os:7")
    with in_front_of(host, registry.authority, {"os": "some/where/os:7"}) as daemon:
        for name in ("os", "some/where/os"):
            assert daemon.get(f"/v2/{name}/tags/list").json == {"name": name, "tags": ["7"]}
            assert daemon.get(f"/v2/{name}/manifests/7").body == stored.manifest
            for digest, blob in stored.blobs.items():
                assert daemon.get(f"/v2/{name}/blobs/{digest}").body == blob
        assert error_of(daemon.get("/v2/os/manifests/latest")) == (404, "MANIFEST_UNKNOWN")


@needs_docker_registry
def test_the_tag_is_resolved_anew_and_what_was_served_stays(
    registry: DockerRegistry, host: Host, tmp_path: Path
) -> None:
    old = single_image(tmp_path / "old")
    registry.push(tmp_path / "old", "os:1")
    with in_front_of(host, registry.authority, {"os": "os:1"}, keys="fresh-for = 0") as daemon:
        assert daemon.get("/v2/os/manifests/1").body == old.manifest
        new = Layout(tmp_path / "new").image([layer_tar({"new": b"new"})], name="latest")
        registry.push(tmp_path / "new", "os:1")
        assert daemon.get(f"/v2/os/manifests/{new.digest}").body == new.manifest, "though nobody asked for the tag"
        assert daemon.get("/v2/os/manifests/1").body == new.manifest
        assert daemon.get(f"/v2/os/manifests/{old.digest}").body == old.manifest
        for digest, blob in {**old.blobs, **new.blobs}.items():
            assert daemon.get(f"/v2/os/blobs/{digest}").body == blob


def attach(layout: Layout, subject: JSONObject, blob: bytes, *, name: str | None = None) -> tuple[str, bytes]:
    """Store a small artifact about ``subject``; its digest and manifest."""
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": "application/vnd.example.note",
        "config": layout.blob(b"{}", "application/vnd.oci.empty.v1+json"),
        "layers": [layout.blob(blob, "text/plain")],
        "subject": {key: subject[key] for key in ("mediaType", "digest", "size")},
    }
    stored = layout.manifest(manifest, b"{}", (blob,), name=name)
    return stored.digest, stored.manifest


@needs_docker_registry
def test_signatures_under_tags_are_handed_on_with_their_blobs(
    registry: DockerRegistry, host: Host, tmp_path: Path
) -> None:
    stored = single_image(tmp_path / "layout")
    registry.push(tmp_path / "layout", "os:1")
    tag = stored.digest.replace(":", "-") + ".sig"
    note, manifest = attach(Layout(tmp_path / "note"), stored.descriptor, b"a signature", name="latest")
    registry.push(tmp_path / "note", f"os:{tag}")
    registry.push(tmp_path / "note", "os:other")
    with in_front_of(host, registry.authority, {"os": "os:1"}) as daemon:
        blob = f"/v2/os/blobs/{digest_of(b'a signature')}"
        assert error_of(daemon.get(blob)) == (404, "BLOB_UNKNOWN"), "nobody asked for its manifest"
        assert daemon.get(f"/v2/os/manifests/{tag}").body == manifest
        assert daemon.get(blob).body == b"a signature"
        assert daemon.get(f"/v2/os/manifests/{note}").body == manifest
        assert error_of(daemon.get("/v2/os/manifests/other")) == (404, "MANIFEST_UNKNOWN"), "it is none of the image's"
        assert error_of(daemon.get(f"/v2/os/manifests/{tag[:-4]}.att")) == (404, "MANIFEST_UNKNOWN")


def routes_with_referrers(stored: StoredImage, layout: Layout, listed: list[JSONObject], more: dict[str, Any]) -> Any:
    index = encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed})
    return by_path(
        image(stored, "1")
        | {"/v2/": answering(200, b"{}"), f"/referrers/{stored.digest}": content(index, OCI_INDEX)}
        | more
    )


def test_referrers_are_listed_by_type_and_handed_on_with_their_blobs(host: Host, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    stored = layout.image(name="1")
    digest, manifest = attach(layout, stored.descriptor, b"a note")
    entry = {"mediaType": OCI_MANIFEST, "digest": digest, "size": len(manifest)}
    note = entry | {"artifactType": "application/vnd.example.note", "annotations": {"a": "b"}}
    other = entry | {"digest": ZERO, "artifactType": "application/other"}
    odd = [{"digest": "x"}, 7, entry | {"size": -1}]
    more = {
        f"/manifests/{digest}": content(manifest, OCI_MANIFEST),
        f"/blobs/{digest_of(b'a note')}": content(b"a note"),
    }
    with (
        Upstream(routes_with_referrers(stored, layout, [note, other, *odd], more)) as upstream,
        in_front_of(host, upstream.authority, {"os": "os:1"}) as daemon,
    ):
        assert error_of(daemon.get(f"/v2/os/manifests/{digest}"))[0] == 404, "not listed yet"
        reply = daemon.get(f"/v2/os/referrers/{stored.digest}")
        assert reply.json["manifests"] == [note, other]
        assert "oci-filters-applied" not in reply.headers
        filtered = daemon.get(f"/v2/os/referrers/{stored.digest}?artifactType=application/vnd.example.note")
        assert filtered.json["manifests"] == [note]
        assert filtered.headers["oci-filters-applied"] == "artifactType"
        assert daemon.get(f"/v2/os/manifests/{digest}").body == manifest
        assert daemon.get(f"/v2/os/blobs/{digest_of(b'a note')}").body == b"a note"
        assert error_of(daemon.get(f"/v2/os/manifests/{ZERO}"))[0] == 404, "listed, and not there"


@pytest.mark.demand("DIG-manifest-by-digest")
def test_a_referrer_with_other_content_than_its_digest_is_refused(host: Host, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    stored = layout.image(name="1")
    digest, manifest = attach(layout, stored.descriptor, b"a note")
    listed = {"mediaType": OCI_MANIFEST, "digest": digest, "size": len(manifest)}
    more = {f"/manifests/{digest}": content(manifest + b" ", OCI_MANIFEST)}
    with (
        Upstream(routes_with_referrers(stored, layout, [listed], more)) as upstream,
        in_front_of(host, upstream.authority, {"os": "os:1"}) as daemon,
    ):
        daemon.get(f"/v2/os/referrers/{stored.digest}")
        assert error_of(daemon.get(f"/v2/os/manifests/{digest}")) == (502, "DIGEST_MISMATCH")


def test_what_policy_rejects_is_denied_under_every_path(host: Host, tmp_path: Path) -> None:
    stored = single_image(tmp_path / "layout")
    write_policy(host.directory, {"default": [{"type": "reject"}]})
    with (
        Upstream(by_path(image(stored, "1"))) as upstream,
        in_front_of(host, upstream.authority, {"os": "os:1"}) as daemon,
    ):
        layer = stored.layer_digests[0]
        for path in ("manifests/1", f"manifests/{stored.digest}", f"blobs/{layer}", f"referrers/{stored.digest}"):
            reply = daemon.get(f"/v2/os/{path}")
            assert error_of(reply) == (403, "DENIED")
            assert reply.json["errors"][0]["detail"]["reasons"]


@needs_docker_registry
def test_each_platform_of_an_index_is_judged_by_itself(registry: DockerRegistry, host: Host, tmp_path: Path) -> None:
    """The index bears no signature, and only one of its manifests does."""
    images = multi_arch(tmp_path / "layout", "linux/amd64", ARM, name="x")
    key, (signed, other) = make_key(), images.values()
    (tmp_path / "key.pub").write_bytes(public_pem(key))
    registry.push(f"{tmp_path}/layout:x", "os:1")
    attachment(Layout(tmp_path / "attachment"), key, f"{registry.authority}/os", signed.digest)
    registry.push(f"{tmp_path}/attachment:x", f"os:{attachment_tag(signed.digest)}")
    (tmp_path / "registries.d").mkdir()
    (tmp_path / "registries.d/all.yaml").write_text("default-docker:\n  use-sigstore-attachments: true\n")
    identity = {"type": "matchRepository"}
    requirement = {"type": "sigstoreSigned", "keyPath": f"{tmp_path}/key.pub", "signedIdentity": identity}
    write_policy(host.directory, {"default": [requirement]})
    host.write_registries(f'[[registry]]\nlocation = "{registry.authority}"\ninsecure = true\n')
    keys, options = 'platform = "linux/amd64"', ["--registries.d", f"{tmp_path}/registries.d"]
    with host.daemon({"os": f"docker://{registry.authority}/os:1"}, *options, keys=keys) as daemon:
        assert daemon.get("/v2/os/manifests/1").headers["content-type"] == OCI_INDEX
        assert daemon.get(f"/v2/os/manifests/{signed.digest}").body == signed.manifest
        assert error_of(daemon.get(f"/v2/os/manifests/{other.digest}")) == (403, "DENIED")
        for digest in set(other.blobs) - set(signed.blobs):
            assert error_of(daemon.get(f"/v2/os/blobs/{digest}")) == (404, "BLOB_UNKNOWN")


def test_of_schema_1_it_is_the_manifest_that_is_served(tmp_path: Path) -> None:
    layers = [gzip.compress(layer_tar({"a": b"a"}), mtime=0)]
    reference = write_directory(tmp_path / "image", json.dumps(schema1(layers)).encode(), layers)
    with stand_alone(tmp_path / "run", ["--policy", str(write_policy(tmp_path)), reference]) as daemon:
        (tag,) = daemon.get("/v2/image/tags/list").json["tags"]
        reply = daemon.get(f"/v2/image/manifests/{tag}")
        assert (reply.headers["content-type"], reply.body) == (OCI_MANIFEST, daemon.get("/manifest").body)
        for descriptor in (reply.json["config"], *reply.json["layers"]):
            assert digest_of(daemon.get(f"/v2/image/blobs/{descriptor['digest']}").body) == descriptor["digest"]


def test_an_unreachable_registry_is_told_in_the_specifications_format(host: Host) -> None:
    with in_front_of(host, "127.0.0.1:1", {"os": "os:1"}) as daemon:
        reply = daemon.get("/v2/os/manifests/1")
        assert error_of(reply) == (503, "UPSTREAM_UNAVAILABLE")
        assert reply.json["errors"][0]["detail"]["retryable"] is True


# --- over TCP, where any local user can connect ----------------------------------------------------------------------


@dataclass(frozen=True)
class Private:
    """A registry that wants a login, the authfile that has it, and the arguments for its image."""

    stored: StoredImage
    authfile: Path
    arguments: list[str]


@pytest.fixture
def private(host: Host, tmp_path: Path) -> Iterator[Private]:
    stored = single_image(tmp_path / "layout")
    with docker_registry(tmp_path / "private", htpasswd=True) as registry:
        registry.push(tmp_path / "layout", "os:1")
        assert registry.login is not None
        host.write_registries(f'[[registry]]\nlocation = "{registry.authority}"\ninsecure = true\n')
        host.write_credentials({registry.authority: registry.login})
        policy, conf = host.directory / "policy.json", host.registries_conf
        arguments = ["--policy", str(policy), "--registries-conf", str(conf), f"docker://{registry.authority}/os:1"]
        yield Private(stored, host.authfile, arguments)


@needs_docker_registry
@pytest.mark.parametrize("how", ["--authfile", "REGISTRY_AUTH_FILE", "--creds"])
def test_with_credentials_no_port_is_opened_and_the_refusal_says_what_to_do(private: Private, how: str) -> None:
    given = {"--authfile": ["--authfile", str(private.authfile)], "--creds": ["--creds", "a:b"]}.get(how, [])
    environ = {**os.environ, **({} if given else {how: str(private.authfile)})}
    for check in ([], ["--check"]):
        done = subprocess.run(
            command("--port", str(free_port()), *given, *check, *private.arguments),
            env=environ, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 78
        assert "any local user can connect to --port" in done.stderr
        assert "--allow-any-user" in done.stderr
        assert "--no-creds" in done.stderr


@needs_docker_registry
def test_any_user_may_have_it_when_the_administrator_says_so(private: Private, tmp_path: Path) -> None:
    arguments = ["--allow-any-user", "--authfile", str(private.authfile), *private.arguments]
    with on_port(tmp_path / "daemon", arguments) as (_, port):
        reply = requests.get(f"http://127.0.0.1:{port}/v2/os/manifests/1", timeout=60)
        assert reply.content == private.stored.manifest


@needs_docker_registry
def test_without_credentials_the_port_is_opened_and_the_registry_refuses_us(private: Private, tmp_path: Path) -> None:
    arguments = ["--no-creds", *private.arguments]
    with on_port(tmp_path / "daemon", arguments, environ={"REGISTRY_AUTH_FILE": str(private.authfile)}) as (_, port):
        reply = requests.get(f"http://127.0.0.1:{port}/v2/os/manifests/1", timeout=60)
        assert (reply.status_code, reply.json()["errors"][0]["code"]) == (502, "UNAUTHORIZED")


@needs_docker_registry
def test_credentials_for_other_registries_keep_no_port_closed(private: Private, host: Host, tmp_path: Path) -> None:
    host.write_credentials({"registry.example.com": ("a", "b")})
    with on_port(tmp_path / "daemon", ["--authfile", str(host.authfile), *private.arguments]) as (_, port):
        assert requests.get(f"http://127.0.0.1:{port}/v2/", timeout=60).status_code == 200


@needs_docker_registry
def test_a_listening_tcp_socket_that_was_handed_over_is_a_port_too(private: Private) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        done = subprocess.run(
            command("--sockfd", str(number), "--authfile", str(private.authfile), *private.arguments),
            pass_fds=[number], capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert (done.returncode, f"--sockfd {number}" in done.stderr) == (78, True)


def test_allow_any_user_is_for_tcp_only(tmp_path: Path) -> None:
    done = subprocess.run(
        command("--socket", str(tmp_path / "s"), "--allow-any-user", "oci:/x"),
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--allow-any-user is for --port" in done.stderr
