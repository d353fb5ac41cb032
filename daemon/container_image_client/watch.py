"""Changes of an image, by one conditional request per poll."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING, Final

from container_image_client.errors import ImageClientError, ProblemError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from container_image_client.client import Client
    from container_image_client.documents import Manifest

_JITTER: Final = 0.1  # of the interval, either way: many hosts that started together do not stay together


class Watch:
    """Polls until ``stop``. ``acknowledge`` makes a digest the one that the next poll compares with."""

    def __init__(self, client: Client, *, interval: float, known: str | None, complain: Callable[[str], None]) -> None:
        self._client = client
        self._interval = interval
        self._known = known
        self._complain = complain
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End at once; also from another thread."""
        self._stopping.set()

    def acknowledge(self, digest: str) -> None:
        """From now on this is no news."""
        self._known = digest

    def changes(self) -> Iterator[Manifest]:
        """Each manifest that is another than the acknowledged one; again with the next poll if it is not acknowledged.

        What fails is told, and tried again.
        """
        while not self._stopping.is_set():
            pause = self._interval * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - no secret
            try:
                manifest = self._client.manifest_unless(self._known) if self._known else self._client.manifest()
            except ImageClientError as error:
                self._complain(str(error))
                if isinstance(error, ProblemError) and error.retry_after is not None:
                    pause = max(pause, error.retry_after)
            else:
                if manifest is not None and manifest.digest != self._known:
                    yield manifest
            self._stopping.wait(pause)
