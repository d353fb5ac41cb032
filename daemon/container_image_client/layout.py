"""Pulling an image into an OCI image layout: what is there is kept, what broke off goes on, two blobs at a time.

Blobs are written below ``.cip`` in the layout and renamed when they are whole; index.json names the image last of all.
So an interrupted pull leaves no layout, or the layout that was there. It must know nothing of terminals.
Spec: OCI image-spec, image-layout.md.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import queue
import re
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from container_image_client.destination import NewFile, write_all
from container_image_client.documents import Descriptor, Manifest, parse_manifest
from container_image_client.errors import DestinationError, UnsupportedImageError, WrongContentError
from container_image_client.layers import new_hash
from container_image_client.progress import SILENT, Progress
from container_image_client.transport import MAX_DOCUMENT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from container_image_client.blob import BlobReader
    from container_image_client.client import Client

AT_A_TIME: Final = 2
_BUFFER: Final = 1 << 20  # page-aligned, which some processors copy to three times as fast
_PATIENCE: Final = 5.0  # seconds for a transfer that was ended to notice
_WORK: Final = ".cip"
_NAME: Final = "org.opencontainers.image.ref.name"
_INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
_MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
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

    def has(self, blob: Descriptor) -> bool:
        """Whether the blob is there, with the right size."""
        path = self.blob(blob.digest)
        return path.is_file() and not path.is_symlink() and path.stat().st_size == blob.size

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


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull did."""

    manifest: Manifest
    fetched: tuple[Descriptor, ...]
    kept: tuple[Descriptor, ...]


def pull(
    client: Client, layout: LayoutPath, *, verify: bool = False, sync: bool = False, progress: Progress = SILENT
) -> Pulled:
    """Fetch what the layout lacks of the image, and enter the image into it.

    What arrives complete is verified by the daemon; with ``verify`` it is hashed here as well, and so are the blobs
    that are there already. With ``sync`` all of it is on the disk before the image has its name. Without, a power cut
    soon afterwards may leave short blobs, which the next pull fetches again.
    """
    with _at_work(layout) as work:
        manifest = client.manifest()
        pull = _Pull(client, layout, work, progress, verify=verify, sync=sync)
        fetched = pull.fetch(manifest.blobs)
        _enter(layout, manifest, sync=sync)
    kept = tuple(blob for blob in manifest.blobs if blob not in fetched)
    return Pulled(manifest, fetched, kept)


