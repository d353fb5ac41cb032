"""OCI image layouts: where blobs are, which images there are, and how one is entered.

An image is in a layout once index.json has its manifest, which is therefore written last. It must not fetch anything.
Spec: OCI image-spec, image-layout.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from container_image_client.destination import sync_directory, write_file
from container_image_client.documents import parse_manifest
from container_image_client.errors import DestinationError, UnsupportedImageError
from container_image_client.hashes import new_hash
from container_image_client.transport import MAX_DOCUMENT

if TYPE_CHECKING:
    from container_image_client.documents import Manifest

_NAME: Final = "org.opencontainers.image.ref.name"
_INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
_MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
_VERSION: Final = b'{"imageLayoutVersion":"1.0.0"}'
_NAME_OF_AN_IMAGE: Final = re.compile(r"[A-Za-z0-9]+(?:(?:[-._:@+]|--|/)[A-Za-z0-9]+)*")  # image-layout.md, annotations


@dataclass(frozen=True, slots=True)
class LayoutPath:
    """A layout, and the name of an image in it if there is one: ``oci:DIR`` or ``oci:DIR:NAME``."""

    directory: Path
    name: str | None

    @classmethod
    def parse(cls, text: str) -> LayoutPath:
        """The form that skopeo and podman know; a directory has no colon."""
        transport, colon, rest = text.partition(":")
        directory, _, name = rest.partition(":")
        if transport != "oci" or not colon or not directory:
            raise DestinationError(f"{text!r} is no layout", remedy="write oci:DIR or oci:DIR:NAME")
        if name and not _NAME_OF_AN_IMAGE.fullmatch(name):
            raise DestinationError(f"{name!r} cannot be the name of an image in a layout")
        return cls(Path(directory), name or None)

    def blob(self, digest: str) -> Path:
        """Where a blob is, or would be."""
        algorithm, _, encoded = digest.partition(":")
        return self.directory / "blobs" / algorithm / encoded

    def manifests(self) -> list[bytes]:
        """The manifests of images that the layout has, or the one with the name."""
        found = []
        for entry in _entries(self.index()):
            if self.name is not None and _name_of(entry) != self.name:
                continue
            with contextlib.suppress(UnsupportedImageError):  # an index within the index, for instance
                raw = self._document(str(entry.get("digest")))
                parse_manifest(raw)
                found.append(raw)
        return found

    def index(self) -> dict[str, Any]:
        """Its index.json."""
        path = self.directory / "index.json"
        try:
            index = json.loads(_read(path))
        except FileNotFoundError:
            raise DestinationError(f"{self.directory} is no OCI layout: it has no index.json") from None
        except ValueError as error:
            raise DestinationError(f"{path} is no JSON") from error
        return index if isinstance(index, dict) else {}

    def _document(self, digest: str) -> bytes:
        hashing = new_hash(digest)
        try:
            raw = _read(self.blob(digest))
        except OSError as error:
            raise DestinationError(f"the layout {self.directory} does not have {digest}: {error.strerror}") from error
        hashing.update(raw)
        if hashing.hexdigest() != digest.partition(":")[2]:
            raise DestinationError(f"the layout {self.directory} has something else as {digest}")
        return raw

    def enter(self, manifest: Manifest, *, sync: bool) -> None:
        """Give the image its name, or none: it moves from the image that had it. All blobs are there already."""
        digest = f"sha256:{hashlib.sha256(manifest.raw).hexdigest()}"
        self.blob(digest).parent.mkdir(parents=True, exist_ok=True)
        write_file(self.blob(digest), manifest.raw, sync=sync)
        write_file(self.directory / "oci-layout", _VERSION, sync=sync)
        if sync:
            # The blobs' names have to be on the disk before the index that needs them, and so has the layout's own.
            blobs = self.directory / "blobs"
            algorithms = (directory for directory in blobs.iterdir() if directory.is_dir())
            for directory in (*algorithms, blobs, self.directory, self.directory.absolute().parent):
                sync_directory(directory)
        entry: dict[str, Any] = {
            "mediaType": manifest.media_type or _MANIFEST_TYPE,
            "digest": digest,
            "size": len(manifest.raw),
        }
        if self.name is not None:
            entry["annotations"] = {_NAME: self.name}
        path = self.directory / "index.json"
        index = self.index() if path.exists() else {"schemaVersion": 2, "mediaType": _INDEX_TYPE}
        index["manifests"] = [*(other for other in _entries(index) if _name_of(other) != self.name), entry]
        write_file(path, json.dumps(index, separators=(",", ":")).encode(), sync=sync)


def _entries(index: dict[str, Any]) -> list[dict[str, Any]]:
    entries = index.get("manifests")
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _name_of(entry: dict[str, Any]) -> str | None:
    annotations = entry.get("annotations")
    name = annotations.get(_NAME) if isinstance(annotations, dict) else None
    return name if isinstance(name, str) else None


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        raw = file.read(MAX_DOCUMENT + 1)
    if len(raw) > MAX_DOCUMENT:
        raise DestinationError(f"{path} is larger than a manifest or index can be")
    return raw
