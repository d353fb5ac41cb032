"""Locks that are held during long work. A thread waits for one no longer than its context lasts."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from container_image_proxy.concurrency.cancellation import SLICE

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from container_image_proxy.concurrency.context import Context


@contextmanager
def held(lock: threading.Lock, context: Context) -> Iterator[None]:
    """Hold ``lock`` meanwhile. It is waited for in slices, and each ends as :meth:`Context.check` does."""
    while not lock.acquire(timeout=SLICE):
        context.check()
    try:
        yield
    finally:
        lock.release()
