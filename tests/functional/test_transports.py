"""What every transport promises, tested alike with each format and each program that writes it."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import json
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from container_image_proxy.core.proxy import Proxy, ServedImage
from container_image_proxy.core.snapshot_store import SnapshotStore
from container_image_proxy.errors import Error, PolicyRejectedError
from container_image_proxy.image.platform import Platform
from container_image_proxy.policy.model import parse_policy
from container_image_proxy.transports.table import parse_image_reference
from tests.support.contexts import ACCESS, CONTEXT
from tests.support.daemon import RunningDaemon, command, stand_alone, write_policy
from tests.support.layouts import OCI_MANIFEST, Layout, StoredImage, layer_tar, multi_arch
from tests.support.makers import Made, Maker, makers
from tests.support.privilege import needs_root, ordinary_user, public_directory
from tests.support.waiting import await_true

ACCEPT = [{"type": "insecureAcceptAnything"}]
LARGE = 8 << 20  # more than a stream holds at a time, and more than sockets buffer
SECRET = b"what lies outside of the image"


def stored(layout: Path, *, large: int = 0, layers: list[bytes] | None = None) -> StoredImage:
    """An image of two layers in a new layout, named ``latest``; the second has so many bytes that do not compress."""
    tars = layers or [layer_tar({"etc/motd": b"hello\n"}), layer_tar({"large": os.urandom(large) or b"x"})]
    return Layout(layout).image(tars, name="latest")


@contextlib.contextmanager
def serving(directory: Path, reference: str, *options: str) -> Iterator[RunningDaemon]:
    policy = ["--policy", str(write_policy(directory))]
    platform = ["--override-os", "linux", "--override-arch", "amd64"]
    with stand_alone(directory / "run", [*policy, *platform, *options, reference]) as daemon:
        yield daemon


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def arrived_whole(daemon: RunningDaemon, target: str) -> bool:
    """Whether there was a complete answer with status 200."""
    try:
        return daemon.get(target).status == 200
    except (http.client.IncompleteRead, ConnectionError):
        return False


@makers()
def test_manifest_configuration_and_blobs_come_out_as_they_are(tmp_path: Path, maker: Maker) -> None:
    made = maker.make(tmp_path / "layout", stored(tmp_path / "layout"), tmp_path / "made")
    with serving(tmp_path, made.reference) as daemon:
        reply = daemon.get("/manifest")
        assert (reply.status, reply.headers["content-type"]) == (200, OCI_MANIFEST), reply.body
        assert reply.headers["manifest-digest"] == (made.digest or digest_of(reply.body))
        manifest = reply.json
        config = daemon.get("/config")
        assert digest_of(config.body) == manifest["config"]["digest"]
        assert made.config in {None, config.body}
        blobs = [daemon.get(f"/blobs/{one['digest']}").body for one in manifest["layers"]]
        assert tuple(blobs) == made.layers
        for descriptor, blob in zip(manifest["layers"], blobs, strict=True):
            assert (descriptor["digest"], descriptor["size"]) == (digest_of(blob), len(blob))
        unpacked = [gzip.decompress(blob) if blob.startswith(b"\x1f\x8b") else blob for blob in blobs]
        assert config.json["rootfs"]["diff_ids"] == [digest_of(tar) for tar in unpacked]


@makers()
def test_as_a_registry_it_has_the_original_manifest_or_the_one_that_is_served(tmp_path: Path, maker: Maker) -> None:
    made = maker.make(tmp_path / "layout", stored(tmp_path / "layout"), tmp_path / "made")
    with serving(tmp_path, made.reference) as daemon:
        (tag,) = daemon.get("/v2/image/tags/list").json["tags"]
        reply = daemon.get(f"/v2/image/manifests/{tag}")
        assert reply.status == 200, reply.body
        digest = reply.headers["docker-content-digest"]
        is_rebuilt = made.reference.startswith("containers-storage:")  # the layers' tars are others than the registry's
        original = None if is_rebuilt else made.digest
        assert digest == digest_of(reply.body) == (original or digest_of(daemon.get("/manifest").body))
        assert daemon.get(f"/v2/image/manifests/{digest}").body == reply.body
        for descriptor in (reply.json["config"], *reply.json["layers"]):
            blob = daemon.get(f"/v2/image/blobs/{descriptor['digest']}")
            assert (digest_of(blob.body), len(blob.body)) == (descriptor["digest"], descriptor["size"])


@makers()
def test_a_part_of_a_blob_is_that_part(tmp_path: Path, maker: Maker) -> None:
    made = maker.make(tmp_path / "layout", stored(tmp_path / "layout", large=LARGE), tmp_path / "made")
    large = made.layers[1]
    with serving(tmp_path, made.reference) as daemon:
        for first, stop in ((5 << 20, len(large)), (5 << 20, 6 << 20), (0, 10), (len(large) - 1, len(large))):
            reply = daemon.get(f"/blobs/{digest_of(large)}", {"Range": f"bytes={first}-{stop - 1}"})
            assert (reply.status, reply.body) == (206, large[first:stop])


@makers("make_list")
def test_a_list_is_resolved_for_the_platform(tmp_path: Path, maker: Maker) -> None:
    images = multi_arch(tmp_path / "layout")
    assert maker.make_list is not None
    with serving(tmp_path, maker.make_list(tmp_path / "layout", tmp_path / "made")) as daemon:
        for platform, image in images.items():
            reply = daemon.get(f"/manifest?platform={platform}")
            assert reply.headers["manifest-digest"] == image.digest
            assert reply.headers["index-digest"]
            assert daemon.get(f"/config?platform={platform}").body == image.config
            layer = daemon.get(f"/blobs/{reply.json['layers'][0]['digest']}").body
            assert layer in {image.layers[0], gzip.decompress(image.layers[0])}
        assert daemon.get("/manifest?platform=linux/s390x").status == 404


@makers(own=True)
def test_an_abbreviated_digest_is_enough_and_an_unknown_one_is_not_found(tmp_path: Path, maker: Maker) -> None:
    made = maker.make(tmp_path / "layout", stored(tmp_path / "layout"), tmp_path / "made")
    with serving(tmp_path, made.reference) as daemon:
        for blob in made.layers:
            assert daemon.get(f"/blobs/{digest_of(blob)[:20]}").body == blob
        assert daemon.get(f"/blobs/{digest_of(SECRET)}").status == 404


@makers()
def test_a_layer_without_files_is_served(tmp_path: Path, maker: Maker) -> None:
    image = stored(tmp_path / "layout", layers=[layer_tar({}), layer_tar({"a": b""})])
    made = maker.make(tmp_path / "layout", image, tmp_path / "made")
    with serving(tmp_path, made.reference) as daemon:
        assert [daemon.get(f"/blobs/{digest_of(blob)}").body for blob in made.layers] == list(made.layers)


@makers(own=True)
def test_several_blobs_are_read_at_once(tmp_path: Path, maker: Maker) -> None:
    made = maker.make(tmp_path / "layout", stored(tmp_path / "layout", large=LARGE), tmp_path / "made")
    large = made.layers[1]
    with serving(tmp_path, made.reference) as daemon, contextlib.ExitStack() as stack:
        replies = [stack.enter_context(daemon.open(f"/blobs/{digest_of(large)}")) for _ in range(4)]
        heads = [reply.read(100_000) for reply in replies]
        assert daemon.get(f"/blobs/{digest_of(made.layers[0])}").body == made.layers[0]
        assert {head + reply.read() for head, reply in zip(heads, replies, strict=True)} == {large}


def damage_spots(made: Made) -> list[tuple[str, bytes]]:
    """The blobs that can be damaged: digest and content."""
    return [(digest_of(blob), blob) for blob in made.layers if digest_of(blob) in made.spots]


def tells_the_place(daemon: RunningDaemon, path: Path, digest: str) -> bool:
    """Whether a line of the log names the blob and the file that it lies in."""
    return any(digest in line and str(path) in line for line in daemon.log_text().splitlines())


@makers(own=True)
@pytest.mark.parametrize("damage", ["corrupt", "truncated"])
def test_a_damaged_blob_never_arrives_whole(tmp_path: Path, maker: Maker, damage: str) -> None:
    made = maker.make(tmp_path / "layout", stored(tmp_path / "layout", large=LARGE), tmp_path / "made")
    if not made.spots:
        pytest.skip("no file has the blobs of this format as they are")
    with serving(tmp_path, made.reference) as daemon:
        assert daemon.get("/manifest").status == 200
        for digest, blob in damage_spots(made):
            spot = made.spots[digest]
            with spot.path.open("r+b") as file:
                if damage == "corrupt":
                    file.seek(spot.start + len(blob) // 2)
                    file.write(b"other bytes")
                else:
                    file.truncate(spot.start + len(blob) - 1)
            assert not arrived_whole(daemon, f"/blobs/{digest}"), damage
            await_true(partial(tells_the_place, daemon, spot.path, digest), "the log says where that was")


@makers(own=True)
def test_an_image_whose_file_was_cut_is_never_served_whole(tmp_path: Path, maker: Maker) -> None:
    made = maker.make(tmp_path / "layout", stored(tmp_path / "layout", large=LARGE), tmp_path / "made")
    if made.unreadable is None or not made.unreadable.is_file():
        pytest.skip("the image is not in one file")
    with serving(tmp_path, made.reference) as daemon:
        os.truncate(made.unreadable, made.unreadable.stat().st_size // 2)
        manifest = daemon.get("/manifest")
        if manifest.status == 200:
            digests = [one["digest"] for one in manifest.json["layers"]]
            served = [digest_of(blob) for blob in made.layers]
            assert digests != served or not all(arrived_whole(daemon, f"/blobs/{digest}") for digest in digests)
        else:
            assert manifest.status == 502
            assert str(made.unreadable.parent) in manifest.json["detail"]
            assert not manifest.json["retryable"]


@pytest.mark.demand("DIR-toctou")
@makers(own=True)
def test_a_blob_that_changes_while_it_is_read_never_arrives_whole(tmp_path: Path, maker: Maker) -> None:
    made = maker.make(tmp_path / "layout", stored(tmp_path / "layout", large=LARGE), tmp_path / "made")
    if not made.spots:
        pytest.skip("no file has the blobs of this format as they are")
    digest, blob = damage_spots(made)[-1]
    with serving(tmp_path, made.reference) as daemon, daemon.open(f"/blobs/{digest}") as reply:
        head = reply.read(1000)
        with made.spots[digest].path.open("r+b") as file:
            file.seek(made.spots[digest].start + len(blob) - 1000)
            file.write(bytes(500))
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            reply.read()
        assert head == blob[:1000]


@makers(own=True)
def test_an_image_that_is_replaced_is_another_image(tmp_path: Path, maker: Maker) -> None:
    first = maker.make(tmp_path / "one", stored(tmp_path / "one"), tmp_path / "made")
    if not first.spots:
        pytest.skip("no file has the blobs of this format as they are")
    with serving(tmp_path, first.reference) as daemon:
        old = daemon.get("/manifest").headers["manifest-digest"]
        (tmp_path / "made").rename(tmp_path / "old")
        other = stored(tmp_path / "two", layers=[layer_tar({"b": b"2"}), layer_tar({"c": b"3"})])
        second = maker.make(tmp_path / "two", other, tmp_path / "made")
        assert daemon.get(f"/blobs/{digest_of(first.layers[0])}").body == first.layers[0], "what is open stays"
        while (reply := daemon.get("/manifest")).headers["manifest-digest"] == old:
            pass  # until the snapshot is no longer fresh
        assert digest_of(daemon.get(f"/blobs/{reply.json['layers'][0]['digest']}").body) == digest_of(second.layers[0])


@needs_root
@makers(own=True)
def test_what_may_not_be_read_is_named_with_the_reason(tmp_path: Path, maker: Maker) -> None:
    with public_directory() as public:
        made = maker.make(tmp_path / "layout", stored(tmp_path / "layout"), public / "made")
        if made.unreadable is None:
            pytest.skip("nothing of this format is a file that could be closed")
        made.unreadable.chmod(0)
        with ordinary_user():
            source = parse_image_reference(made.reference).open_source(ACCESS)
            with contextlib.closing(source), pytest.raises(Error) as told:
                source.fetch_manifest(CONTEXT)
    assert str(made.unreadable) in str(told.value)
    assert "Permission denied" in str(told.value)
    assert not getattr(told.value, "retryable", False)


@makers(own=True, each_once=True)
def test_policy_knows_the_image_by_each_scope_that_holds_it(tmp_path: Path, maker: Maker) -> None:
    made = maker.make(tmp_path / "layout", stored(tmp_path / "layout"), tmp_path / "made")
    reference = parse_image_reference(made.reference)
    scopes = dict.fromkeys((reference.policy_identity, *reference.policy_namespaces, ""))
    for scope in scopes:
        rules = {"default": ACCEPT, "transports": {reference.transport: {scope: [{"type": "reject"}]}}}
        policy = parse_policy(json.dumps(rules).encode(), "policy.json")
        served = ServedImage("image", reference, Platform("linux", "amd64"), 0.0)
        proxy = Proxy(
            {"image": served},
            policy,
            lambda reference, earlier, state: reference.open_source(ACCESS, earlier, state),
            SnapshotStore(None),
        )
        with contextlib.closing(proxy), pytest.raises(PolicyRejectedError) as told:
            proxy.resolve(CONTEXT, "image")
        name = f"{reference.transport}|{scope}" if scope else reference.transport
        assert f"(scope {name})" in str(told.value)


@pytest.mark.demand("DIR-symlink")
@pytest.mark.demand("TAR-traversal")
@makers("hostile")
def test_a_hostile_image_gives_nothing_from_outside(tmp_path: Path, maker: Maker) -> None:
    (tmp_path / "outside").write_bytes(SECRET)
    for number, make in enumerate(maker.hostile.values()):
        directory = tmp_path / str(number)
        directory.mkdir()
        reference = make(directory / "made", tmp_path / "outside")
        with serving(directory, reference) as daemon:
            manifest = daemon.get("/manifest")
            replies = [manifest, daemon.get("/config")]
            if manifest.status == 200:
                replies += [daemon.get(f"/blobs/{one['digest']}") for one in manifest.json["layers"]]
            assert any(reply.status != 200 for reply in replies), reference
            assert not any(SECRET in reply.body for reply in replies)


@makers("clutter")
def test_ten_thousand_members_do_no_harm(tmp_path: Path, maker: Maker) -> None:
    made = maker.make(tmp_path / "layout", stored(tmp_path / "layout"), tmp_path / "made")
    assert maker.clutter is not None
    maker.clutter(made)
    with serving(tmp_path, made.reference) as daemon:
        assert daemon.get("/manifest").headers["manifest-digest"] == made.digest or made.digest is None
        assert daemon.get(f"/blobs/{digest_of(made.layers[0])}").body == made.layers[0]


@makers("sparse")
def test_a_layer_of_5_gib_has_its_size(tmp_path: Path, maker: Maker) -> None:
    assert maker.sparse is not None
    reference, digest = maker.sparse(tmp_path / "made", 5 << 30)
    with serving(tmp_path, reference) as daemon:
        assert daemon.get("/manifest").json["layers"][0]["size"] == 5 << 30
        assert daemon.request("HEAD", f"/blobs/{digest}").headers["content-length"] == str(5 << 30)
        with daemon.open(f"/blobs/{digest}") as reply:
            assert reply.read(1 << 20) == bytes(1 << 20)


@makers()
def test_check_tells_what_could_be_read(tmp_path: Path, maker: Maker) -> None:
    made = maker.make(tmp_path / "layout", stored(tmp_path / "layout"), tmp_path / "made")
    options = ["--check", "--policy", str(write_policy(tmp_path)), made.reference]
    done = subprocess.run(command(*options), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if made.digest is not None:
        assert made.digest in done.stdout, done.stdout
