"""Snapshots: what an image was when it was last resolved, kept so that its blobs stay servable though its tag moves.

The last ``KEPT`` of each image are kept in memory and, if there is a directory for it, on disk, so that they survive an
exit when idle. A file holds the *unverified* image with its signatures: whoever reads it back evaluates it against the
policy in force then, so that neither a changed policy nor a changed file can make the daemon serve what it should not.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from container_image_proxy.errors import Error, InvalidManifestError
from container_image_proxy.image.digest import parse_digest
from container_image_proxy.image.manifest import Index, Manifest, UntrustedManifest, parse_manifest
from container_image_proxy.image.platform import Platform, parse_platform
from container_image_proxy.image.reference import parse_reference
from container_image_proxy.policy.evaluate import UnverifiedImage
from container_image_proxy.policy.model import UntrustedSignature

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from container_image_proxy.image.digest import Digest
    from container_image_proxy.policy.evaluate import VerifiedImage

KEPT: Final = 8
_MAX_FILE: Final = 32 << 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoredImage:
    """What is kept of a resolved image: everything that verifying it again needs."""

    name: str
    platform: Platform
    image: UnverifiedImage


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A verified image as it is served. ``manifest`` is its OCI form; ``checked_at`` is on the monotonic clock, None if
    restored.
    """

    stored: StoredImage
    verified: VerifiedImage
    manifest: Manifest
    checked_at: float | None

    @property
    def name(self) -> str:
        """The image's name in the instance."""
        return self.stored.name

    @property
    def platform(self) -> Platform:
        """The platform that it was resolved for."""
        return self.stored.platform

    @property
    def manifest_digest(self) -> Digest:
        """The digest of the original manifest, before any conversion."""
        return self.stored.image.manifest.digest

    @property
    def index_digest(self) -> Digest | None:
        """The digest of the index that the reference named, if it named one."""
        return self.stored.image.index.digest if self.stored.image.index else None

    @property
    def top_digest(self) -> Digest:
        """The digest of what the reference named itself."""
        return self.index_digest or self.manifest_digest


class SnapshotStore:
    """Stored images by name, newest first; outlives a reload, and the process if it has a ``directory``."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._images: dict[str, list[StoredImage]] = {}

    def of(self, name: str) -> tuple[StoredImage, ...]:
        """All that are kept of the image, newest first."""
        with self._lock:
            return tuple(self._load(name))

    def add(self, stored: StoredImage) -> None:
        """Make ``stored`` the newest; the same content is kept once, the oldest goes."""
        with self._lock:
            kept = self._load(stored.name)
            if kept and kept[0] == stored:
                return
            kept[:] = [stored, *(one for one in kept if one != stored)][:KEPT]
            self._write(kept)

    def _load(self, name: str) -> list[StoredImage]:
        if name not in self._images:
            self._images[name] = [one for path in reversed(self._files(name)) if (one := _read(path, name)) is not None]
        return self._images[name]

    def _files(self, name: str) -> list[Path]:
        return sorted((self._directory / name).glob("*.json")) if self._directory else []

    def _write(self, kept: list[StoredImage]) -> None:
        """Put the newest on disk. Failing costs a resolution after the next start, so it is no reason to fail a
        request.
        """
        if self._directory is None:
            return
        place = self._directory / kept[0].name
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = place / ".new"
            temporary.write_bytes(encode(kept[0]))
            temporary.replace(place / f"{time.time_ns():020d}.json")
            for path in self._files(kept[0].name)[: -len(kept)]:
                path.unlink()
        except OSError as error:
            _log.warning("cannot keep a snapshot of %s in %s: %s", kept[0].name, place, os.strerror(error.errno or 0))


def _read(path: Path, name: str) -> StoredImage | None:
    try:
        if path.stat().st_size > _MAX_FILE:
            raise InvalidManifestError("larger than any snapshot")
        stored = decode(path.read_bytes())
    except (OSError, Error) as error:
        _log.warning("ignoring the snapshot %s: %s", path, error)
        return None
    return stored if stored.name == name else None


class Snapshots:
    """The verified snapshots of one configuration; ``verify`` turns what the store has into them, or refuses with an
    error.
    """

    def __init__(self, store: SnapshotStore, verify: Callable[[StoredImage], Snapshot | None]) -> None:
        self._store = store
        self._verify = verify
        self._lock = threading.Lock()
        self._snapshots: dict[str, tuple[Snapshot, ...]] = {}

    def of(self, name: str) -> tuple[Snapshot, ...]:
        """The image's snapshots, newest first."""
        with self._lock:
            if name not in self._snapshots:
                restored = (self._restore(stored) for stored in self._store.of(name))
                self._snapshots[name] = tuple(snapshot for snapshot in restored if snapshot is not None)
            return self._snapshots[name]

    def add(self, snapshot: Snapshot) -> None:
        """Make it the newest; one with the same content is replaced."""
        others = [one for one in self.of(snapshot.name) if one.stored != snapshot.stored]
        with self._lock:
            self._snapshots[snapshot.name] = (snapshot, *others)[:KEPT]
        self._store.add(snapshot.stored)

    def _restore(self, stored: StoredImage) -> Snapshot | None:
        try:
            return self._verify(stored)
        except Error as error:
            _log.warning("a kept snapshot of %s is not used: %s", stored.name, error)
            return None


