"""Transcripts of skopeo's image proxy, replayed against ours: a fresh process for each, the same questions in order.

Held against them are success and failure, values, numbers of descriptors, and what came through the pipes. A row that
is answered differently on purpose is named in deviations.toml by what is different about a step.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from tests.support import image_proxy
from tests.support.conformance import DIRECTORY, deviation, rows
from tests.support.image_proxy import Proxy, Reply, read_to_end

_DOCUMENTS = ("GetManifest", "GetConfig", "GetFullConfig", "GetLayerInfo", "GetLayerInfoPiped")
_LAYOUTS = {
    "oci-one": [("6ad6fb3d7d5635244da5bc20efe6651cf1c83df4f97c6b844f2008f7487ca9c7", None)],
    "oci-multi": [
        ("6ad6fb3d7d5635244da5bc20efe6651cf1c83df4f97c6b844f2008f7487ca9c7", "one"),
        ("{index}", "all"),
    ],
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images, with the index.json that the tables leave out."""
    directory = tmp_path_factory.mktemp("images") / "images"
    shutil.copytree(DIRECTORY / "proxy" / "images", directory, copy_function=shutil.copy)
    for layout, entries in _LAYOUTS.items():
        blobs = directory / layout / "blobs" / "sha256"
        manifests = []
        for digest, name in entries:
            found = (
                digest
                if name != "all"
                else next(one.name for one in blobs.iterdir() if b'"manifests"' in one.read_bytes())
            )
            raw = (blobs / found).read_bytes()
            annotations = {"annotations": {"org.opencontainers.image.ref.name": name}} if name else {}
            media_type = json.loads(raw)["mediaType"]
            manifests.append({"mediaType": media_type, "digest": f"sha256:{found}", "size": len(raw), **annotations})
        directory.joinpath(layout).chmod(0o755)
        (directory / layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))
    for policy in directory.glob("policy-*.json"):
        policy.chmod(0o600)
        policy.write_text(policy.read_text().replace("@FIXTURES@", str(DIRECTORY / "signature" / "fixtures")))
    return directory


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("store")
    for driver in ("vfs", "overlay"):
        (directory / driver).mkdir()
        archive = DIRECTORY / "storage" / f"{driver}-store.tar.gz"
        subprocess.run(["tar", "-xzf", archive, "-C", directory / driver], check=True)
    return directory


