"""contrib/client against the daemon: a whole image, and one whose layer turns out wrong on its way."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import RunningDaemon, stand_alone, write_policy
from tests.support.layouts import Layout, StoredImage, layer_tar

CLIENT = Path(__file__).resolve().parents[2] / "contrib" / "client"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


@pytest.fixture
def image(layout: Layout) -> StoredImage:
    return layout.image([layer_tar({"big": bytes(3 << 20)}), layer_tar({"small": b""})], name="1", compression="")


@pytest.fixture
def daemon(tmp_path: Path, layout: Layout, image: StoredImage) -> Iterator[RunningDaemon]:
    policy = write_policy(tmp_path)
    with stand_alone(tmp_path / "daemon", ["--policy", str(policy), f"oci:{layout.path}:1"]) as daemon:
        yield daemon


def _fetch(daemon: RunningDaemon, directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, CLIENT, daemon.socket, directory]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_fetches_every_part(daemon: RunningDaemon, image: StoredImage, tmp_path: Path) -> None:
    done = _fetch(daemon, tmp_path / "fetched")
    assert done.returncode == 0, done.stderr
    assert image.digest in done.stdout
    names = ["manifest.json", "config.json", *(digest.removeprefix("sha256:") for digest in image.layer_digests)]
    fetched = [(tmp_path / "fetched" / name).read_bytes() for name in names]
    assert fetched == [image.manifest, image.config, *image.layers]


@pytest.mark.demand("DIG-blob-mismatch")
def test_a_layer_that_turns_out_wrong_is_not_kept(
    daemon: RunningDaemon, layout: Layout, image: StoredImage, tmp_path: Path
) -> None:
    digest = image.layer_digests[0]
    layout.blob_path(digest).write_bytes(bytes(len(image.layers[0])))
    done = _fetch(daemon, tmp_path / "fetched")
    assert done.returncode == 1
    assert "cut the answer short" in done.stderr
    assert not (tmp_path / "fetched" / digest.removeprefix("sha256:")).exists()
