"""Archives: which image of several, which scope of the policy, what becomes of changes, where they are unpacked."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import RunningDaemon, activated, stand_alone, write_instance, write_policy
from tests.support.layouts import Layout, StoredImage, encode, layer_tar
from tests.support.makers.archives import old_layout, tar_of_layout, unpacked, write_tar

REJECT = {"type": "reject"}
ACCEPT = {"type": "insecureAcceptAnything"}


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def docker_archive(path: Path, images: dict[str, StoredImage]) -> Path:
    """Several images in one archive, each with a directory of its own."""
    entries: dict[str, bytes] = {}
    manifest = []
    for number, (name, image) in enumerate(images.items()):
        layers = {f"{number}/{position}.tar": layer for position, layer in enumerate(unpacked(image))}
        entries |= layers | {f"{number}.json": image.config}
        manifest.append({"Config": f"{number}.json", "RepoTags": [name] if name else None, "Layers": list(layers)})
    return write_tar(path, [*entries.items(), ("manifest.json", encode(manifest))])


@contextlib.contextmanager
def serving(
    directory: Path, reference: str, *options: str, policy: dict[str, Any] | None = None
) -> Iterator[RunningDaemon]:
    directory.mkdir(exist_ok=True)
    chosen = ["--policy", str(write_policy(directory, policy or {"default": [ACCEPT]}))]
    platform = ["--override-os", "linux", "--override-arch", "amd64"]
    with stand_alone(directory / "run", [*chosen, *platform, *options, reference]) as daemon:
        yield daemon


@pytest.fixture
def two(tmp_path: Path) -> dict[str, StoredImage]:
    layout = Layout(tmp_path / "layout")
    return {
        name: layout.image([layer_tar({"motd": name.encode()})], name=name)
        for name in ("example.com/one:1", "example.com/two:2")
    }


def reason_of(daemon: RunningDaemon, status: int) -> str:
    reply = daemon.get("/manifest")
    assert reply.status == status, reply.body
    return str(reply.json["detail"])


# --- which image ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive"])
def test_one_of_several_images_is_chosen_by_name_or_position(
    tmp_path: Path, two: dict[str, StoredImage], transport: str
) -> None:
    path = tmp_path / "x.tar"
    if transport == "oci-archive":
        tar_of_layout(tmp_path / "layout", path)
    else:
        docker_archive(path, two)
    first, second = two.values()
    for number, (suffix, image) in enumerate(
        [(":example.com/one:1", first), (":example.com/two:2", second), (":@0", first), (":@1", second)]
    ):
        with serving(tmp_path / str(number), f"{transport}:{path}{suffix}") as daemon:
            assert daemon.get("/config").body == image.config, suffix
    for number, (suffix, reason) in enumerate(
        [
            ("", "has 2 images: name one of them: example.com/one:1, example.com/two:2"),
            (":@2", "has no image "),
            (":example.com/none:1", "it has example.com/one:1, example.com/two:2"),
        ]
    ):
        with serving(tmp_path / f"none{number}", f"{transport}:{path}{suffix}") as daemon:
            assert reason in reason_of(daemon, 404)


def test_an_archive_of_the_other_kind_is_told_as_such(tmp_path: Path, two: dict[str, StoredImage]) -> None:
    docker, oci = docker_archive(tmp_path / "docker.tar", two), tar_of_layout(tmp_path / "layout", tmp_path / "oci.tar")
    with serving(tmp_path / "a", f"oci-archive:{docker}") as daemon:
        assert "it has a manifest.json, which docker-archive: reads" in reason_of(daemon, 502)
    with serving(tmp_path / "b", f"docker-archive:{oci}") as daemon:
        assert "it has an OCI layout, which oci-archive: reads" in reason_of(daemon, 502)


# --- which scope ------------------------------------------------------------------------------------------------------


def test_policy_knows_a_docker_archive_by_its_transport_alone(tmp_path: Path, two: dict[str, StoredImage]) -> None:
    reference = f"docker-archive:{docker_archive(tmp_path / 'x.tar', two)}:@0"
    with serving(tmp_path / "a", reference, policy={"default": [REJECT]}) as daemon:
        assert daemon.get("/manifest").status == 403
    scopes = {"docker-archive": {"": [ACCEPT]}}
    with serving(tmp_path / "b", reference, policy={"default": [REJECT], "transports": scopes}) as daemon:
        assert daemon.get("/verification").json["scope"] == "docker-archive"


def test_policy_knows_an_oci_archive_by_where_it_really_lies(tmp_path: Path, two: dict[str, StoredImage]) -> None:
    path = tar_of_layout(tmp_path / "layout", tmp_path / "real/x.tar")
    (tmp_path / "link").symlink_to("real")
    reference = f"oci-archive:{tmp_path}/link/x.tar:@0"
    for number, (scope, status) in enumerate(
        [(str(path), 200), (str(path.parent), 200), (f"{tmp_path}/link", 403), (f"{path}x", 403)]
    ):
        policy = {"default": [REJECT], "transports": {"oci-archive": {scope: [ACCEPT]}}}
        with serving(tmp_path / str(number), reference, policy=policy) as daemon:
            assert daemon.get("/manifest").status == status, scope


# --- change -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive"])
def test_an_archive_that_is_overwritten_is_another_image_and_what_is_on_its_way_is_cut(
    tmp_path: Path, transport: str
) -> None:
    images = [
        Layout(tmp_path / name).image([layer_tar({"large": os.urandom(8 << 20)})], name="example.com/x:1")
        for name in ("old", "new")
    ]
    path = tmp_path / "x.tar"

    def write(name: str, image: StoredImage) -> bytes:
        place = tmp_path / f"{name}.tar"
        if transport == "oci-archive":
            return tar_of_layout(tmp_path / name, place).read_bytes()
        return write_tar(place, old_layout(image, "example.com/x:1")).read_bytes()

    contents = [write(name, image) for name, image in zip(("old", "new"), images, strict=True)]
    path.write_bytes(contents[0])
    with serving(tmp_path / "a", f"{transport}:{path}") as daemon:
        first = daemon.get("/manifest")
        layer = first.json["layers"][0]["digest"]
        with daemon.open(f"/blobs/{layer}") as reply:
            reply.read(1000)
            path.write_bytes(contents[1])
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                reply.read()
        late = daemon.get(f"/blobs/{layer}")
        assert late.status != 200
        while (second := daemon.get("/manifest")).headers["manifest-digest"] == first.headers["manifest-digest"]:
            pass  # until the snapshot is no longer fresh
        blob = daemon.get(f"/blobs/{second.json['layers'][0]['digest']}")
        assert digest_of(blob.body) == second.json["layers"][0]["digest"]


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
def test_blobs_of_a_kept_snapshot_are_served_after_a_restart(tmp_path: Path, *, compressed: bool) -> None:
    image = Layout(tmp_path / "layout").image([layer_tar({"motd": b"kept"})])
    path = write_tar(tmp_path / "x.tar", old_layout(image))
    if compressed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    policy = write_policy(tmp_path)
    text = f'[images.os]\nreference = "docker-archive:{path}"\n[trust]\npolicy = "{policy}"\n'
    write_instance(tmp_path / "config", "test", text)
    arguments = ["--instance", "test", "--config-dir", str(tmp_path / "config"), "--override-arch", "amd64"]
    (tmp_path / "state").mkdir(mode=0o700)
    environ = {"RUNTIME_DIRECTORY": str(tmp_path / "state")}
    with activated(tmp_path / "one", arguments, environ=environ) as daemon:
        assert daemon.get("/manifest").status == 200
    with activated(tmp_path / "two", arguments, environ=environ) as daemon:
        assert daemon.get(f"/blobs/{digest_of(unpacked(image)[0])}").body == unpacked(image)[0]


# --- where it is unpacked ---------------------------------------------------------------------------------------------


def test_what_is_unpacked_has_no_name_and_ends_with_the_daemon(tmp_path: Path, disk: Path) -> None:
    image = Layout(tmp_path / "layout").image([layer_tar({"zeros": bytes(9 << 20)})])
    path = write_tar(tmp_path / "x.tar", old_layout(image))
    path.write_bytes(gzip.compress(path.read_bytes()))
    with serving(tmp_path / "a", f"docker-archive:{path}", "--cache-dir", str(disk)) as daemon:
        for _ in range(3):
            assert daemon.get(f"/blobs/{digest_of(unpacked(image)[0])}").body == unpacked(image)[0]
        assert len([one for one in daemon.open_files() if one.startswith(str(disk))]) == 1
        assert list(disk.iterdir()) == []


def test_all_images_of_an_archive_are_served_from_what_was_unpacked_once(
    tmp_path: Path, disk: Path, two: dict[str, StoredImage]
) -> None:
    path = tar_of_layout(tmp_path / "layout", tmp_path / "x.tar")
    path.write_bytes(gzip.compress(path.read_bytes()))
    images = [f'[images.i{number}]\nreference = "oci-archive:{path}:{name}"\n' for number, name in enumerate(two)]
    settings = f'[trust]\npolicy = "{write_policy(tmp_path)}"\n[sources]\ncache-dir = "{disk}"\n'
    write_instance(tmp_path / "config", "test", "".join(images) + settings)
    arguments = ["--instance", "test", "--config-dir", str(tmp_path / "config"), "--override-arch", "amd64"]
    with activated(tmp_path / "run", arguments) as daemon:
        for number, image in enumerate(two.values()):
            assert daemon.get(f"/images/i{number}/config").body == image.config
        assert len([one for one in daemon.open_files() if one.startswith(str(disk))]) == 1


@pytest.mark.demand("BOMB-archive")
def test_a_bomb_is_a_502_that_names_the_limit(tmp_path: Path, disk: Path) -> None:
    bomb = tmp_path / "bomb.tar.gz"
    with gzip.open(bomb, "wb", 1) as file:
        for _ in range(1100):
            file.write(bytes(1 << 20))
    with serving(tmp_path / "a", f"docker-archive:{bomb}", "--spool-limit", "1", "--cache-dir", str(disk)) as daemon:
        assert "more than 1073741824 bytes, which --spool-limit" in reason_of(daemon, 502)
        assert not [one for one in daemon.open_files() if one.startswith(f"{disk}/#")]


@pytest.mark.skipif(not Path("/dev/shm").is_mount(), reason="needs /dev/shm to be a file system of its own")
def test_a_cache_directory_in_memory_is_refused(tmp_path: Path) -> None:
    image = Layout(tmp_path / "layout").image([layer_tar({"motd": b"x"})])
    path = write_tar(tmp_path / "x.tar", old_layout(image))
    path.write_bytes(gzip.compress(path.read_bytes()))
    with serving(tmp_path / "a", f"docker-archive:{path}", "--cache-dir", "/dev/shm") as daemon:
        assert "/dev/shm is on a tmpfs, which is memory" in reason_of(daemon, 502)
