"""Who supplied a manifest is asked for what belongs to it, whatever else of the image was resolved meanwhile."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.host import Host
from tests.support.layouts import StoredImage, multi_arch
from tests.support.upstream import Handler, Upstream, answering, by_path, content

AMD64, ARM64 = "linux/amd64", "linux/arm64"


def routes(index: bytes, media_type: str, image: StoredImage) -> dict[str, Handler]:
    return {
        "/v2/": answering(200, b"{}"),
        "/manifests/1": content(index, media_type),
        f"/manifests/{image.digest}": content(image.manifest, image.descriptor["mediaType"]),
        **{f"/blobs/{digest}": content(blob) for digest, blob in image.blobs.items()},
    }


def test_each_platforms_blobs_are_asked_for_where_its_manifest_came_from(tmp_path: Path) -> None:
    images = multi_arch(tmp_path / "layout", AMD64, ARM64, name="1")
    named = json.loads((tmp_path / "layout/index.json").read_bytes())["manifests"][-1]
    index = (tmp_path / "layout/blobs" / named["digest"].replace(":", "/")).read_bytes()
    first, second = (by_path(routes(index, named["mediaType"], images[platform])) for platform in (AMD64, ARM64))
    host = Host(tmp_path / "host")
    with Upstream(first) as one, Upstream(second) as two:
        host.write_registries(
            f'[[registry]]\nlocation = "{two.authority}"\ninsecure = true\n'
            f'[[registry.mirror]]\nlocation = "{one.authority}"\ninsecure = true\n'
        )
        with host.daemon({"os": f"docker://{two.authority}/os:1"}) as daemon:
            for platform in (ARM64, AMD64):
                assert daemon.get(f"/manifest?platform={platform}").status == 200
            for platform, upstream in ((AMD64, one), (ARM64, two)):
                for digest in images[platform].blobs:
                    assert daemon.get(f"/blobs/{digest}?platform={platform}").status == 200
                    assert [server.paths()[-1].endswith(digest) for server in (one, two)].count(True) == 1
                    assert upstream.paths()[-1].endswith(digest)
