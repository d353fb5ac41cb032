"""Progress of transfers: what the library reports, to whoever wants to show it.

It must not import a library for bars, nor write anything: cli does.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Step(Protocol):
    """Something that takes a while, of a known number of bytes."""

    def advance(self, count: int) -> None:
        """So many bytes more."""
        ...


class Progress(Protocol):
    """Where steps are shown. Several may be under way at once, in different threads."""

    def step(self, label: str, digest: str, size: int, *, done: int = 0) -> AbstractContextManager[Step]:
        """A step, from its begin to its end; ``done`` bytes were there before."""
        ...

    def skip(self, label: str, digest: str, size: int) -> None:
        """A step that need not be taken: the blob is there."""
        ...


class Readable(Protocol):
    """What is read while a step goes on."""

    def read(self, size: int = -1, /) -> bytes:
        """At most so many bytes."""
        ...

    def close(self) -> None:
        """Stop."""
        ...


class Counting:
    """A blob whose bytes advance a step as they are read."""

    def __init__(self, blob: Readable, step: Step) -> None:
        self._blob = blob
        self._step = step

    def read(self, size: int = -1, /) -> bytes:
        """At most so many bytes."""
        data = self._blob.read(size)
        self._step.advance(len(data))
        return data

    def close(self) -> None:
        """Stop."""
        self._blob.close()


class _Silent:
    def advance(self, count: int) -> None:
        pass

    def step(self, label: str, digest: str, size: int, *, done: int = 0) -> AbstractContextManager[Step]:  # noqa: ARG002
        return nullcontext(self)

    def skip(self, label: str, digest: str, size: int) -> None:
        pass


SILENT = _Silent()
