"""Transfers of an image's blobs into files: two at a time, and what an earlier run left of a blob is used.

A blob has its name only when it is whole; until then it is a file of another name, which the next run goes on with.
It must not know how images are stored, nor what a terminal is. Spec: RFC 9110 section 14 (Range).
"""

from __future__ import annotations

import mmap
import os
import queue
import threading
from typing import TYPE_CHECKING, Final, Protocol

from container_image_client.destination import write_all
from container_image_client.documents import Descriptor
from container_image_client.errors import DestinationError, WrongContentError
from container_image_client.hashes import hash_of_file, is_file

if TYPE_CHECKING:
    from pathlib import Path

    from container_image_client.blob import BlobReader
    from container_image_client.client import Client
    from container_image_client.progress import Progress

_AT_A_TIME: Final = 2
_BUFFER: Final = 1 << 20  # page-aligned, which some processors copy to three times as fast
_PATIENCE: Final = 5.0  # seconds for a transfer that was ended to notice


class Place(Protocol):
    """Where blobs are kept."""

    def blob(self, digest: str) -> Path:
        """The file that a blob is, or would be."""
        ...


def is_there(place: Place, blob: Descriptor) -> bool:
    """Whether the blob is there, with the right size."""
    path = place.blob(blob.digest)
    return path.is_file() and not path.is_symlink() and path.stat().st_size == blob.size


class Transfers:
    """The transfers of one pull. ``work`` is the folder for what is not whole yet, which is this pull's alone.

    What arrives complete is verified by the daemon; with ``verify`` it is hashed here as well, and so is what is there
    already. With ``sync`` each blob is on the disk before it has its name.
    """

    def __init__(
        self, client: Client, place: Place, work: Path, progress: Progress, *, verify: bool, sync: bool
    ) -> None:
        self._client = client
        self._place = place
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
            for number in range(min(_AT_A_TIME, len(missing)))
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
        if not is_there(self._place, blob):
            return False
        if not self._verify:
            return True
        with self._place.blob(blob.digest).open("rb") as file:
            return is_file(file.fileno(), blob.digest, blob.size)

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
            # A file of the right size, which nobody renamed, may be the blob after all.
            if offset >= blob.size and not is_file(descriptor, blob.digest, blob.size):
                self._receive(label, blob, descriptor, 0)
            if self._sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        target = self._place.blob(blob.digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.rename(target)

    def _receive(self, label: str, blob: Descriptor, descriptor: int, offset: int) -> None:
        """Append what the daemon has from ``offset`` on."""
        os.ftruncate(descriptor, offset)
        os.lseek(descriptor, offset, os.SEEK_SET)
        with (
            self._progress.step(label, blob.digest, blob.size, done=offset) as step,
            self._client.open(
                blob.digest,
                offset=offset,
                digest_before=lambda end: hash_of_file(descriptor, blob.digest, end).digest(),
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
        if self._verify and not is_file(descriptor, blob.digest, blob.size):
            raise WrongContentError(f"what the daemon sent as {blob.digest} is something else")
