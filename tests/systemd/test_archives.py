"""Archives in the unit's sandbox: a compressed one is unpacked in the unit's cache directory, and nowhere else."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable

from tests.support.instance import Instance
from tests.support.makers.archives import tar_of_layout

_CACHE = "/var/cache/private/container-image-proxy"


def test_a_compressed_archive_is_unpacked_in_the_unit_s_cache_directory(
    make_instance: Callable[[str], Instance],
) -> None:
    instance = make_instance("archive")
    machine = instance.machine
    image = instance.add_image()
    tar_of_layout(machine.root / "srv/archive/image", machine.root / "srv/archive/image.tar")
    packed = machine.root / "srv/archive/image.tar.gz"
    packed.write_bytes(gzip.compress((machine.root / "srv/archive/image.tar").read_bytes()))
    machine.write(instance.file, '[images.os]\nreference = "oci-archive:/srv/archive/image.tar.gz"\n')
    instance.start()
    manifest = instance.get("/manifest")
    assert (manifest.status, manifest.headers.get("manifest-digest")) == (200, image.digest), manifest.body
    assert instance.get(f"/blobs/{image.layer_digests[0]}").body == image.layers[0]
    pid = instance.show("MainPID")
    open_files = machine.run("find", f"/proc/{pid}/fd", "-printf", "%l\\n").stdout
    assert re.search(rf"{_CACHE}/archive/.* \(deleted\)$", open_files, re.MULTILINE), open_files
    assert machine.run("stat", "--format=%a", f"{_CACHE}/archive").stdout.strip() == "700"
    assert machine.run("find", f"{_CACHE}/archive", "-mindepth", "1").stdout == ""
