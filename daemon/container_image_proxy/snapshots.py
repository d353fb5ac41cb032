"""Snapshots: what an image was when it was last resolved, kept so that its blobs stay servable though its tag moves.

The last ``KEPT`` of each shelf, fewer if they are large, are kept in memory and, if there is a directory for it, on
disk, so that they survive an exit when idle. A file holds what a source delivered, *unverified*, with its signatures:
whoever reads it back judges it under the names that the configuration gives and by the policy in force then, so that
neither a changed policy nor a changed file can make the daemon serve what it should not.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import threading
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

from container_image_proxy.errors import Error, InvalidManifestError
from container_image_proxy.image.digest import parse_digest
from container_image_proxy.image.manifest import Index, Manifest, UntrustedManifest, parse_manifest
from container_image_proxy.image.platform import Platform, parse_platform
from container_image_proxy.policy.signature_blob import UntrustedSignature

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from container_image_proxy.image.digest import Digest
    from container_image_proxy.policy.evaluate import VerifiedImage

KEPT: Final = 8
SHELF_SIZE: Final = 8 << 20
"""Bytes of documents and signatures on one shelf that holds more than one image; parsed, they take some times that."""
_MAX_FILE: Final = 32 << 20
_Document = TypeVar("_Document", Manifest, Index)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoredImage:
    """What is kept of a resolved image: what its source delivered, and for which reference.

    ``place`` is the reference's policy identity then. ``indexes`` go from the one that the reference named to the one
    that names the manifest; none if it named the manifest itself.
    """

    name: str
    platform: Platform
    reference: str
    place: str
    indexes: tuple[Index, ...]
    manifest: Manifest
    signatures: Mapping[Digest, tuple[UntrustedSignature, ...]]

    @property
    def size(self) -> int:
        """Bytes of documents and signatures."""
        documents = len(self.manifest.raw) + sum(len(index.raw) for index in self.indexes)
        return documents + sum(one.size for group in self.signatures.values() for one in group)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A verified image as it is served.

    ``manifest`` is its OCI form; ``checked_at`` is on the monotonic clock, None if restored.
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
        return self.verified.manifest.digest

    @property
    def index_digest(self) -> Digest | None:
        """The digest of the index that the reference named, if it named one."""
        return self.verified.index.digest if self.verified.index else None

    @property
    def top_digest(self) -> Digest:
        """The digest of what the reference named itself."""
        return self.index_digest or self.manifest_digest


class SnapshotStore:
    """Stored images by shelf, newest first; outlives a reload, and the process if it has a ``directory``."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._shelves: dict[str, list[StoredImage]] = {}

    def of(self, shelf: str) -> tuple[StoredImage, ...]:
        """All that are kept on the shelf, newest first."""
        with self._lock:
            return tuple(self._load(shelf))

    def add(self, shelf: str, stored: StoredImage) -> None:
        """Make ``stored`` the newest; the same content is kept once, the oldest goes."""
        with self._lock:
            kept = self._load(shelf)
            if kept and kept[0] == stored:
                return
            kept[:] = [stored, *(one for one in kept if one != stored)]
            del kept[_room(one.size for one in kept) :]
            self._write(shelf, stored, len(kept))

    def _load(self, shelf: str) -> list[StoredImage]:
        if shelf not in self._shelves:
            files = reversed(self._files(shelf))
            self._shelves[shelf] = [stored for path in files if (stored := _read(path)) is not None]
        return self._shelves[shelf]

    def _files(self, shelf: str) -> list[Path]:
        """By age: their names are numbers of one length."""
        return sorted((self._directory / shelf).glob("*.json")) if self._directory else []

    def _write(self, shelf: str, stored: StoredImage, count: int) -> None:
        """Put the newest on disk, where ``count`` are to stay. Failing costs a resolution after the next start, so it
        is no reason to fail a request.
        """
        content = encode(stored)
        if self._directory is None or len(content) > _MAX_FILE:
            return
        place = self._directory / shelf
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            files = self._files(shelf)
            newest = place / f"{_number(files) + 1:020d}-{hashlib.sha256(content).hexdigest()}.json"
            _place(content, newest, next((path for path in files if _key(path) == _key(newest)), None))
            for path in self._files(shelf)[:-count]:
                path.unlink()
        except OSError as error:
            _log.warning("cannot keep a snapshot of %s in %s: %s", stored.name, place, os.strerror(error.errno or 0))


