"""Random indexes and manifests, odd ones among them: both choose the same image, or refuse it."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from tests.support.generated import Bench, Result, answer_image, check, some
from tests.support.layouts import StoredImage, single_image
from tests.support.manifests import DOCKER_LAYER, OCI_LAYER, descriptor, docker_manifest, instance, oci_manifest
from tests.support.upstream import Connection, ReceivedRequest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
_LABELS = (
    "text/plain",
    "application/json",
    "application/octet-stream",
    "",
    OCI_MANIFEST,
    OCI_INDEX,
    DOCKER_MANIFEST,
    DOCKER_LIST,
)
_ABSENT = "(absent)"
_PLATFORMS: tuple[Any, ...] = (
    *({}, {"os": "linux"}, {"architecture": "amd64"}, {"os": None, "architecture": None}, None, _ABSENT, "linux", 5),
    {"os": "plan10", "architecture": "amd64"},
    {"os": "unknown", "architecture": "unknown"},
    {"os": "linux", "architecture": "amd64", "variant": None},
    {"os": "linux", "architecture": "amd64", "os.version": 5},
    {"os": "windows", "architecture": "amd64", "os.version": "10.0.1", "os.features": ["win32k"]},
    {"os": 5, "architecture": "amd64"},
)
_ODD: dict[str, tuple[Any, ...]] = {
    "digest": ("md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:00", "", None, 5, _ABSENT),
    "size": (-1, None, "5", 0, 1.5, 3, _ABSENT),
    "mediaType": (None, "", 5, "text/plain", f"{OCI_LAYER}; charset=utf-8", DOCKER_LAYER, OCI_LAYER, _ABSENT),
    "annotations": (None, {"a": None}, {"a": 5}, "none", {"a": "b"}),
    "urls": (None, ["../x"], [None], "none"),
    "data": (None, "e30=", "!!!", 5),
    "artifactType": (None, 5, "x/y"),
    "platform": _PLATFORMS,
    "unknown": ({"a": [1, None]},),
    "Size": (5,),
    "Annotations": ({},),
}
_MEMBERS: dict[str, tuple[Any, ...]] = {
    "schemaVersion": (1, 3, None, "2", _ABSENT),
    "mediaType": ("", "text/plain", None, 5, OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, _ABSENT),
    "annotations": (None, {"a": None}, {"a": 5}, "none"),
    "subject": (None, {}, "none", {"digest": "none"}),
    "artifactType": (None, 5, "x/y"),
    "layers": (None, [], {}, _ABSENT),
    "config": (None, [], _ABSENT),
    "manifests": (None, []),
    "fsLayers": (None, []),
    "history": (None, []),
    "unknown": ({"a": [1, None]},),
    "Layers": ([],),
    "Subject": ({},),
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredImage:
    return single_image(tmp_path_factory.mktemp("layout"))


def bend(dice: random.Random, document: dict[str, Any], odd: dict[str, tuple[Any, ...]]) -> str:
    """Give one member an odd value; what that is, in words."""
    name = dice.choice(sorted(odd))
    value = dice.choice(odd[name])
    if value == _ABSENT:
        document.pop(name, None)
    else:
        document[name] = value
    return f"{name}={json.dumps(value)}"


def make_image(dice: random.Random, stored: StoredImage) -> tuple[dict[str, Any], str, list[str]]:
    """A manifest of the stored image's blobs, its type, and what is odd about it."""
    layer = stored.layers[0]
    is_docker = dice.random() < 0.5
    if is_docker:
        document = docker_manifest(layers=[descriptor(DOCKER_LAYER, layer)])
    else:
        document = oci_manifest(layers=[descriptor(OCI_LAYER, layer)])
    document["config"] = descriptor(document["config"]["mediaType"], stored.config)
    where, target, odd = dice.choice(
        [("layer", document["layers"][0], _ODD), ("config", document["config"], _ODD), ("", document, _MEMBERS)]
    )
    actual = str(document["mediaType"])
    return document, actual, [f"{where} {bend(dice, target, odd)}".strip()] if dice.random() < 0.8 else []


def make_index(dice: random.Random, stored: StoredImage) -> tuple[dict[str, Any], str, list[str]]:
    """An index of the stored image for linux/amd64, and of others; its type, and what is odd about it."""
    wanted = instance("") | {"digest": stored.digest, "size": len(stored.manifest)}
    others = [
        instance(str(number), dice.choice(["linux/s390x", "linux/arm64/v8", "linux/amd64/v2"]))
        for number in range(dice.randrange(3))
    ]
    entries, told = [wanted, *others], []
    if dice.random() < 0.8:
        which = dice.randrange(len(entries))
        told.append(f"{'sibling' if which else 'chosen'} {bend(dice, entries[which], _ODD)}")
    elif dice.random() < 0.3:
        entries.append(dice.choice([None, 5, "none", []]))
        told.append(f"sibling is {json.dumps(entries[-1])}")
    dice.shuffle(entries)
    actual = some(dice, (2, OCI_INDEX), (1, DOCKER_LIST))
    document = {"schemaVersion": 2, "mediaType": actual, "manifests": entries}
    if dice.random() < 0.2:
        members = {name: values for name, values in _MEMBERS.items() if name not in {"manifests", "layers"}}
        told.append(bend(dice, document, members))
    return document, actual, told


def test_the_same_image_is_chosen_or_none(bench: Bench, dice: random.Random, stored: StoredImage) -> None:
    document, actual, told = dice.choice([make_image, make_index])(dice, stored)
    label = dice.choice(_LABELS) if dice.random() < 0.2 else actual
    raw, served = json.dumps(document).encode(), []
    documents = {digest: ("", content) for digest, content in stored.blobs.items()}
    documents |= {"1": (label, raw), stored.digest: (OCI_MANIFEST, stored.manifest)}

    def answer(_: str, request: ReceivedRequest, connection: Connection) -> None:
        if request.path.endswith(stored.digest):
            served.append("the image")
        answer_image(request, connection, documents)

    def report(result: Result) -> str:
        words = " ".join([str(result), *(dict.fromkeys(served) if result.ok else ())])
        served.clear()
        return words

    case = {"type": actual, "odd": "; ".join(told), "labelled": "rightly" if label == actual else f"as {label}"}
    case["document"] = raw.decode()
    with bench.registries(answer):
        bench.write("registries.conf", '[[registry]]\nlocation = "$a"\ninsecure = true\n')
        theirs = bench.ask_skopeo("$a/os:1")
        seen = report(theirs)
        ours = bench.ask_us("$a/os:1")
        check("manifests", bench, case, seen, report(ours), (theirs, ours))
