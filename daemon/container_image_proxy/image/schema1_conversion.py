"""Converts Docker's manifests of schema 1 to OCI, byte for byte as ``skopeo copy --format oci`` does.

The configuration is made from the records of the layers. Its DiffIDs and the sizes of the layers come from the caller,
who has downloaded and decompressed the layers (contrib/adr/0037).
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct, field

from container_image_proxy.errors import InvalidManifestError, shown
from container_image_proxy.image.convert import serialise
from container_image_proxy.image.descriptor import Descriptor
from container_image_proxy.image.digest import Digest, digest_of
from container_image_proxy.image.manifest import Manifest
from container_image_proxy.image.media_types import OCI_CONFIG, OCI_MANIFEST
from container_image_proxy.image.schema1 import LayerRecord, read_record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from container_image_proxy.image.schema1 import Schema1Manifest

_NO_TIME: Final = "0001-01-01T00:00:00Z"
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:[.,](\d+))?(Z|[+-]\d\d:\d\d)", re.ASCII)
_NANOSECONDS: Final = 9
_GO_ESCAPES: Final = {"<": r"\u003c", ">": r"\u003e", "&": r"\u0026", "\u2028": r"\u2028", "\u2029": r"\u2029"}
_BEFORE_COMPLETE_CONFIGURATIONS: Final = (1, 8, 3)
"""Versions of Docker before this one wrote incomplete configurations. Readers must add the missing members."""


class UnpackedLayer(Struct, frozen=True):
    """What is known of a layer after it was downloaded and decompressed. ``size`` is in bytes.

    ``digest`` and ``size`` are those of the blob that is served, which for a store is the uncompressed tar.
    """

    digest: Digest
    size: int
    diff_id: Digest
    media_type: str


class _ImageConfig(Struct, frozen=True, rename="pascal"):
    """The members of ``config`` in OCI's configuration (image-spec, config.md), in the order in which Go writes
    them.
    """

    user: str | None = None
    exposed_ports: dict[str, Any] | None = None
    env: list[str] | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    volumes: dict[str, Any] | None = None
    working_dir: str | None = None
    labels: dict[str, str] | None = None
    stop_signal: str | None = None
    args_escaped: bool | None = None


class _Configuration(Struct, frozen=True):
    """The members of OCI's configuration that come from the newest layer's record."""

    created: str | None = None
    author: str | None = None
    architecture: str | None = None
    os: str | None = None
    os_version: str | None = field(name="os.version", default=None)
    os_features: list[str] | None = field(name="os.features", default=None)
    variant: str | None = None
    config: _ImageConfig | None = None
    docker_version: str | None = None


def convert_schema1(manifest: Schema1Manifest, unpacked: Mapping[Digest, UnpackedLayer]) -> tuple[Manifest, bytes]:
    """The OCI manifest, and the JSON text of its configuration. ``unpacked`` must have each layer of the manifest.

    :class:`InvalidManifestError` if the newest layer's record is no configuration, or has a malformed time.
    """
    known = [unpacked[digest] for digest in manifest.layers]
    config = _make_configuration(manifest, [layer.diff_id for layer in known])
    descriptors = [Descriptor(layer.media_type, layer.digest, layer.size) for layer in known]
    named = Descriptor(OCI_CONFIG, digest_of(config), len(config))
    raw = serialise(named, descriptors)
    return Manifest(raw, OCI_MANIFEST, digest_of(raw), named, tuple(descriptors)), config


def _make_configuration(manifest: Schema1Manifest, diff_ids: Sequence[Digest]) -> bytes:
    read = read_record(manifest.configuration, _Configuration, "history[0].v1Compatibility")
    # A version that is not told is not old. Digits are cut, because int() refuses a number of thousands of them.
    version = read.docker_version or ""
    numbers = tuple(int(part.lstrip("0")[:9] or 0) if part.isdecimal() else 0 for part in version.split("."))
    is_old = bool(version) and numbers < _BEFORE_COMPLETE_CONFIGURATIONS
    created = _NO_TIME if is_old and not read.created else read.created
    platform = {"architecture": read.architecture or "", "os": read.os or ""}
    os_details = {} if is_old else {"os.version": read.os_version, "os.features": read.os_features}
    document = {
        **_present({"created": created and _time(created), "author": read.author}),
        **platform,
        **_present({**os_details, "variant": read.variant}),
        "config": _runtime(read.config or _ImageConfig()),
        "rootfs": {"type": "layers", "diff_ids": [str(digest) for digest in diff_ids] or None},
        "history": [_history(layer.record) for layer in reversed(manifest.history)],
    }
    return _as_go_writes(document)


def _runtime(config: _ImageConfig) -> dict[str, object]:
    """The member ``config``. Ports and volumes are maps to empty objects, whatever the values were."""
    members: dict[str, object] = {
        "User": config.user,
        "ExposedPorts": {key: {} for key in sorted(config.exposed_ports or {})},
        "Env": config.env,
        "Entrypoint": config.entrypoint,
        "Cmd": config.cmd,
        "Volumes": {key: {} for key in sorted(config.volumes or {})},
        "WorkingDir": config.working_dir,
        "Labels": dict(sorted((config.labels or {}).items())),
        "StopSignal": config.stop_signal,
        "ArgsEscaped": config.args_escaped,
    }
    return _present(members)


def _history(record: LayerRecord) -> dict[str, object]:
    command = record.container_config.cmd if record.container_config else None
    members = {
        "created": _time(record.created or _NO_TIME),
        "created_by": " ".join(command or ()),
        "author": record.author,
        "comment": record.comment,
        "empty_layer": record.throwaway,
    }
    return _present(members)


def _present(members: Mapping[str, object]) -> dict[str, object]:
    """The members that are not empty, as Go's ``omitempty`` leaves out the others."""
    return {key: value for key, value in members.items() if value}


def _time(text: str) -> str:
    """A time of RFC 3339 as Go writes it: with nanoseconds at most, and without zeros at the end of the fraction."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise InvalidManifestError(f"the manifest has a time that is not RFC 3339: {shown(text)}")
    fraction = (match[2] or "")[:_NANOSECONDS].rstrip("0")
    return match[1] + (f".{fraction}" if fraction else "") + ("Z" if match[3] == "+00:00" else match[3])


def _as_go_writes(document: object) -> bytes:
    """The JSON text that Go's encoding/json makes of the document: it escapes some characters for the sake of HTML."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    for character, escape in _GO_ESCAPES.items():  # JSON has these characters only inside of strings
        text = text.replace(character, escape)
    return text.encode("utf-8")
