"""A runtime directory on a disk that is really full: what needs no disk goes on, and what does says so."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import RunningDaemon, activated, write_instance, write_policy
from tests.support.gpg import Signer
from tests.support.layouts import Layout, StoredImage, layer_tar, single_image
from tests.support.requirements import needs_programs, needs_root
from tests.support.upstream import Upstream, answering, by_path, content, image

pytestmark = [needs_root, needs_programs("unshare", "mount"), pytest.mark.demand("disk-full")]

PAGES = 3  # that the disk has beside the one of its root directory
MOUNT = """
mount -t tmpfs -o mode=0700,nr_blocks=$1 tmpfs "$2"
shift 2
exec "$@"
"""


@contextlib.contextmanager
def daemon_on_small_disk(place: Path, settings: str) -> Iterator[tuple[RunningDaemon, Path]]:
    """The daemon, whose runtime directory has three pages, and that directory as this process sees it."""
    (disk := place / "disk").mkdir()
    write_instance(place / "config", "test", settings)
    arguments = ["--instance", "test", "--config-dir", str(place / "config")]
    prefix = ["unshare", "--mount", "--propagation=private", "sh", "-ec", MOUNT, "sh", str(PAGES + 1), str(disk)]
    with activated(place / "run", arguments, environ={"RUNTIME_DIRECTORY": str(disk)}, prefix=prefix) as daemon:
        yield daemon, Path(f"/proc/{daemon.process.pid}/root", *disk.parts[1:])


def image_with_large_manifest(path: Path) -> StoredImage:
    layers = [layer_tar({f"{number}": b"x"}) for number in range(150)]
    return Layout(path).image(layers, name="latest")


def test_what_cannot_be_kept_is_served_all_the_same(tmp_path: Path) -> None:
    stored = image_with_large_manifest(tmp_path / "layout")
    policy = write_policy(tmp_path)
    settings = f'[images.os]\nreference = "oci:{tmp_path}/layout"\n[trust]\npolicy = "{policy}"\n'
    assert len(stored.manifest) > 4 * 4096
    with daemon_on_small_disk(tmp_path, settings) as (daemon, disk):
        assert disk.is_dir()
        for _ in range(2):
            assert daemon.get("/manifest").status == 200
            assert daemon.get("/config").status == 200
            assert daemon.get(f"/blobs/{stored.layer_digests[0]}").body == stored.layers[0]
        assert "cannot keep a snapshot of os in " in daemon.log_text()
        assert "No space left on device" in daemon.log_text()
        assert not [path for path in disk.rglob("*") if path.is_file()]


def test_signatures_are_verified_on_another_disk(tmp_path: Path) -> None:
    stored = single_image(tmp_path / "layout")
    with Signer() as signer, Upstream(answering(404)) as upstream:
        (tmp_path / "signer.gpg").write_bytes(signer.public_key)
        signature = signer.sign_image(f"{upstream.authority}/os:1", stored.digest)
        upstream.handler = by_path({"/signature-1": content(signature)} | image(stored, tag="1"))
        (tmp_path / "registries.d").mkdir()
        (tmp_path / "registries.d/x.yaml").write_text(f"default-docker:\n  lookaside: {upstream.url}/lookaside\n")
        requirement = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": f"{tmp_path}/signer.gpg"}
        policy = write_policy(tmp_path, {"default": [requirement]})
        settings = (
            f'[images.os]\nreference = "docker://{upstream.authority}/os:1"\n[registry]\ntls-verify = false\n'
            f'[trust]\npolicy = "{policy}"\nregistries-d = "{tmp_path}/registries.d"\n'
        )
        with daemon_on_small_disk(tmp_path, settings) as (daemon, disk):
            reply = daemon.get("/manifest")
            assert reply.status == 200, reply.body
            assert reply.headers["signed-by"] == f"openpgp:{signer.fingerprint}"
            assert f"{tmp_path}/disk cannot hold gpg's home directory: No space left on device" in daemon.log_text()
            assert not list(disk.glob("*gpg*"))
