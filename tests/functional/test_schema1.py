"""Images of Docker's schema 1, from directories and from a registry that still has them, served as OCI."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from tests.support.daemon import RunningDaemon, activated, stand_alone, write_policy
from tests.support.gpg import Signer
from tests.support.layouts import OCI_LAYER, OCI_MANIFEST, Layout, layer_tar, skopeo_copy, zstd_frame
from tests.support.registries import docker_registry, needs_docker_registry
from tests.support.requirements import needs_programs
from tests.support.schema1 import EMPTY_LAYER, digest_of, schema1, sign, write_directory

TARS = [layer_tar({"a": b"lowest\n"}), layer_tar({"b": b"upper" * 300_000})]
GZIPPED = [gzip.compress(tar, mtime=0) for tar in TARS]
HISTORY = [
    {"created": "2020-01-01T00:00:00.120Z", "created_by": "ADD <a> & b"},
    {"created": "2020-01-01T00:00:00Z", "created_by": "ENV x=y", "empty_layer": True},
    {"created": "2020-01-01T00:00:01Z", "created_by": "RUN z", "author": "me"},
]
CONFIG = {"history": HISTORY, "config": {"Env": ["A=b"], "Labels": {"a": "<1>"}, "ExposedPorts": {"80/tcp": {}}}}


def arguments(tmp_path: Path, reference: str, *options: str) -> list[str]:
    return ["--policy", str(write_policy(tmp_path)), *options, reference]


def assert_served(daemon: RunningDaemon, digest: str, layers: list[bytes], types: list[str]) -> None:
    reply = daemon.get("/manifest")
    assert (reply.status, reply.headers["content-type"]) == (200, OCI_MANIFEST), reply.body
    assert reply.headers["manifest-digest"] == digest
    assert [layer["mediaType"] for layer in reply.json["layers"]] == types
    assert [daemon.get(f"/blobs/{layer['digest']}").body for layer in reply.json["layers"]] == layers
    config = daemon.get("/config")
    assert digest_of(config.body) == reply.json["config"]["digest"]
    assert daemon.get(f"/blobs/{reply.json['config']['digest']}").body == config.body
    part = daemon.get(f"/blobs/{reply.json['config']['digest']}", {"Range": "bytes=5-20"})
    assert (part.status, part.body) == (206, config.body[5:21])
    assert config.json["rootfs"]["diff_ids"] == [digest_of(tar) for tar in TARS]


@pytest.mark.parametrize("is_signed", [True, False])
def test_a_directory_with_schema_1_is_served_as_oci(tmp_path: Path, *, is_signed: bool) -> None:
    raw, payload = sign(schema1([GZIPPED[0], None, GZIPPED[1]]))
    reference = write_directory(tmp_path / "image", raw if is_signed else payload, GZIPPED)
    with stand_alone(tmp_path / "run", arguments(tmp_path, reference)) as daemon:
        assert_served(daemon, digest_of(payload), GZIPPED, [f"{OCI_LAYER}+gzip"] * 2)


@pytest.mark.parametrize(
    ("layers", "kind"),
    [(TARS, OCI_LAYER), ([zstd_frame(tar) for tar in TARS], f"{OCI_LAYER}+zstd")],
    ids=["tar", "zstd"],
)
def test_a_layer_has_the_type_of_what_it_is(tmp_path: Path, layers: list[bytes], kind: str) -> None:
    payload = json.dumps(schema1(layers)).encode()
    with stand_alone(
        tmp_path / "run", arguments(tmp_path, write_directory(tmp_path / "image", payload, layers))
    ) as daemon:
        assert_served(daemon, digest_of(payload), layers, [kind] * 2)


def skopeo_image(tmp_path: Path) -> str:
    Layout(tmp_path / "layout").image(TARS, name="latest", config=CONFIG)
    return f"oci:{tmp_path}/layout:latest"


@needs_programs("skopeo")
def test_it_becomes_byte_for_byte_what_skopeo_makes_of_it(tmp_path: Path) -> None:
    skopeo_copy(skopeo_image(tmp_path), f"dir:{tmp_path}/image", "--format", "v2s1")
    skopeo_copy(f"dir:{tmp_path}/image", f"oci:{tmp_path}/converted:latest", "--format", "oci")
    index = json.loads((tmp_path / "converted/index.json").read_text())
    manifest = tmp_path / "converted/blobs" / Path(*index["manifests"][0]["digest"].split(":"))
    with stand_alone(tmp_path / "run", arguments(tmp_path, f"dir:{tmp_path}/image")) as daemon:
        assert daemon.get("/manifest").body == manifest.read_bytes()


@needs_docker_registry
def test_a_registry_that_has_schema_1_is_read_by_tag_and_by_the_digest_of_what_is_signed(tmp_path: Path) -> None:
    settings = {"compatibility": {"schema1": {"enabled": True}}}
    with docker_registry(tmp_path / "registry", settings=settings) as registry:
        name = registry.push(skopeo_image(tmp_path), "some/os:1", "--format", "v2s1")
        tls = ["--tls-verify=false"]
        with stand_alone(tmp_path / "run", arguments(tmp_path, f"docker://{name}", *tls)) as daemon:
            digest = daemon.get("/manifest").headers["manifest-digest"]
            layers = [gzip.compress(tar, mtime=0) for tar in TARS]
            assert_served(daemon, digest, layers, [f"{OCI_LAYER}+gzip"] * 2)
        pinned = f"docker://{name.removesuffix(':1')}@{digest}"
        with stand_alone(tmp_path / "pinned", arguments(tmp_path, pinned, *tls)) as daemon:
            assert_served(daemon, digest, layers, [f"{OCI_LAYER}+gzip"] * 2)


def test_a_signature_counts_for_the_digest_of_what_is_signed(tmp_path: Path, signer: Signer) -> None:
    raw, payload = sign(schema1(GZIPPED))
    reference = write_directory(tmp_path / "image", raw, GZIPPED)
    key = tmp_path / "key.gpg"
    key.write_bytes(signer.public_key)
    key.chmod(0o644)
    identity = {"type": "exactReference", "dockerReference": "quay.io/some/os:1"}
    requirement = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": str(key), "signedIdentity": identity}
    policy = write_policy(tmp_path, {"default": [requirement]})
    with stand_alone(tmp_path / "run", ["--policy", str(policy), reference]) as daemon:
        for layer in GZIPPED:  # policy comes first: what it does not allow is not unpacked
            (tmp_path / "image" / digest_of(layer).partition(":")[2]).rename(tmp_path / digest_of(layer))
        assert daemon.get("/manifest").status == 403
        for layer in GZIPPED:
            (tmp_path / digest_of(layer)).rename(tmp_path / "image" / digest_of(layer).partition(":")[2])
        (tmp_path / "image/signature-1").write_bytes(signer.sign_image("quay.io/some/os:1", digest_of(payload)))
        assert daemon.get("/manifest").status == 200


@pytest.mark.parametrize("damage", ["corrupt", "truncated", "missing", "not-gzip"])
def test_a_layer_that_is_not_right_gives_no_manifest(tmp_path: Path, damage: str) -> None:
    layers = list(GZIPPED)
    if damage == "not-gzip":
        layers[1] = GZIPPED[1][:1000] + b"not what follows in a gzip file"
    reference = write_directory(tmp_path / "image", json.dumps(schema1(layers)).encode(), layers)
    place = tmp_path / "image" / digest_of(layers[1]).partition(":")[2]
    if damage == "corrupt":
        place.write_bytes(bytes(byte ^ 1 for byte in GZIPPED[1]))
    elif damage == "truncated":
        place.write_bytes(GZIPPED[1][:-5])
    elif damage == "missing":
        place.unlink()
    with stand_alone(tmp_path / "run", arguments(tmp_path, reference)) as daemon:
        reply = daemon.get("/manifest")
    assert reply.status == 502
    assert digest_of(layers[1]).partition(":")[2] in reply.json["detail"]
    assert not reply.json["retryable"]


def test_what_was_found_out_is_kept_over_a_restart(tmp_path: Path) -> None:
    payload = json.dumps(schema1(GZIPPED)).encode()
    reference = write_directory(tmp_path / "image", payload, GZIPPED)
    (tmp_path / "kept").mkdir()
    environ = {"RUNTIME_DIRECTORY": str(tmp_path / "kept")}
    config = tmp_path / "config"
    config.mkdir()
    (config / "os.toml").write_text(
        f'[images.os]\nreference = "{reference}"\n[trust]\npolicy = "{write_policy(tmp_path)}"\n'
    )
    (config / "os.toml").chmod(0o644)
    instance = ["--config-dir", str(config), "--instance", "os"]
    with activated(tmp_path / "first", instance, environ=environ) as daemon:
        first = daemon.get("/manifest").body
    for layer in (*GZIPPED, EMPTY_LAYER):
        (tmp_path / "image" / digest_of(layer).partition(":")[2]).unlink()
    with activated(tmp_path / "second", instance, environ=environ) as daemon:
        assert daemon.get("/manifest").body == first
        assert hashlib.sha256(daemon.get("/config").body).hexdigest() in first.decode()