class _Pull:
    """The transfers of one pull."""

    def __init__(
        self, client: Client, layout: LayoutPath, work: Path, progress: Progress, *, verify: bool, sync: bool
    ) -> None:
        self._client = client
        self._layout = layout
        self._work = work
        self._progress = progress
        self._verify = verify
        self._sync = sync
        self._readers: set[BlobReader] = set()
        self._is_over = False

    def fetch(self, blobs: tuple[Descriptor, ...]) -> tuple[Descriptor, ...]:
        """Fetch those that are missing; the first failure ends all. Gives those that were fetched."""
        missing: list[tuple[str, Descriptor]] = []
        for number, blob in enumerate(blobs):
            label = f"layer {number}/{len(blobs) - 1}" if number else "config"
            if self._is_there(blob):
                self._progress.skip(label, blob.digest, blob.size)
            else:
                missing.append((label, blob))
        waiting = queue.SimpleQueue[tuple[str, Descriptor]]()
        for one in missing:
            waiting.put(one)
        outcomes = queue.SimpleQueue[BaseException | None]()
        # Not an executor's threads: those would keep an interrupted program until the daemon answers.
        threads = [
            threading.Thread(target=self._work_off, args=(waiting, outcomes), name=f"pull {number}", daemon=True)
            for number in range(min(AT_A_TIME, len(missing)))
        ]
        try:
            for thread in threads:
                thread.start()
            for _ in threads:
                if failure := outcomes.get():
                    raise failure
        finally:
            self._is_over = True
            for reader in tuple(self._readers):
                reader.close()
            for thread in threads:
                thread.join(_PATIENCE)
        return tuple(blob for _, blob in missing)

    def _work_off(
        self, waiting: queue.SimpleQueue[tuple[str, Descriptor]], outcomes: queue.SimpleQueue[BaseException | None]
    ) -> None:
        try:
            while not self._is_over:
                self._fetch(*waiting.get_nowait())
        except queue.Empty:
            outcomes.put(None)
        except BaseException as error:  # noqa: BLE001 - it is raised where the pull was asked for
            outcomes.put(error)

    def _is_there(self, blob: Descriptor) -> bool:
        if not self._layout.has(blob):
            return False
        if not self._verify:
            return True
        with self._layout.blob(blob.digest).open("rb") as file:
            return _hash_of(file.fileno(), blob.digest, blob.size).hexdigest() == blob.digest.partition(":")[2]

    def _fetch(self, label: str, blob: Descriptor) -> None:
        """One blob: what an earlier pull has left of it, and the rest."""
        partial = self._work / blob.digest.replace(":", "-")
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            offset = os.fstat(descriptor).st_size
            if offset < blob.size:
                try:
                    self._receive(label, blob, descriptor, offset)
                except WrongContentError:
                    if not offset:
                        raise
                    offset = blob.size  # what was left is wrong; begin anew
            if offset >= blob.size and not self._is_whole(blob, descriptor):
                self._receive(label, blob, descriptor, 0)
            if self._sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        target = self._layout.blob(blob.digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.rename(target)

    def _is_whole(self, blob: Descriptor, descriptor: int) -> bool:
        """Whether a file of the right size, which nobody renamed, is the blob after all."""
        if os.fstat(descriptor).st_size != blob.size:
            return False
        return _hash_of(descriptor, blob.digest, blob.size).hexdigest() == blob.digest.partition(":")[2]

    def _receive(self, label: str, blob: Descriptor, descriptor: int, offset: int) -> None:
        """Append what the daemon has from ``offset`` on."""
        os.ftruncate(descriptor, offset)
        os.lseek(descriptor, offset, os.SEEK_SET)
        with (
            self._progress.step(label, blob.digest, blob.size, done=offset) as step,
            self._client.open(
                blob.digest,
                offset=offset,
                digest_before=lambda end: _hash_of(descriptor, blob.digest, end).digest(),
            ) as reader,
        ):
            # Not closed here: the traceback of an error may still hold a part of it.
            buffer = memoryview(mmap.mmap(-1, _BUFFER))
            self._readers.add(reader)
            while not self._is_over and (count := reader.readinto(buffer)):
                write_all(descriptor, buffer[:count])
                step.advance(count)
            self._readers.discard(reader)
            if self._is_over:
                raise DestinationError("the pull was ended")
            if reader.offset != blob.size:
                raise WrongContentError(f"{blob.digest} has {reader.offset} bytes, and the manifest says {blob.size}")
        if self._verify and not self._is_whole(blob, descriptor):
            raise WrongContentError(f"what the daemon sent as {blob.digest} is something else")


@contextlib.contextmanager
def _at_work(layout: LayoutPath) -> Iterator[Path]:
    """The folder for what is not whole yet, for this pull alone; what an interrupted pull left in it is of use."""
    directory = layout.directory
    work = directory / _WORK
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not work.is_dir() and not (directory / "oci-layout").exists() and any(directory.iterdir()):
            raise DestinationError(f"{directory} is not empty, and is no OCI layout", remedy="name another directory")
        work.mkdir(exist_ok=True)
        lock = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise DestinationError(f"{directory} cannot be made a layout: {error.strerror}: {error.filename}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            remedy = "wait for it, or end it"
            raise DestinationError(f"another cip is pulling into {directory} at this moment", remedy=remedy) from None
        yield work
        shutil.rmtree(work)
    except OSError as error:
        raise DestinationError(f"{directory} cannot be written: {error.strerror or error}") from error
    finally:
        os.close(lock)


def _enter(layout: LayoutPath, manifest: Manifest, *, sync: bool) -> None:
    """Put the manifest into the layout, and then its name: with that the image is there."""
    digest = f"sha256:{hashlib.sha256(manifest.raw).hexdigest()}"
    layout.blob(digest).parent.mkdir(parents=True, exist_ok=True)
    _write(layout.blob(digest), manifest.raw, sync=sync)
    entry: dict[str, Any] = {
        "mediaType": manifest.media_type or _MANIFEST_TYPE,
        "digest": digest,
        "size": len(manifest.raw),
    }
    if layout.name is not None:
        entry["annotations"] = {_NAME: layout.name}
    index_path = layout.directory / "index.json"
    index = layout.index() if index_path.exists() else {"schemaVersion": 2, "mediaType": _INDEX_TYPE}
    # A name moves to the newest image, and so does having none.
    others = [other for other in _entries(index) if _name_of(other) != layout.name]
    _write(layout.directory / "oci-layout", b'{"imageLayoutVersion":"1.0.0"}', sync=sync)
    index["manifests"] = [*others, entry]
    _write(index_path, json.dumps(index, separators=(",", ":")).encode(), sync=sync)


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


def _write(path: Path, content: bytes, *, sync: bool) -> None:
    with NewFile(path, sync=sync) as new:
        new.file.write(content)
        new.commit()


def _hash_of(descriptor: int, digest: str, end: int) -> hashlib._Hash:
    """The hash of a file's beginning, by the algorithm of the blob's digest; the file's position stays."""
    hashing = new_hash(digest)
    position = 0
    while position < end and (piece := os.pread(descriptor, min(_BUFFER, end - position), position)):
        hashing.update(piece)
        position += len(piece)
    return hashing
