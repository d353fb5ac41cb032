"""Images of Docker's schema 1, signed and unsigned, as registries of old have them."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EMPTY_LAYER = gzip.compress(bytes(1024), mtime=0)
JSONObject = dict[str, Any]


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def schema1(layers: Sequence[bytes | None], **newest: Any) -> JSONObject:
    """The manifest of an image whose layers are these, from the lowest up; None is one that is thrown away.

    ``newest`` is what its newest layer says of the image beside the usual.
    """
    entries: list[tuple[str, JSONObject]] = []
    for number, layer in enumerate(layers):
        record: JSONObject = {"id": f"{number:064x}", "created": f"2020-01-01T00:00:{number:02}.500Z"}
        record |= {"container_config": {"Cmd": ["/bin/sh", "-c", f"step <{number}>"]}}
        record |= {"parent": f"{number - 1:064x}"} if number else {}
        record |= {"throwaway": True} if layer is None else {}
        entries.append((digest_of(EMPTY_LAYER if layer is None else layer), record))
    entries[-1][1].update({"architecture": "amd64", "os": "linux", "config": {"Env": ["A=b"], "Healthcheck": {}}})
    entries[-1][1].update(newest)
    entries.reverse()
    return {
        "schemaVersion": 1,
        "name": "some/os",
        "tag": "1",
        "architecture": "amd64",
        "fsLayers": [{"blobSum": digest} for digest, _ in entries],
        "history": [{"v1Compatibility": json.dumps(record)} for _, record in entries],
    }


def sign(manifest: JSONObject, *, protected: JSONObject | None = None, signatures: int = 1) -> tuple[bytes, bytes]:
    """The manifest as a signed one, and the payload that its digest is of. No real key: nobody verifies that."""
    payload = json.dumps(manifest, indent=3).encode()
    length = payload.rindex(b"\n}")
    header = {"formatLength": length, "formatTail": base64url(payload[length:]), "time": "2020-01-01T00:00:00Z"}
    block = {
        "header": {"jwk": {}, "alg": "ES256"},
        "signature": base64url(b"signature"),
        "protected": base64url(json.dumps(header | (protected or {})).encode()),
    }
    raw = payload[:length] + b',\n   "signatures": ' + json.dumps([block] * signatures).encode() + payload[length:]
    return raw, payload


def base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def write_directory(place: Path, manifest: bytes, layers: Sequence[bytes]) -> str:
    """A ``dir:`` image."""
    place.mkdir(parents=True)
    (place / "version").write_text("Directory Transport Version: 1.1\n")
    (place / "manifest.json").write_bytes(manifest)
    for layer in (*layers, EMPTY_LAYER):
        (place / digest_of(layer).partition(":")[2]).write_bytes(layer)
    return f"dir:{place}"
