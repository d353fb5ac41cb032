"""A lease: a source that is opened once for all its users, and closed when the last of them releases it.

A snapshot holds a lease as long as it is kept, and each reader of a blob as long as it is open. A restored snapshot
opens its source when the first blob is asked for. A snapshot that is no longer kept does the same, and its last reader
closes the source again. Holders are counted, because a garbage collector would close files whenever it pleased
(contrib/adr/0028).
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from container_image_proxy.transports.source import PartSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.image.manifest import Descriptor
    from container_image_proxy.transports.source import BlobReader, ImageSource


class Lease:
    """A source, and the number of its holders. Thread-safe.

    ``open_source`` is called under a lock, so it must be quick: sources do their work when something is asked of them.
    ``opened`` is a source that it has returned before, if it has. The lease owns that, too.
    """

    def __init__(self, open_source: Callable[[], ImageSource], opened: ImageSource | None = None) -> None:
        self._open = open_source
        self._lock = threading.Lock()
        self._source = opened
        self._holders = 0

    @property
    def opened(self) -> ImageSource | None:
        """The source if it is open. Whoever asks holds the lease."""
        return self._source

    @property
    def source(self) -> ImageSource:
        """The source, opened if it is not yet. Whoever asks holds the lease."""
        with self._lock:
            if self._source is None:
                self._source = self._open()
            return self._source

    def hold(self) -> None:
        """Keep the source open, once it is. Each call is followed by one of :meth:`let_go`."""
        with self._lock:
            self._holders += 1

    def let_go(self) -> None:
        """Close the source if nobody else holds it."""
        with self._lock:
            self._holders -= 1
            source = None if self._holders else self._source
            if source is not None:
                self._source = None
        if source is not None:
            source.close()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lease meanwhile."""
        self.hold()
        try:
            yield
        finally:
            self.let_go()

    def open_blob(self, context: Context, descriptor: Descriptor, offset: int = 0) -> BlobReader:
        """As :meth:`ImageSource.open_blob`. The reader holds the lease until it is closed."""
        return self._open_reader(lambda source: source.open_blob(context, descriptor, offset))

    def open_part(self, context: Context, descriptor: Descriptor, offset: int, stop: int) -> BlobReader:
        """As :meth:`open_blob`, for the bytes from ``offset`` up to ``stop``."""
        # Up to its end a blob is read as a whole, so that the source notices whether it is longer than it should be.
        if stop == descriptor.size:
            return self.open_blob(context, descriptor, offset)

        def open_reader(source: ImageSource) -> BlobReader:
            if isinstance(source, PartSource):
                return source.open_part(context, descriptor, offset, stop)
            return _BoundedReader(source.open_blob(context, descriptor, offset), stop)

        return self._open_reader(open_reader)

    def _open_reader(self, open_reader: Callable[[ImageSource], BlobReader]) -> BlobReader:
        self.hold()
        try:
            return _HoldingReader(open_reader(self.source), self)
        except BaseException:
            self.let_go()
            raise


class _BoundedReader:
    """A :class:`BlobReader` that ends at ``stop``."""

    def __init__(self, reader: BlobReader, stop: int) -> None:
        self._reader = reader
        self._stop = stop
        self.reject = reader.reject
        self.close = reader.close

    @property
    def offset(self) -> int:
        """As in :class:`BlobReader`."""
        return self._reader.offset

    @property
    def place(self) -> str:
        """As in :class:`BlobReader`."""
        return self._reader.place

    def readinto(self, buffer: memoryview) -> int:
        """As in :class:`BlobReader`."""
        left = self._stop - self._reader.offset
        return self._reader.readinto(buffer[:left]) if left > 0 else 0


class _HoldingReader:
    """A :class:`BlobReader` that releases its lease when it is closed."""

    def __init__(self, reader: BlobReader, lease: Lease) -> None:
        self._reader = reader
        self._lease: Lease | None = lease
        self.readinto = reader.readinto  # not wrapped: it is called for every piece
        self.reject = reader.reject

    @property
    def offset(self) -> int:
        """As in :class:`BlobReader`."""
        return self._reader.offset

    @property
    def place(self) -> str:
        """As in :class:`BlobReader`."""
        return self._reader.place

    def close(self) -> None:
        """Close the reader, and release the lease. May be called again."""
        lease, self._lease = self._lease, None
        if lease is not None:
            try:
                self._reader.close()
            finally:
                lease.let_go()
