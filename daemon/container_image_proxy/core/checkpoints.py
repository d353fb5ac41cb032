"""Checkpoints: the state of a blob's hash at every 4 MiB, by which a later transfer begins in the middle of the blob.

The states belong to one run over the blob, from its first byte on; a later run may continue it. If the digest at the
end of a run is right, all of its states are proved. States that are not proved decide nothing: a transfer that begins
at one compares the digest at the blob's end, as the first run would have done. The states are in memory only, bounded
in number, size and age.

A blob that proved wrong loses the states of that run, and is suspect for a while, because clients may hold its
beginning. It is also suspect if a run reaches the place where another one was broken off, and has read something else.
Must not read or send anything. Decisions: contrib/adr/0030.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from msgspec import Struct, field

from container_image_proxy.config.limits import MIB
from container_image_proxy.image.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from hashlib import _Hash

    from container_image_proxy.image.descriptor import Descriptor

SPACING: Final = 4 * MIB
"""Bytes between two checkpoints. A transfer that begins in the middle fetches at most so much in vain."""
MAX_PER_BLOB: Final = 4096
"""A blob of more than 16 GiB has them further apart."""
MAX_CHECKPOINTS: Final = 8192
"""Of all blobs together: 3 MiB of memory, for 350 bytes each were measured."""
MAX_BLOBS: Final = 256
MAX_ENDS: Final = 16
"""Of each blob: the places where runs were broken off."""
MAX_AGE: Final = 3600.0
"""Seconds. A client that did not come back by then has given up, or begins anew."""

Key = tuple[str, "Digest", int]
"""The image's name, and the blob's digest and size. What the source of one image sends harms no other image."""


class BlobHash:
    """The hash of a blob from its first byte up to ``offset``. One thread uses it at a time."""

    def __init__(self, state: _Hash, algorithm: str, offset: int = 0) -> None:
        self._state = state
        self._algorithm = algorithm
        self.offset = offset
        self.is_contradicted = False
        """Whether another run had read something else before it was broken off."""

    def update(self, piece: memoryview) -> None:
        """Add what follows."""
        self._state.update(piece)
        self.offset += len(piece)

    def digest(self) -> Digest:
        """The digest of all so far."""
        return Digest(self._algorithm, self._state.hexdigest())

    def confirm(self) -> None:
        """Take note that the blob was right."""

    def refute(self) -> None:
        """Take note that the blob was wrong."""

    def leave(self) -> None:
        """Take note that no more is read. Without effect after one of the other two."""


def blob_hash(digest: Digest) -> BlobHash:
    """That of a blob which nothing is kept of."""
    return BlobHash(digest.hasher(), digest.algorithm)


class _Run(Struct):
    """The states of one run: the n-th, counted from 1, is that at n times ``spacing``. Others read while it grows."""

    spacing: int
    extended: float  # when, on the clock of the checkpoints
    states: list[_Hash] = field(default_factory=list)
    is_proved: bool = False


class Checkpoints:
    """What is kept of the blobs that were lately read. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._runs: dict[Key, _Run] = {}  # the least recently used first
        self._suspects: dict[Key, float] = {}  # until when; the oldest first
        self._ends: dict[Key, dict[int, tuple[Digest, float]]] = {}  # by offset, and until when; the oldest first

    def record(self, image: str, descriptor: Descriptor) -> BlobRecord:
        """What is known of the blob now."""
        key = (image, descriptor.digest, descriptor.size)
        now = self._clock()
        with self._lock:
            run = self._runs.pop(key, None)
            if run is not None and run.extended + MAX_AGE > now:
                self._runs[key] = run
            else:
                run = _Run(_spacing(descriptor.size), now)
            is_suspect = self._suspects.get(key, 0.0) > now
            ends = {offset: digest for offset, (digest, until) in self._ends.get(key, {}).items() if until > now}
        return BlobRecord(self, key, run, ends, is_suspect=is_suspect)

    def publish(self, key: Key, run: _Run) -> None:
        """Keep the run if nothing better is known of the blob: one that is proved, or that came further."""
        with self._lock:
            run.extended = self._clock()
            known = self._runs.pop(key, None)
            if known is not None and (known.is_proved, len(known.states)) > (run.is_proved, len(run.states)):
                run = known
            self._runs[key] = run
            while len(self._runs) > MAX_BLOBS or sum(len(one.states) for one in self._runs.values()) > MAX_CHECKPOINTS:
                del self._runs[next(iter(self._runs))]

    def refute(self, key: Key) -> None:
        """The blob proved wrong: forget the states that are not proved. Those that are led to the right blob."""
        with self._lock:
            known = self._runs.get(key)
            if known is not None and not known.is_proved:
                del self._runs[key]
        self.suspect(key)

    def suspect(self, key: Key) -> None:
        """Clients may hold a wrong beginning of the blob."""
        with self._lock:
            self._suspects.pop(key, None)
            self._suspects[key] = self._clock() + MAX_AGE
            while len(self._suspects) > MAX_BLOBS:
                del self._suspects[next(iter(self._suspects))]

    def note_end(self, key: Key, offset: int, digest: Digest) -> None:
        """A run was broken off there: whoever comes by compares."""
        with self._lock:
            ends = self._ends.pop(key, {})
            self._ends[key] = ends
            ends.pop(offset, None)
            ends[offset] = digest, self._clock() + MAX_AGE
            while len(ends) > MAX_ENDS:
                del ends[next(iter(ends))]
            while len(self._ends) > MAX_BLOBS:
                del self._ends[next(iter(self._ends))]


