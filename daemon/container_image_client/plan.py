"""What an update would fetch, from manifests alone: layers that are new, kept and no longer used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from container_image_client.documents import Descriptor, Manifest, is_digest, parse_manifest
from container_image_client.errors import DestinationError
from container_image_client.layout import LayoutPath
from container_image_client.transfers import is_there
from container_image_client.transport import MAX_DOCUMENT

if TYPE_CHECKING:
    from container_image_client.client import Client


@dataclass(frozen=True, slots=True)
class Plan:
    """The difference between an image and what is there. ``size`` is what would be fetched, configuration included."""

    manifest: Manifest
    added: tuple[Descriptor, ...]
    kept: tuple[Descriptor, ...]
    removed: tuple[Descriptor, ...]
    size: int


def make_plan(client: Client, have: str) -> Plan:
    """The plan for who has ``oci:DIR``, a manifest in a file, or an image that the daemon still knows by its digest."""
    manifest = client.manifest()
    present = _blobs_of(client, have)
    added = tuple(layer for layer in dict.fromkeys(manifest.layers) if layer.digest not in present)
    wanted = {layer.digest for layer in manifest.layers}
    return Plan(
        manifest,
        added,
        kept=tuple(layer for layer in dict.fromkeys(manifest.layers) if layer.digest in present),
        removed=tuple(blob for digest, (blob, is_layer) in present.items() if is_layer and digest not in wanted),
        size=sum(blob.size for blob in manifest.blobs if blob.digest not in present),
    )


def _blobs_of(client: Client, have: str) -> dict[str, tuple[Descriptor, bool]]:
    """What is there by digest: the blob, and whether it is a layer."""
    if have.startswith("oci:"):
        layout = LayoutPath.parse(have)
        blobs = _blobs(layout.manifests())
        return {digest: row for digest, row in blobs.items() if is_there(layout, row[0])}
    if is_digest(have):
        return _blobs([client.original_manifest(have)])
    try:
        with Path(have).open("rb") as file:
            return _blobs([file.read(MAX_DOCUMENT)])
    except OSError as error:
        remedy = "name oci:DIR, the file of a manifest, or a manifest's digest"
        raise DestinationError(f"{have} cannot be read: {error.strerror}", remedy=remedy) from error


def _blobs(manifests: list[bytes]) -> dict[str, tuple[Descriptor, bool]]:
    found: dict[str, tuple[Descriptor, bool]] = {}
    for raw in manifests:
        config, layers, _ = parse_manifest(raw)
        found[config.digest] = (config, False)
        found.update({layer.digest: (layer, True) for layer in layers})
    return found