def encode(stored: StoredImage) -> bytes:
    """The file's bytes: JSON with every document in base64."""
    image = stored.image
    record = {
        "name": stored.name,
        "platform": str(stored.platform),
        "transport": image.transport,
        "reference": image.name,
        "docker-reference": str(image.docker_reference) if image.docker_reference else None,
        "policy-identity": image.policy_identity,
        "policy-namespaces": image.policy_namespaces,
        "index": _encode_document(image.index),
        "manifest": _encode_document(image.manifest),
        "signatures": {
            str(digest): [_encode_signature(one) for one in group] for digest, group in image.signatures.items()
        },
    }
    return json.dumps(record).encode()


def _encode_document(document: Manifest | Index | None) -> dict[str, str] | None:
    return {"media-type": document.media_type, "raw": _base64(document.raw)} if document else None


def _encode_signature(signature: UntrustedSignature) -> dict[str, Any]:
    return {
        "kind": signature.kind,
        "blob": _base64(signature.blob),
        "media-type": signature.media_type,
        "annotations": dict(signature.annotations),
        "source": signature.source,
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def decode(raw: bytes) -> StoredImage:
    """Read what :func:`encode` wrote; :class:`InvalidManifestError` (or another :class:`Error`) for anything else."""
    try:
        record = json.loads(raw)
        docker_reference = record["docker-reference"]
        index, manifest = _decode_document(record["index"]), _decode_document(record["manifest"])
        if not isinstance(manifest, Manifest) or not (index is None or isinstance(index, Index)):
            raise InvalidManifestError("a snapshot whose documents have changed places")
        image = UnverifiedImage(
            transport=record["transport"],
            name=record["reference"],
            docker_reference=parse_reference(docker_reference) if docker_reference is not None else None,
            policy_identity=record["policy-identity"],
            policy_namespaces=tuple(record["policy-namespaces"]),
            index=index,
            manifest=manifest,
            signatures={
                parse_digest(digest): tuple(_decode_signature(one) for one in group)
                for digest, group in record["signatures"].items()
            },
        )
        return StoredImage(record["name"], parse_platform(record["platform"]), image)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidManifestError(f"not a snapshot that this version wrote ({type(error).__name__})") from error


def _decode_document(record: dict[str, str] | None) -> Manifest | Index | None:
    if record is None:
        return None
    return parse_manifest(UntrustedManifest(base64.b64decode(record["raw"], validate=True), record["media-type"]))


def _decode_signature(record: dict[str, Any]) -> UntrustedSignature:
    return UntrustedSignature(
        kind=record["kind"],
        blob=base64.b64decode(record["blob"], validate=True),
        media_type=record["media-type"],
        annotations=dict(record["annotations"]),
        source=record["source"],
    )
