"""Layouts as skopeo and umoci make them, served to curl and checked by skopeo's own reading of them."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from tests.support.daemon import RunningDaemon, stand_alone, write_policy
from tests.support.layouts import OCI_MANIFEST, layer_tar, multi_arch, single_image, skopeo_copy, umoci_image


def assert_served_whole(daemon: RunningDaemon) -> dict[str, object]:
    """The manifest is OCI and each of its blobs is there, with the right content."""
    reply = daemon.get("/manifest")
    assert (reply.status, reply.headers["content-type"]) == (200, OCI_MANIFEST)
    manifest = reply.json
    for descriptor in (manifest["config"], *manifest["layers"]):
        blob = daemon.get(f"/blobs/{descriptor['digest']}")
        assert f"sha256:{hashlib.sha256(blob.body).hexdigest()}" == descriptor["digest"]
        assert len(blob.body) == descriptor["size"]
    return manifest


def test_a_layout_that_umoci_made_is_served(tmp_path: Path) -> None:
    (tmp_path / "rootfs/etc").mkdir(parents=True)
    (tmp_path / "rootfs/etc/motd").write_text("from umoci\n")
    umoci_image(tmp_path / "layout", "v1", tmp_path / "rootfs")
    with stand_alone(
        tmp_path / "run", ["--policy", str(write_policy(tmp_path)), f"oci:{tmp_path}/layout:v1"]
    ) as daemon:
        manifest = assert_served_whole(daemon)
        layers = manifest["layers"]
        assert isinstance(layers, list)
        fetched = daemon.curl("--fail", f"http://x/blobs/{layers[-1]['digest']}")
    assert fetched.returncode == 0, fetched.stderr
    listing = subprocess.run(["tar", "tz"], input=fetched.stdout, capture_output=True, check=False)
    assert b"etc/motd" in listing.stdout, (listing, layers)


@pytest.mark.parametrize("options", [[], ["--dest-compress-format", "zstd", "--dest-compress"]], ids=["gzip", "zstd"])
def test_a_layout_that_skopeo_made_is_served(tmp_path: Path, options: list[str]) -> None:
    single_image(tmp_path / "made")
    skopeo_copy(f"oci:{tmp_path}/made:latest", f"oci:{tmp_path}/copied:v1", *options)
    with stand_alone(
        tmp_path / "run", ["--policy", str(write_policy(tmp_path)), f"oci:{tmp_path}/copied:v1"]
    ) as daemon:
        assert_served_whole(daemon)
        inspected = json.loads(_skopeo("inspect", "--raw", f"oci:{tmp_path}/copied:v1"))
        assert daemon.get("/manifest").json == inspected


def test_a_multi_arch_layout_that_skopeo_copied_is_resolved_as_skopeo_does(tmp_path: Path) -> None:
    multi_arch(tmp_path / "made", "linux/amd64", "linux/arm64", "linux/arm/v7")
    skopeo_copy(f"oci:{tmp_path}/made:latest", f"oci:{tmp_path}/copied:v1", "--all")
    source = f"oci:{tmp_path}/copied:v1"
    with stand_alone(tmp_path / "run", ["--policy", str(write_policy(tmp_path)), source]) as daemon:
        for platform in ("linux/amd64", "linux/arm64", "linux/arm/v7"):
            _, architecture, *variant = platform.split("/")
            override = ["--override-arch", architecture, *(["--override-variant", variant[0]] if variant else [])]
            expected = json.loads(_skopeo(*override, "inspect", "--config", source))
            assert daemon.get(f"/config?platform={platform}").json["rootfs"] == expected["rootfs"]
            assert daemon.get(f"/config?platform={platform}").json["architecture"] == architecture


def _skopeo(*arguments: str) -> str:
    return subprocess.run(["skopeo", *arguments], capture_output=True, text=True, check=True, timeout=60).stdout


def test_tar_files_become_the_image_that_skopeo_makes_of_them(tmp_path: Path) -> None:
    paths = []
    for number, compress in enumerate((lambda tar: tar, gzip.compress)):
        paths.append(tmp_path / f"{number}.tar")
        paths[-1].write_bytes(compress(layer_tar({f"file-{number}": b"x"})))
    source = f"tarball:{':'.join(map(str, paths))}"
    recorded = json.loads(_skopeo("inspect", "--config", source))
    with stand_alone(tmp_path / "run", ["--policy", str(write_policy(tmp_path)), source]) as daemon:
        manifest = assert_served_whole(daemon)
        config = daemon.get("/config").json
    assert config == recorded
    layers = manifest["layers"]
    assert isinstance(layers, list)
    inspected = json.loads(_skopeo("inspect", "--raw", source))
    assert [layer["digest"] for layer in layers] == [layer["digest"] for layer in inspected["layers"]]
