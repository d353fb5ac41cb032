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

from tests.support.cutter import Cutter
from tests.support.daemon import RunningDaemon, stand_alone, write_policy
from tests.support.layouts import Layout, StoredImage, layer_tar
from tests.support.waiting import await_true

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


def _fetch(socket: Path, directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, CLIENT, socket, directory]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_fetches_every_part(daemon: RunningDaemon, image: StoredImage, tmp_path: Path) -> None:
    done = _fetch(daemon.socket, tmp_path / "fetched")
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

    def get_while_the_tag_moves(connection: Any, path: str, **headers: str) -> Any:
        response = get(connection, path, **headers)
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
    done = _fetch(daemon.socket, tmp_path / "fetched")
    assert done.returncode == 1
    assert "cut the answer short" in done.stderr
    assert not (tmp_path / "fetched" / digest.removeprefix("sha256:")).exists()


def test_it_goes_on_where_a_connection_was_lost(daemon: RunningDaemon, image: StoredImage, tmp_path: Path) -> None:
    relay = tmp_path / "relay.sock"
    with Cutter(relay, daemon.socket, [1 << 20, 1 << 20, 1 << 20]) as cutter:
        done = _fetch(relay, tmp_path / "fetched")
    assert done.returncode == 0, done.stderr
    for digest, layer in zip(image.layer_digests, image.layers, strict=True):
        assert (tmp_path / "fetched" / digest.removeprefix("sha256:")).read_bytes() == layer
    assert sum(cutter.sent) < sum(map(len, image.layers)) + len(image.manifest) + len(image.config) + 8192
    assert any(b"Range: bytes=" in request and b"If-Range: " in request for request in cutter.requests)


def test_a_beginning_that_an_earlier_run_left_is_taken_up(
    daemon: RunningDaemon, image: StoredImage, tmp_path: Path
) -> None:
    digest, layer = image.layer_digests[0], image.layers[0]
    target = tmp_path / "fetched" / digest.removeprefix("sha256:")
    target.parent.mkdir()
    target.with_suffix(".partial").write_bytes(layer[: 2 << 20])
    assert _fetch(daemon.socket, target.parent).returncode == 0
    assert target.read_bytes() == layer
    await_true(lambda: f"/blobs/{digest} 206 {len(layer) - (2 << 20)} bytes" in daemon.log_text(), "the record")


@pytest.mark.demand("mirror-corrupt-blob")
def test_a_wrong_beginning_is_found_out_and_fetched_anew(
    daemon: RunningDaemon, image: StoredImage, tmp_path: Path
) -> None:
    digest, layer = image.layer_digests[0], image.layers[0]
    target = tmp_path / "fetched" / digest.removeprefix("sha256:")
    target.parent.mkdir()
    target.with_suffix(".partial").write_bytes(b"!" + layer[1 : 2 << 20])
    done = _fetch(daemon.socket, target.parent)
    assert done.returncode == 0, done.stderr
    assert "not the beginning of this blob" in done.stderr
    assert target.read_bytes() == layer
