"""The context of work that is done for somebody: until when, for whom, and where connections may lead.

It is made where the work begins, for a client by its connection, and is an argument of everything that may wait, down
to the socket. A layer that has less time, or trusts an address less, hands a narrower context on. Nothing is ambient: a
thread has the context that it was given. Knows neither images nor HTTP.
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
    """What may be connected to."""

    ANYWHERE = "anywhere"
    """The administrator named the target."""
    PRIVATE = "private"
    """A registry in a private network named it, or the administrator did by a name that another may come to own: no
    link-local, metadata, multicast or unspecified address.
    """
    PUBLIC = "public"
    """A public registry named it: global addresses only."""


class Deadline(Struct, frozen=True, order=True):
    """A moment on the monotonic clock, in seconds."""

    at: float = math.inf

    @classmethod
    def after(cls, seconds: float) -> Self:
        """The moment so long from now."""
        return cls(monotonic() + seconds)

    @property
    def left(self) -> float:
        """The seconds until then; 0 or less if it has passed."""
        return self.at - monotonic()


class Context(Struct, frozen=True):
    """Until when (``deadline``), for whom (``cancellation``), and where connections may lead (``addresses``).

    ``cancellation`` has no default: whoever starts work says what ends it.
    """

    cancellation: Cancellation
    deadline: Deadline = Deadline()
    addresses: AddressPolicy = AddressPolicy.ANYWHERE

    def within(self, seconds: float) -> Context:
        """The same, to end in ``seconds`` from now or with this one, whichever comes first."""
        return replace(self, deadline=min(self.deadline, Deadline.after(seconds)))

    def under(self, cancellation: Cancellation) -> Context:
        """The same for somebody else."""
        return replace(self, cancellation=cancellation)

    def towards(self, addresses: AddressPolicy) -> Context:
        """The same for connections that ``addresses`` decides on."""
        return replace(self, addresses=addresses)

    def check(self) -> None:
        """Raise :class:`CancelledError` if nobody waits any more, ``TimeoutError`` if the time is over."""
        if self.cancellation.is_cancelled:
            raise CancelledError
        if self.deadline.left <= 0:
            raise TimeoutError("the time is over")

    def sleep(self, seconds: float) -> None:
        """Let time pass, and :meth:`check` at its end, which comes at once when somebody cancels."""
        woken = threading.Event()
        with self.cancellation.calling(woken.set):
            woken.wait(max(0.0, min(seconds, self.deadline.left)))
        self.check()
