"""The context of work: its deadline, its cancellation token, and the addresses that it may connect to.

The code that starts work makes the context; for a client this is its connection. The context is an argument of every
function that may wait, down to the socket (contrib/adr/0035). A layer that has less time, or trusts an address less,
passes a narrower context on.
"""

from __future__ import annotations

import enum
import math
import threading
from time import monotonic
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from container_image_proxy.concurrency.cancellation import Cancellation, CancelledError

if TYPE_CHECKING:
    from typing import Self


class AddressPolicy(enum.Enum):
    """The addresses that connections may lead to."""

    ANYWHERE = "anywhere"
    """All addresses, because the administrator named the target."""
    PRIVATE = "private"
    """All but link-local, metadata, multicast and unspecified addresses. A registry in a private network named the
    target, or the administrator did by a name that somebody else may come to own.
    """
    PUBLIC = "public"
    """Global addresses only, because a public registry named the target."""


class Deadline(Struct, frozen=True, order=True):
    """A moment of the monotonic clock, in seconds. The default is never reached."""

    at: float = math.inf

    @classmethod
    def after(cls, seconds: float) -> Self:
        """The moment ``seconds`` from now."""
        return cls(monotonic() + seconds)

    @property
    def left(self) -> float:
        """The seconds until the deadline; 0 or less if it has passed."""
        return self.at - monotonic()


class Context(Struct, frozen=True):
    """A cancellation token, a deadline and an address policy.

    ``cancellation`` has no default, so that the code that starts work cannot forget to say what ends it.
    """

    cancellation: Cancellation
    deadline: Deadline = Deadline()
    addresses: AddressPolicy = AddressPolicy.ANYWHERE

    def within(self, seconds: float) -> Context:
        """The same context with a deadline in ``seconds`` from now, if that is earlier."""
        return replace(self, deadline=min(self.deadline, Deadline.after(seconds)))

    def under(self, cancellation: Cancellation) -> Context:
        """The same context with another token."""
        return replace(self, cancellation=cancellation)

    def towards(self, addresses: AddressPolicy) -> Context:
        """The same context with another address policy."""
        return replace(self, addresses=addresses)

    def check(self) -> None:
        """Raise :class:`CancelledError` if the work is cancelled, ``TimeoutError`` if its deadline has passed."""
        if self.cancellation.is_cancelled:
            raise CancelledError
        if self.deadline.left <= 0:
            raise TimeoutError("the time is over")

    def sleep(self, seconds: float) -> None:
        """Wait for ``seconds``, or until the deadline or a cancellation if that is earlier. Raises as :meth:`check`."""
        woken = threading.Event()
        with self.cancellation.calling(woken.set):
            woken.wait(max(0.0, min(seconds, self.deadline.left)))
        self.check()
