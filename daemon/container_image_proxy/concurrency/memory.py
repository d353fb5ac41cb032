"""Limits the memory that resolving images takes, over all requests together (contrib/adr/0024).

The manifests of an image, their parsed form and its signatures are in memory until the image is verified. Most images
have some ten KiB of these, and the number of connected clients limits how many are resolved at a time. An image with
more than ``SMALL`` bytes needs a place, of which there are ``PLACES``. An image has one place at most, so that a client
that asks for all of its platforms at once does not block other large images.
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
"""Bytes as a source delivers them. In memory they take up to thirty times as much while parsed, and then five times."""
LARGE: Final = 16 << 20
"""Bytes that an image may have in any case: two manifests and the signatures of one, each of its largest size."""
PLACES: Final = 2
PATIENCE: Final = 60.0
"""Seconds that a client waits for a place. All platforms of a large image can be resolved one by one in that time."""


class Memory:
    """The places for large images; ``patience`` is in seconds. Thread-safe."""

    def __init__(self, places: int = PLACES, patience: float = PATIENCE) -> None:
        self._places = places
        self._patience = patience
        self._changed = threading.Condition()
        self._holders: set[str] = set()

    @contextmanager
    def share(self, context: Context, image: str) -> Iterator[Share]:
        """A block in which one platform of ``image`` is resolved; its :class:`Share` counts the bytes."""
        share = Share(self, context, image)
        try:
            yield share
        finally:
            if share.has_place:
                # An error that was kept refers to its frames, and these to the documents. Such cycles can arise
                # anywhere below. The collector would find them late, because it counts objects and not bytes.
                gc.collect()
                with self._changed:
                    self._holders.discard(image)
                    self._changed.notify_all()

    def enter(self, context: Context, image: str) -> None:
        """Wait for a place for ``image``. Raises :class:`OverloadedError` if there is none within the patience."""
        token = context.cancellation
        with token.calling(self._wake), self._changed:
            is_free = self._changed.wait_for(
                lambda: token.is_cancelled or (image not in self._holders and len(self._holders) < self._places),
                self._patience,
            )
            context.check()
            if not is_free:
                raise OverloadedError("too many large images are being resolved at the moment")
            self._holders.add(image)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


class Share:
    """The memory of one resolution. One thread uses it."""

    def __init__(self, memory: Memory, context: Context, image: str) -> None:
        self._memory = memory
        self._context = context
        self._image = image
        self._taken = 0
        self.has_place = False

    def take(self, size: int) -> None:
        """Count ``size`` more bytes of the image, and wait for a place if they need one.

        Raises :class:`OverloadedError` if there is no place within the patience, and :class:`InvalidManifestError` if
        the image has more than ``LARGE`` bytes.
        """
        self._taken += size
        if self._taken > LARGE:
            raise InvalidManifestError(f"the image has more than {LARGE} bytes of manifests and signatures")
        if self._taken > SMALL and not self.has_place:
            self._memory.enter(self._context, self._image)
            self.has_place = True


def unmetered(size: int) -> None:
    """A :meth:`Share.take` that counts nothing, for memory that is limited in another way."""