class _Replay:
    """One transcript."""

    def __init__(self, proxy: Proxy, table: str, row: dict[str, Any], places: dict[str, str]) -> None:
        self.proxy = proxy
        self.table = table
        self.row = row
        self.places = places
        self.image: Any = None
        self.pipe: Any = None

    def place(self, value: Any) -> Any:
        """A value of the table with what is different here."""
        if isinstance(value, list):
            return [self.place(one) for one in value]
        if not isinstance(value, str):
            return value
        if value in ("$img", "$pipe"):
            return self.image if value == "$img" else self.pipe
        for name, there in self.places.items():
            value = value.replace(name, there)
        return value

    def expectation(self, step: dict[str, Any]) -> str:
        """How the project answers a step: "same" unless a deviation says otherwise.

        ``documents`` is what goes wrong later with the documents of an image, which we fetch and verify when it is
        opened.
        """
        steps = self.row["steps"]
        later = takewhile(lambda one: not one["method"].startswith("OpenImage"), steps[steps.index(step) + 1 :])
        replies = [one["reply"] for one in later if one["method"] in _DOCUMENTS]
        documents = " ".join(reply["error"] for reply in replies if isinstance(reply, dict))
        rule = deviation(self.table, {"name": self.row["name"], "documents": documents, **step})
        return rule.expect if rule else "same"

    def run(self) -> None:
        for step in self.row["steps"]:
            if not self.step(step):
                return

    def step(self, step: dict[str, Any]) -> bool:
        """Whether there is anything to be compared after it."""
        expected = self.expectation(step)
        arguments = self.place(step["args"])
        if step["method"] == "RAW":
            self.proxy.send_raw(arguments.encode() if isinstance(arguments, str) else json.dumps(arguments).encode())
        else:
            self.proxy.send(step["method"], *arguments)
        reply = self.proxy.receive()
        if step["reply"] == "<EOF>" and expected == "same":
            assert reply is None
            return False
        assert reply is not None
        if expected in ("error", "refused"):
            assert not reply.success
            assert reply.error
            return expected == "error"
        if expected == "none":
            assert (reply.success, reply.value) == (True, 0)
            return False
        if expected == "verdict is an error":
            self.verify_failure(reply)
            return True
        self.compare(step, reply, expected)
        return True

    def compare(self, step: dict[str, Any], reply: Reply, expected: str) -> None:
        recorded = step["reply"]
        if expected == "ok":
            assert reply.success
            self.read(step, reply)
            return
        assert reply.success == recorded["success"], reply.error
        assert reply.error_code == recorded["error_code"]
        assert bool(reply.error) == bool(recorded["error"])
        assert len(reply.descriptors) == step["n_fds"]
        assert bool(reply.pipeid) == step["has_pipeid"]
        if expected != "other media types":
            assert reply.value == recorded["value"]
        elif step["method"] == "GetLayerInfo":
            assert _without_types(reply.value) == _without_types(recorded["value"])
        if step["method"].startswith("OpenImage") and reply.success:
            self.image = reply.value
        self.read(step, reply, expected)

    def read(self, step: dict[str, Any], reply: Reply, expected: str = "ok") -> None:
        if "fd_data_sha256" in step:
            read = [b"".join(read_to_end(descriptor)) for descriptor in reply.descriptors]
            assert [hashlib.sha256(data).hexdigest() for data in read] == step["fd_data_sha256"]
        elif "data_sha256" in step:
            data, finish = self.proxy.drain(reply)
            if expected == "contains what is recorded":
                assert _contains(json.loads(data), json.loads(step["data"]))
            elif expected == "other media types":
                assert _without_types(json.loads(data)) == _without_types(json.loads(step["data"]))
            elif expected == "the original config":
                ours, recorded = json.loads(data), json.loads(step["data"])
                assert ours.pop("config")["mediaType"] == recorded.pop("config")["mediaType"]
                assert ours == recorded
            elif expected == "same":
                assert hashlib.sha256(data).hexdigest() == step["data_sha256"]
            assert finish.success == step["finish_pipe"]["success"]
        elif reply.pipeid:
            self.pipe = reply.pipeid
            for descriptor in reply.descriptors:  # the transcript goes on with a pipe that nobody reads
                os.close(descriptor)

    def verify_failure(self, reply: Reply) -> None:
        """Wrong content ends short, or is not sent at all, and an error says so."""
        if not reply.success:
            return
        if len(reply.descriptors) == 2:
            data, record = (b"".join(read_to_end(descriptor)) for descriptor in reply.descriptors)
            assert len(data) < reply.value
            assert json.loads(record)["message"]
        else:
            data, finish = self.proxy.drain(reply)
            assert len(data) < reply.value
            assert not finish.success


def _contains(ours: Any, recorded: Any) -> bool:
    """Whether a document has all that a conversion left of it; Go drops what is empty and normalises times."""
    if isinstance(recorded, dict):
        return isinstance(ours, dict) and all(_contains(ours.get(key), value) for key, value in recorded.items())
    return ours == recorded


def _without_types(document: Any) -> Any:
    if isinstance(document, list):
        return [_without_types(one) for one in document]
    if isinstance(document, dict):
        other = ("mediaType", "media_type", "config")
        return {key: _without_types(value) for key, value in document.items() if key not in other}
    return document


def _run(table: str, row: dict[str, Any], places: dict[str, str]) -> None:
    options = [*row["skopeo_args"]]
    policy = row["policy"]
    for name, there in places.items():
        policy = policy.replace(name, there)
    with image_proxy.start(before=["--policy", policy, *options]) as proxy:
        _Replay(proxy, table, row, places).run()


@rows("proxy/transcripts")
def test_transcripts(row: dict[str, Any], images: Path) -> None:
    _run("proxy/transcripts", row, {"@IMAGES@": str(images), "@FIXTURES@": str(DIRECTORY / "signature" / "fixtures")})


@rows("storage/transcripts")
def test_transcripts_of_stores(row: dict[str, Any], images: Path, store: Path) -> None:
    _run("storage/transcripts", row, {"@IMAGES@": str(images), "@STORE@": str(store)})
