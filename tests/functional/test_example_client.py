"""contrib/client against the daemon: a whole image, and one whose layer turns out wrong on its way."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

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


def test_all_parts_are_of_the_version_whose_manifest_was_fetched(
    daemon: RunningDaemon, layout: Layout, image: StoredImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tag moves, and another client lets the daemon know, when this one has its manifest."""
    loader = SourceFileLoader("client", str(CLIENT))
    client = module_from_spec(spec_from_loader("client", loader))  # type: ignore[arg-type]
    loader.exec_module(client)
    get = client.get

    def get_while_the_tag_moves(connection: Any, path: str) -> Any:
        response = get(connection, path)
        if path == "/manifest":
            newer = layout.image([layer_tar({"newer": b""})], name="1")
            until = time.monotonic() + 30
            while daemon.get("/manifest").headers["manifest-digest"] != newer.digest and time.monotonic() < until:
                pass
        return response

    monkeypatch.setattr(client, "get", get_while_the_tag_moves)
    connection = client.UnixConnection(str(daemon.socket))
    with contextlib.closing(connection):
        client.fetch_image(connection, tmp_path, None)
    assert daemon.get("/config").headers["manifest-digest"] != image.digest
    assert (tmp_path / "manifest.json").read_bytes() == image.manifest
    assert (tmp_path / "config.json").read_bytes() == image.config


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
