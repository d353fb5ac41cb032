"""The memory that resolving images may take, over all requests together.

What a source delivers is in memory until the image is verified: its manifests, their parsed form, its signatures. An
image has some ten kilobytes of these, and how many images are resolved at a time is bounded by how many clients may be
connected. One that has more than ``SMALL`` needs a place, of which there are ``PLACES``. An image has one place at
most, so that who asks for all its platforms at once does not keep large images of others waiting.
"""

from __future__ import annotations

import gc
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from container_image_proxy.errors import InvalidManifestError, OverloadedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from container_image_proxy.concurrency.context import Context

SMALL: Final = 128 * 1024
"""Bytes, as a source delivers them. In memory they take up to thirty times that for a moment, and then five times."""
LARGE: Final = 16 << 20
"""Bytes that an image may have at all: two manifests and the signatures of one, each as large as can be."""
PLACES: Final = 2
PATIENCE: Final = 60.0
"""Seconds that a client waits for a place. By then all platforms of an image, however large, have had their turn."""


class Memory:
    """The places for large images. Thread-safe."""

    def __init__(self, places: int = PLACES, patience: float = PATIENCE) -> None:
        self._places = places
        self._patience = patience
        self._changed = threading.Condition()
        self._holders: set[str] = set()

    @contextmanager
    def share(self, context: Context, image: str) -> Iterator[Share]:
        """What resolving the image takes meanwhile, for one of its platforms."""
        share = Share(self, context, image)
        try:
            yield share
        finally:
            if share.has_place:
                # An error that somebody kept has its frames, those their callers, and one of them the documents. Such
                # cycles can arise anywhere below, and their collector counts objects, not bytes.
                gc.collect()
                with self._changed:
                    self._holders.discard(image)
                    self._changed.notify_all()

    def enter(self, context: Context, image: str) -> None:
        """Wait for a place; :class:`OverloadedError` if that takes too long."""
        token = context.cancellation
        with token.calling(self._wake), self._changed:
            is_free = self._changed.wait_for(lambda: token.is_cancelled or self._is_free(image), self._patience)
            context.check()
            if not is_free:
                raise OverloadedError("too many large images are being resolved at the moment")
            self._holders.add(image)

    def _is_free(self, image: str) -> bool:
        return image not in self._holders and len(self._holders) < self._places

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


class Share:
    """What one resolution takes. One thread uses it."""

    def __init__(self, memory: Memory, context: Context, image: str) -> None:
        self._memory = memory
        self._context = context
        self._image = image
        self._taken = 0
        self.has_place = False

    def take(self, size: int) -> None:
        """Have ``size`` more bytes of the image in memory, once there is room for them.

        :class:`OverloadedError` if there is none for too long, :class:`InvalidManifestError` if it is more than any
        image may have.
        """
        self._taken += size
        if self._taken > LARGE:
            raise InvalidManifestError(f"the image has more than {LARGE} bytes of manifests and signatures")
        if self._taken > SMALL and not self.has_place:
            self._memory.enter(self._context, self._image)
            self.has_place = True


def unmetered(size: int) -> None:
    """Take memory that nobody counts, for what is bounded otherwise."""
