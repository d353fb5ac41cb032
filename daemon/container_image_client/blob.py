"""A blob as a readable file, which goes on by itself where a lost connection left it.

When the connection breaks, the rest is asked for with Range, and Prefix-Digest tells whether what came before it is
what the daemon verified. A daemon that ignores Range sends all of it again; what was read before is then read over, and
has to be the same. It must not verify what arrives whole: a complete answer of the daemon is verified.
Spec: RFC 9110 section 14 (Range), RFC 9530 (the form of Prefix-Digest).
"""

from __future__ import annotations

import base64
import io
import re
import threading
from typing import TYPE_CHECKING, Any, Final

from container_image_client.errors import (
    DaemonUnreachableError,
    ImageClientError,
    IncompleteAnswerError,
    ProblemError,
    UnexpectedAnswerError,
    WrongContentError,
)
from container_image_client.hashes import new_hash

if TYPE_CHECKING:
    from collections.abc import Callable

    from container_image_client.transport import Answer, Transport

# How long to wait before each attempt that follows one without progress. Three in vain are the end: content that is
# wrong ends like a lost connection, and asking for it again does not make it right.
_PAUSES: Final = (0.0, 1.0, 4.0)
_LONGEST_PAUSE: Final = 60.0  # seconds, of those that the daemon asks for
_PARTIAL_CONTENT: Final = 206
_HASH_NAMES: Final = {"sha256": "sha-256", "sha512": "sha-512"}
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
_BUFFER: Final = 256 * 1024  # for what is read over


class BlobReader(io.RawIOBase):
    """The blob from ``offset`` on.

    ``digest_before`` gives the raw digest of the blob's bytes before an offset, where the caller has them; without it
    the reader hashes what it reads.
    """

    def __init__(
        self,
        transport: Transport,
        target: str,
        digest: str,
        *,
        offset: int = 0,
        digest_before: Callable[[int], bytes] | None = None,
    ) -> None:
        super().__init__()
        self.digest = digest
        self.offset = offset
        self._transport = transport
        self._target = target
        self._hash = None if digest_before else new_hash(digest)
        self._digest_before = digest_before or self._digest_of_what_was_read
        self._closing = threading.Event()
        try:
            self._answer = self._ask()
        except BaseException:
            super().close()  # or io's finalizer closes a reader that has no answer
            raise
        self.size = self.offset + self._answer.length

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as the blob goes; 0 only at its end, which is reached only if all of it came."""
        view = memoryview(buffer).cast("B")
        failures = 0
        count = -1
        while count < 0:
            try:
                if failures:
                    self._answer = self._ask()
                count = self._answer.readinto(view)
            except (IncompleteAnswerError, DaemonUnreachableError, ProblemError) as error:
                self._answer.close()
                if failures == len(_PAUSES) or not _may_succeed_later(error):
                    raise
                if self._closing.wait(_pause(error, failures)):
                    raise
                failures += 1
        self.offset += count
        if self._hash:
            self._hash.update(view[:count])
        return count

    def close(self) -> None:
        """End the connection; also while another thread reads, which then ends with an error."""
        self._closing.set()
        self._answer.close()
        super().close()

    def _ask(self) -> Answer:
        """The blob's answer, positioned at ``offset``."""
        if not self.offset:
            return self._transport.get(self._target)
        answer = self._transport.get(self._target, {"Range": f"bytes={self.offset}-", "If-Range": f'"{self.digest}"'})
        try:
            self._verify_prefix(answer)
        except BaseException:
            answer.close()
            raise
        return answer

    def _verify_prefix(self, answer: Answer) -> None:
        is_part = answer.status == _PARTIAL_CONTENT
        found = self._prefix_of(answer) if is_part else self._read_over(answer)
        if found != self._digest_before(self.offset):
            raise WrongContentError(f"what was received of {self.digest} before the connection broke is not the blob's")

    def _prefix_of(self, answer: Answer) -> bytes:
        content_range = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        name = _HASH_NAMES[self.digest.partition(":")[0]]
        prefix = re.search(rf"(?:^|,)\s*{name}=:([A-Za-z0-9+/=]+):", answer.headers.get("Prefix-Digest", ""))
        if content_range is None or int(content_range[1]) != self.offset or prefix is None:
            raise UnexpectedAnswerError("the answer to a request for the rest of a blob does not say which part it is")
        return base64.b64decode(prefix[1])

    def _read_over(self, answer: Answer) -> bytes:
        hashing, buffer, left = new_hash(self.digest), memoryview(bytearray(_BUFFER)), self.offset
        while left:
            count = answer.readinto(buffer[:left])
            if not count:
                raise WrongContentError(f"{self.digest} is shorter than what was received of it")
            hashing.update(buffer[:count])
            left -= count
        return hashing.digest()

    def _digest_of_what_was_read(self, _: int) -> bytes:
        assert self._hash is not None  # noqa: S101 - for mypy: who has no hash has a function of the caller
        return self._hash.digest()


def _may_succeed_later(error: ImageClientError) -> bool:
    return not isinstance(error, ProblemError) or error.retryable


def _pause(error: ImageClientError, failures: int) -> float:
    asked = error.retry_after if isinstance(error, ProblemError) else None
    return min(_PAUSES[failures] if asked is None else asked, _LONGEST_PAUSE)
