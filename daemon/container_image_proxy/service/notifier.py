"""Messages to the service manager: the state of the daemon, and that its loop still runs.

Sending never raises and never waits, whatever state the manager is in, because no transfer may end for it. Only the
loop's thread uses this. Nothing is sent without ``NOTIFY_SOCKET``. Spec: sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from typing import Final

from container_image_proxy.service.journal import one_line

_log = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 1.0
_NUMBER: Final = re.compile(r"[0-9]{1,15}")
_NEITHER_WAIT_NOR_DIE: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class Notifier:
    """The way to the service manager. A timer of the loop, which tells again each second what could not be told.

    Each state replaces the one before, so of several that could not be told only the last one is.
    """

    def __init__(self) -> None:
        self._address = _address(os.environ.get("NOTIFY_SOCKET", ""))
        # Made once, because later there may be no descriptor left. It is not connected, so that it finds a manager that
        # was started anew.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if self._address else None
        self._untold: str | None = None
        self._next: float | None = None
        self._is_heard = True

    def ready(self, status: str) -> None:
        """Tell that requests are answered from now on, after a start or a reload. ``status`` is for people."""
        self._tell(f"READY=1\nSTATUS={one_line(status)}")

    def reloading(self) -> None:
        """Tell that the configuration is being read anew. :meth:`ready` ends that."""
        # Type=notify-reload wants the time, to tell this reload from an earlier one (sd_notify(3)).
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Tell that no connection is accepted any more."""
        self._tell("STOPPING=1\nSTATUS=Finishing running transfers")

    def alive(self) -> bool:
        """Tell that the loop still runs. Returns whether that could be told."""
        return self._send("WATCHDOG=1")

    def due(self) -> float | None:
        """When to tell again what could not be told, on the monotonic clock."""
        return self._next

    def run(self) -> None:
        """Tell it again if that is due."""
        if self._untold is not None and self._next is not None and time.monotonic() >= self._next:
            self._tell(self._untold)

    def close(self) -> None:
        """Tell nothing more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _tell(self, state: str) -> None:
        is_told = self._send(state)
        self._untold = None if is_told else state
        self._next = None if is_told else time.monotonic() + _RETRY_SECONDS

    def _send(self, message: str) -> bool:
        if self._socket is None:
            return True
        try:
            self._socket.sendto(message.encode(errors="replace"), _NEITHER_WAIT_NOR_DIE, self._address)
        except OSError as error:  # nobody there, a full queue, no memory, an impossible path
            if self._is_heard:
                _log.warning("the service manager cannot be told anything for now: %s", error.strerror or error)
            self._is_heard = False
            return False
        self._is_heard = True
        return True


def _address(text: str) -> str:
    """The address in ``NOTIFY_SOCKET``: a path, or a name in the abstract name space; "" for any other kind."""
    return text.replace("@", "\0", 1) if text.startswith("@") else text if text.startswith("/") else ""


class Watchdog:
    """Tells the service manager, if it asks for that, that the loop still runs: three times in each of its periods."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._interval = _watchdog_seconds() / 3
        self._next: float | None = time.monotonic() if self._interval else None

    def due(self) -> float | None:
        """When to tell it again, on the monotonic clock; None if the manager does not ask for it."""
        return self._next

    def run(self) -> None:
        """Tell it if that is due."""
        now = time.monotonic()
        if self._next is not None and now >= self._next:
            is_told = self._notifier.alive()
            self._next = now + (self._interval if is_told else min(self._interval, _RETRY_SECONDS))


def _watchdog_seconds() -> float:
    """Seconds that the service manager waits for a sign of life (sd_watchdog_enabled(3)); 0 if it does not wait."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    is_meant = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(microseconds) / 1e6 if is_meant and _NUMBER.fullmatch(microseconds) else 0.0