def _place(content: bytes, path: Path, same: Path | None) -> None:
    """Put ``content`` at ``path`` in one step, by moving the file that has it already if there is one."""
    if same is None:
        same = path.with_name(".new")
        same.write_bytes(content)
    same.replace(path)


def _number(files: list[Path]) -> int:
    """The number of the newest file."""
    numbers = (path.name.partition("-")[0] for path in files)
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def _key(path: Path) -> str:
    """What files of the same content have in common."""
    return path.name.partition("-")[2]


def _room(sizes: Iterable[int]) -> int:
    """How many of these, newest first, a shelf can hold."""
    return max(1, sum(total <= SHELF_SIZE for total in accumulate(islice(sizes, KEPT))))


def _read(path: Path) -> StoredImage | None:
    try:
        if path.stat().st_size > _MAX_FILE:
            raise InvalidManifestError("larger than any snapshot")
        return decode(path.read_bytes())
    except (OSError, Error) as error:
        _log.warning("ignoring the snapshot %s: %s", path, error)
        return None


class Snapshots:
    """The verified snapshots of one configuration.

    ``verify`` turns what the store has into them; None or an error for what is not to be used.
    """

    def __init__(self, store: SnapshotStore, verify: Callable[[StoredImage], Snapshot | None]) -> None:
        self._store = store
        self._verify = verify
        self._lock = threading.Lock()
        self._shelves: dict[str, tuple[Snapshot, ...]] = {}

    def of(self, shelf: str) -> tuple[Snapshot, ...]:
        """The shelf's snapshots, newest first."""
        with self._lock:
            return self._load(shelf)

    def add(self, shelf: str, snapshot: Snapshot) -> None:
        """Make it the newest; one with the same content is replaced."""
        with self._lock:
            kept = (snapshot, *(one for one in self._load(shelf) if one.stored != snapshot.stored))
            self._shelves[shelf] = kept[: _room(one.stored.size for one in kept)]
        self._store.add(shelf, snapshot.stored)

    def _load(self, shelf: str) -> tuple[Snapshot, ...]:
        if shelf not in self._shelves:
            restored = (self._restore(stored) for stored in self._store.of(shelf))
            self._shelves[shelf] = tuple(snapshot for snapshot in restored if snapshot is not None)
        return self._shelves[shelf]

    def _restore(self, stored: StoredImage) -> Snapshot | None:
        try:
            return self._verify(stored)
        except Error as error:
            _log.warning("a kept snapshot of %s is not used: %s", stored.name, error)
            return None


def encode(stored: StoredImage) -> bytes:
    """The file's bytes: JSON with every document in base64."""
    record = {
        "name": stored.name,
        "platform": str(stored.platform),
        "reference": stored.reference,
        "place": stored.place,
        "indexes": [_encode_document(index) for index in stored.indexes],
        "manifest": _encode_document(stored.manifest),
        "signatures": {
            str(digest): [_encode_signature(one) for one in group] for digest, group in stored.signatures.items()
        },
    }
    return json.dumps(record).encode()


def _encode_document(document: Manifest | Index) -> dict[str, str]:
    return {"media-type": document.media_type, "raw": _base64(document.raw)}


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
        return StoredImage(
            name=str(record["name"]),
            platform=parse_platform(record["platform"]),
            reference=str(record["reference"]),
            place=str(record["place"]),
            indexes=tuple(_decode_document(index, Index) for index in record["indexes"]),
            manifest=_decode_document(record["manifest"], Manifest),
            signatures={
                parse_digest(digest): tuple(_decode_signature(one) for one in group)
                for digest, group in record["signatures"].items()
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidManifestError(f"not a snapshot that this version wrote ({type(error).__name__})") from error


def _decode_document(record: dict[str, str], kind: type[_Document]) -> _Document:
    document = parse_manifest(UntrustedManifest(base64.b64decode(record["raw"], validate=True), record["media-type"]))
    if not isinstance(document, kind):
        raise InvalidManifestError("a snapshot whose documents have changed places")
    return document


def _decode_signature(record: dict[str, Any]) -> UntrustedSignature:
    return UntrustedSignature(
        kind=record["kind"],
        blob=base64.b64decode(record["blob"], validate=True),
        media_type=record["media-type"],
        annotations=dict(record["annotations"]),
        source=record["source"],
    )
