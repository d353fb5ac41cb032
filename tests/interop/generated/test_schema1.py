"""Random manifests of Docker's schema 1: both make the same image of them, byte for byte, or none."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import subprocess
from pathlib import Path
from typing import Any

from container_image_proxy.core.proxy import Proxy, ServedImage
from container_image_proxy.core.snapshot_store import SnapshotStore
from container_image_proxy.errors import Error
from container_image_proxy.image.platform import Platform
from container_image_proxy.policy.model import insecure_policy
from container_image_proxy.transports.table import parse_image_reference
from tests.support.contexts import ACCESS, CONTEXT
from tests.support.generated import Skopeo
from tests.support.layouts import layer_tar
from tests.support.schema1 import schema1, sign, write_directory

_LAYERS = [gzip.compress(layer_tar({f"{number}": b"x" * number}), mtime=0) for number in range(3)]
_TIMES = (
    "2020-01-01T00:00:00Z",
    "2019-12-31T23:59:59.120300000+01:00",
    "1970-01-01T00:00:00.000Z",
    "yesterday",
    5,
    None,
)
_TEXTS = ("", "plain", "<a> & b", "\u2028 \x7f \u00e9 \U0001f600", '"\\/')
_CONFIG: dict[str, tuple[Any, ...]] = {
    "User": ("", "root", "0:0", None, 5),
    "ExposedPorts": ({}, {"80/tcp": {}, "443/tcp": {}}, None, []),
    "Env": ([], ["A=b", "C=<d>"], None, "A=b"),
    "Entrypoint": ([], ["/bin/sh", "-c"], None),
    "Cmd": ([], ["x & y"], None, [5]),
    "Volumes": ({}, {"/b": {}, "/a": {}}, None),
    "WorkingDir": ("", "/srv"),
    "Labels": ({}, {"z": "1", "a": "<2>", "\u00e9": ""}, None, {"a": 5}),
    "StopSignal": ("", "SIGINT"),
    "ArgsEscaped": (True, False),
    "Healthcheck": ({"Test": ["CMD", "true"]},),
    "Hostname": ("host",),
}
_NEWEST: dict[str, tuple[Any, ...]] = {
    "created": _TIMES,
    "author": (*_TEXTS, None),
    "comment": _TEXTS,
    "architecture": ("amd64", "arm64", ""),
    "os": ("linux", ""),
    "docker_version": ("", "1.8.2", "1.8.3", "1.12.6", "17.06.0-ce", "dev"),
    "throwaway": (True, False),
    "Size": (5,),
    "container_config": (None, {}, {"Cmd": None}, {"Cmd": list(_TEXTS)}),
    "parent_id": ("x",),
}
_TOP: dict[str, tuple[Any, ...]] = {
    "schemaVersion": (1, 2, None),
    "history": ([], None),
    "fsLayers": ([], None),
    "layers": (None, []),
    "name": (None, "x"),
    "unknown": ({},),
}


def bend(dice: random.Random, document: dict[str, Any], odd: dict[str, tuple[Any, ...]], most: int) -> None:
    for name in dice.sample(sorted(odd), dice.randrange(most + 1)):
        document[name] = dice.choice(odd[name])


def make(dice: random.Random) -> bytes:
    layers = [dice.choice([*_LAYERS, None]) for _ in range(dice.randrange(1, 5))]
    config: dict[str, Any] = {}
    bend(dice, config, _CONFIG, 5)
    newest: dict[str, Any] = {"config": dice.choice([config, config, config, None])}
    bend(dice, newest, _NEWEST, 4)
    document = schema1(layers, **newest)
    if dice.random() < 0.2:
        bend(dice, document, _TOP, 1)
    return sign(document)[0] if dice.random() < 0.5 else json.dumps(document).encode()


def what_we_make(reference: str) -> bytes | None:
    served = ServedImage("image", parse_image_reference(reference), Platform("linux", "amd64"), 0.0)
    proxy = Proxy(
        {"image": served},
        insecure_policy(),
        lambda reference, earlier, state: reference.open_source(ACCESS, earlier, state),
        SnapshotStore(None),
    )
    with contextlib.closing(proxy):
        try:
            snapshot = proxy.resolve(CONTEXT, "image")
            for blob in snapshot.manifest.blobs:
                proxy.open_blob(CONTEXT, snapshot, blob).read_all()
        except Error:
            return None
        return snapshot.manifest.raw


def what_skopeo_makes(skopeo: Skopeo, reference: str, place: Path) -> bytes | None:
    copy = [skopeo.path, "copy", "--quiet", "--insecure-policy", "--format", "oci", reference, f"oci:{place}:latest"]
    if subprocess.run(copy, capture_output=True, check=False).returncode:
        return None
    index = json.loads((place / "index.json").read_text())
    return (place / "blobs" / Path(*index["manifests"][0]["digest"].split(":"))).read_bytes()


def test_both_make_the_same_image_of_it(dice: random.Random, skopeo: Skopeo, tmp_path: Path) -> None:
    raw = make(dice)
    reference = write_directory(tmp_path / "image", raw, _LAYERS)
    assert what_we_make(reference) == what_skopeo_makes(skopeo, reference, tmp_path / "copied"), raw.decode()