class BlobRecord:
    """What was known of a blob at one moment. A thread that streams the blob meanwhile adds no more to it."""

    def __init__(
        self, checkpoints: Checkpoints, key: Key, run: _Run, ends: dict[int, Digest], *, is_suspect: bool
    ) -> None:
        self._checkpoints = checkpoints
        self._key = key
        self._ends = ends
        self._run = run
        self._states = tuple(run.states)
        self._is_proved = run.is_proved
        self.is_suspect = is_suspect
        """Whether a transfer of the blob proved wrong lately, so that a client may hold a wrong beginning."""

    def hash_at(self, offset: int = 0) -> BlobHash:
        """The hash at the last checkpoint at or before ``offset``, or at 0; it keeps checkpoints as it goes on."""
        _, digest, _ = self._key
        count = min(offset // self._run.spacing, len(self._states))
        state = self._states[count - 1].copy() if count else digest.hasher()
        run = _Run(self._run.spacing, self._run.extended, list(self._states[:count]))
        return _RecordingHash(state, self._key, run, self._ends, self._checkpoints)

    def decision(self, stop: int) -> tuple[int, Digest]:
        """Where it is decided whether what lies before ``stop`` is right, and the digest of all before that place.

        Of a blob that is proved that is the next checkpoint; of any other, and behind the last one, its end.
        """
        _, digest, size = self._key
        count = -(-stop // self._run.spacing)
        if self._is_proved and 0 < count <= len(self._states):
            return count * self._run.spacing, Digest(digest.algorithm, self._states[count - 1].hexdigest())
        return size, digest


class _RecordingHash(BlobHash):
    """A blob's hash that keeps its state at each checkpoint, and compares where others were broken off."""

    def __init__(self, state: _Hash, key: Key, run: _Run, ends: Mapping[int, Digest], checkpoints: Checkpoints) -> None:
        super().__init__(state, key[1].algorithm, len(run.states) * run.spacing)
        self._key = key
        self._run = run
        self._ends = ends
        self._checkpoints = checkpoints
        self._waymarks = sorted(end for end in ends if end > self.offset)
        self._is_settled = False

    def update(self, piece: memoryview) -> None:
        """Add what follows, in parts that end where there is something to do."""
        while (missing := self._next_stop() - self.offset) <= len(piece):
            super().update(piece[:missing])
            piece = piece[missing:]
            if self._waymarks[:1] == [self.offset]:
                self._compare(self._ends[self._waymarks.pop(0)])
            if self.offset % self._run.spacing == 0 and self.offset < self._key[2]:
                self._run.states.append(self._state.copy())
                self._checkpoints.publish(self._key, self._run)
        super().update(piece)

    def _next_stop(self) -> int:
        """The first place behind ``offset`` where there is something to do: a checkpoint, or the end of another run."""
        checkpoint = (self.offset // self._run.spacing + 1) * self._run.spacing
        return min([checkpoint, *self._waymarks[:1]])

    def _compare(self, digest: Digest) -> None:
        if self.digest() != digest:
            self.is_contradicted = True
            self._checkpoints.suspect(self._key)

    def confirm(self) -> None:
        """The digest at the end of the blob was right, and so was everything before it."""
        self._is_settled = True
        self._run.is_proved = True
        if self._run.states:  # nothing is to be known of a small blob
            self._checkpoints.publish(self._key, self._run)

    def refute(self) -> None:
        """The blob was wrong."""
        self._is_settled = True
        self._checkpoints.refute(self._key)

    def leave(self) -> None:
        """No more is read of the blob."""
        if not self._is_settled and self.offset:
            self._checkpoints.note_end(self._key, self.offset, self.digest())
        self._is_settled = True


def _spacing(size: int) -> int:
    spacing = SPACING
    while size > spacing * MAX_PER_BLOB:
        spacing *= 2
    return spacing
