"""The same questions to skopeo's image proxy and to ours, side by side: Debian's 1.9.3, or whichever is installed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import write_policy
from tests.support.image_proxy import Proxy, Reply, initialized, start
from tests.support.layouts import Layout, multi_arch, single_image
from tests.support.registries import docker_registry
from tests.support.requirements import needs_programs

pytestmark = needs_programs("docker-registry", "skopeo")
SKOPEO = ["skopeo"]


class Transcript:
    """What a proxy answered, in words that are the same for every proxy that is right."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.lines: list[tuple[object, ...]] = []

    def ask(self, method: str, *arguments: object) -> Reply:
        reply = self.proxy.call(method, *arguments)
        self.lines.append((method, reply.success, reply.value, len(reply.descriptors), bool(reply.pipeid)))
        return reply

    def read(self, method: str, *arguments: object) -> bytes:
        reply = self.ask(method, *arguments)
        if not reply.descriptors:
            return b""
        data, finish = self.proxy.drain(reply)
        self.lines.append(("FinishPipe", finish.success, finish.value))
        return data

    def note(self, content: object) -> None:
        self.lines.append(("content", content))


def of_image(transcript: Transcript, reference: str) -> None:
    """What a client does with an image that is there."""
    one = transcript.ask("OpenImage", reference).value
    manifest = json.loads(transcript.read("GetManifest", one))
    transcript.note(manifest["layers"])
    transcript.note(_lasting(json.loads(transcript.read("GetFullConfig", one))))
    transcript.note(_lasting(json.loads(transcript.read("GetConfig", one))))
    for layer in manifest["layers"]:
        transcript.note(transcript.read("GetBlob", one, layer["digest"], layer["size"]))
    abandoned = transcript.ask("GetBlob", one, manifest["layers"][0]["digest"], manifest["layers"][0]["size"])
    left = manifest["layers"][0]["size"]
    while left:  # all of it has been written then, in however many pieces it came from the registry
        left -= len(os.read(abandoned.descriptor, left))
    os.close(abandoned.descriptor)
    transcript.ask("FinishPipe", abandoned.pipeid)
    transcript.ask("FinishPipe", abandoned.pipeid)
    transcript.ask("CloseImage", one)
    transcript.ask("GetManifest", one)


def of_mistakes(transcript: Transcript, reference: str) -> None:
    """What a client does wrong."""
    transcript.ask("OpenImage")
    transcript.ask("OpenImage", 5)
    transcript.ask("OpenImage", "no transport")
    transcript.ask("OpenImage", f"{reference}-absent")
    transcript.ask("GetManifest", 7)
    transcript.ask("GetManifest", 0)
    transcript.ask("GetManifest", "one")
    transcript.ask("CloseImage", 1)
    transcript.ask("FinishPipe", 12345)
    transcript.ask("Initialize")
    transcript.ask("Nothing")


def _lasting(document: dict[str, Any]) -> dict[str, Any]:
    """A configuration but for what Go writes although it is empty, or leaves out since it is."""
    return {key: value for key, value in document.items() if value}


@pytest.fixture
def transcripts(tmp_path: Path) -> Callable[[Callable[[Transcript], None]], list[Transcript]]:
    """Runs something against both."""
    options = ["--policy", str(write_policy(tmp_path))]

    def run(ask: Callable[[Transcript], None]) -> list[Transcript]:
        made = []
        for program in (SKOPEO, []):
            with initialized(["--tls-verify=false"], program=program, before=options) as proxy:
                made.append(Transcript(proxy))
                ask(made[-1])
        return made

    return run


@pytest.mark.parametrize("kind", ["oci", "docker", "zstd", "index", "list"])
def test_images_in_a_registry(tmp_path: Path, transcripts: Any, kind: str) -> None:
    layout = tmp_path / "layout"
    if kind in ("index", "list"):
        multi_arch(layout, "linux/amd64", "linux/arm64")
    else:
        Layout(layout).image(name="latest", compression="zstd" if kind == "zstd" else "gzip")
    with docker_registry(tmp_path / "registry") as registry:
        reference = f"docker://{registry.authority}/os:latest"
        registry.push(f"oci:{layout}:latest", "os:latest", *(["--format=v2s2"] if kind in ("docker", "list") else []))
        skopeos, ours = transcripts(lambda transcript: of_image(transcript, reference))
    assert ours.lines == skopeos.lines


def test_layouts_and_mistakes(tmp_path: Path, transcripts: Any) -> None:
    single_image(tmp_path / "layout")
    reference = f"oci:{tmp_path / 'layout'}:latest"
    for questions in (of_image, of_mistakes):
        skopeos, ours = transcripts(lambda transcript, ask=questions: ask(transcript, reference))
        assert ours.lines == skopeos.lines


def test_before_the_greeting_and_at_the_end(tmp_path: Path) -> None:
    answers = []
    for program in (SKOPEO, []):
        with start(program=program, before=["--policy", write_policy(tmp_path)]) as proxy:
            early = proxy.call("OpenImage", "oci:/srv:latest")
            proxy.send("Shutdown")
            answers.append((early.success, early.value, proxy.receive(), proxy.process.wait(60)))
    assert answers[0] == answers[1] == (False, None, None, 0)


def test_wrong_content_fails_with_both(tmp_path: Path, transcripts: Any) -> None:
    layout = Layout(tmp_path / "layout")
    stored = layout.image([bytes(3 << 20)], name="latest", compression="")
    digest = stored.layer_digests[0]
    layout.blob_path(digest).write_bytes(bytes((3 << 20) - 1) + b"\1")
    delivered = {}

    def ask(transcript: Transcript) -> None:
        one = transcript.proxy.value("OpenImage", f"oci:{layout.path}:latest")
        data, finish = transcript.proxy.drain(transcript.ask("GetBlob", one, digest, 3 << 20))
        assert not finish.success
        delivered[len(delivered)] = len(data)

    skopeos, ours = transcripts(ask)
    assert ours.lines == skopeos.lines
    assert delivered[1] < delivered[0] == 3 << 20  # here the last piece does not leave
