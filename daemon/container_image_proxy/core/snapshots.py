"""Snapshots: images as they were when they were resolved, kept so that their blobs can be served though a tag moves.

A kept image counts as *unverified*, even if it was verified when it was kept. It is judged again under the names that
the configuration gives, and by the policy in force. So neither a changed policy nor a changed file can make the daemon
serve what it should not (contrib/adr/0005 and 0013). An image is judged when it is first wanted, and only clients of
that image wait for it. Must not judge itself, which ``verification`` does.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from msgspec import Struct

from container_image_proxy.concurrency.single_flight import SingleFlight
from container_image_proxy.errors import Error, VerificationTimeoutError
from container_image_proxy.image.manifest import Schema1Manifest
from container_image_proxy.transports.readers import BytesReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.core.lease import Lease
    from container_image_proxy.core.snapshot_store import SnapshotStore
    from container_image_proxy.core.stored_image import StoredImage
    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.manifest import Descriptor, Manifest
    from container_image_proxy.image.platform import Platform
    from container_image_proxy.policy.evaluate import VerifiedImage
    from container_image_proxy.transports.source import BlobReader

_log = logging.getLogger(__name__)


class Snapshot(Struct, frozen=True):
    """A verified image as it is served.

    ``manifest`` is its OCI form. ``checked_at`` is when its source was asked, on the monotonic clock; None if it was
    restored. Its blobs are opened through ``lease``, except for a configuration that was ``made`` for it, which no
    source has (contrib/adr/0037).
    """

    stored: StoredImage
    verified: VerifiedImage
    manifest: Manifest
    checked_at: float | None
    lease: Lease
    made: bytes | None = None

    def open_blob(self, context: Context, descriptor: Descriptor, offset: int = 0) -> BlobReader:
        """As :meth:`Lease.open_blob`."""
        if self.made is not None and descriptor == self.manifest.config:
            return BytesReader(self.made, offset)
        return self.lease.open_blob(context, descriptor, offset)

    def open_part(self, context: Context, descriptor: Descriptor, offset: int, stop: int) -> BlobReader:
        """As :meth:`Lease.open_part`."""
        if self.made is not None and descriptor == self.manifest.config:
            return BytesReader(self.made[:stop], offset)
        return self.lease.open_part(context, descriptor, offset, stop)

    @property
    def original(self) -> Manifest | None:
        """The manifest that the source has, if its layers are the blobs that are served; None otherwise.

        An image in a store is served unpacked, and one of Docker's schema 1 has no configuration.
        """
        original = self.verified.manifest
        if isinstance(original, Schema1Manifest):
            return None
        is_whole = [layer.digest for layer in original.layers] == [layer.digest for layer in self.manifest.layers]
        return original if is_whole else None

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
        """The digest of the document that the reference named: the index or the manifest."""
        return self.index_digest or self.manifest_digest


class Snapshots:
    """The verified snapshots of one configuration, over the images that ``store`` keeps. Thread-safe.

    ``verify`` makes a snapshot of a stored image. It returns None, or raises an error, for one that is not to be used.
    """

    def __init__(self, store: SnapshotStore, verify: Callable[[Context, StoredImage], Snapshot | None]) -> None:
        self._store = store
        self._verify = verify
        self._lock = threading.Lock()
        self._verdicts: dict[int, tuple[StoredImage, Snapshot | None]] = {}  # by identity: hashing takes all content
        self._is_closed = False
        self._judging: SingleFlight[Snapshot | None] = SingleFlight()

    def of(self, context: Context, shelf: str, platform: Platform | None = None) -> Iterator[Snapshot]:
        """The shelf's snapshots (of ``platform``, if given), newest first. Each is judged when its turn comes."""
        for stored in self._store.of(shelf):
            if platform in (None, stored.platform) and (snapshot := self._judge(context, stored)) is not None:
                yield snapshot

    def add(self, shelf: str, snapshot: Snapshot) -> None:
        """Make ``snapshot`` the newest of the shelf. It replaces one with the same content."""
        self._store.add(shelf, snapshot.stored)
        kept = {id(stored) for stored in self._store.kept()}
        with self._lock:
            surplus = [self._verdicts.pop(key) for key in self._verdicts.keys() - kept]
        if id(snapshot.stored) in kept:
            self._note(snapshot.stored, snapshot)
        for _, gone in surplus:
            _let_go(gone)

    def close(self) -> None:
        """Release what the snapshots hold. No snapshot is asked for any more; blobs of some may still be read."""
        with self._lock:
            self._is_closed = True
            verdicts = list(self._verdicts.values())
            self._verdicts.clear()
        for _, snapshot in verdicts:
            _let_go(snapshot)

    def _note(self, stored: StoredImage, verdict: Snapshot | None) -> None:
        """Keep a verdict in the place of the one before, and hold the lease of its snapshot."""
        if verdict is not None:
            verdict.lease.hold()
        with self._lock:
            _, former = self._verdicts.get(id(stored), (stored, None))
            if self._is_closed:  # a request of the configuration before has ended late
                former = verdict
            else:
                self._verdicts[id(stored)] = (stored, verdict)
        _let_go(former)

    def _judge(self, context: Context, stored: StoredImage) -> Snapshot | None:
        with self._lock:
            if known := self._verdicts.get(id(stored)):
                return known[1]
        return self._judging.run(context, id(stored), lambda context: self._restore(context, stored))

    def _restore(self, context: Context, stored: StoredImage) -> Snapshot | None:
        try:
            verdict = self._verify(context, stored)
        except VerificationTimeoutError:  # it says nothing about the image: the next request tries again
            raise
        except Error as error:
            _log.warning("a kept snapshot of %s is not used: %s", stored.name, error)
            verdict = None
        self._note(stored, verdict)
        return verdict


def _let_go(snapshot: Snapshot | None) -> None:
    if snapshot is not None:
        snapshot.lease.let_go()
