"""A request to a running daemon to read its configuration anew, and the answer to it.

A signal cannot be answered. The asking process therefore first opens a datagram socket of its own in the daemon's
runtime directory, and then sends SIGHUP. The daemon notes the sockets before it reads the files, and answers them
afterwards. An answer is thus about files as they were after the question, however many processes ask at once, and a
bare ``kill -HUP`` works as well. Only root and the daemon's own user can enter the directory.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
from typing import TYPE_CHECKING, Final

from container_image_proxy.errors import Error

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)

_PREFIX: Final = "reload."
_MAX_ANSWER: Final = 32 * 1024  # bytes; fits into any socket's buffer
_PATIENCE: Final = 60.0  # seconds, fewer than systemd's own time for a reload (TimeoutStartSec=, 90)


class Askers:
    """The processes that wait for an answer, by their sockets in ``directory``; none without one."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    def note(self) -> tuple[Path, ...]:
        """The sockets of those that wait now."""
        if self._directory is None:
            return ()
        try:
            return tuple(path for path in self._directory.iterdir() if path.name.startswith(_PREFIX))
        except OSError:
            return ()

    def tell(self, askers: tuple[Path, ...], complaint: str) -> None:
        """Answer with ``complaint``, which is empty if all is well. Neither waits nor raises."""
        answer = complaint.encode(errors="replace")[:_MAX_ANSWER]
        for asker in askers:
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                    sender.sendto(answer, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL, os.fspath(asker))
            except ConnectionRefusedError:  # a process that was killed left its socket behind
                with contextlib.suppress(OSError):
                    asker.unlink()
            except OSError as error:
                _log.warning("the answer to a reload was lost: %s", error.strerror)


def ask_for_reload(pid: int, directory: Path) -> str:
    """Have the daemon with ``pid`` and this runtime directory read its configuration anew, and wait for its answer.

    Returns its complaint, which is empty if all is well. Raises :class:`Error` if it cannot be asked, or gives no
    answer.
    """
    place = directory / f"{_PREFIX}{os.getpid()}"
    with contextlib.ExitStack() as stack:
        try:
            daemon = os.pidfd_open(pid)  # so that no signal reaches a later process with the same number
            stack.callback(os.close, daemon)
            answers = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            place.unlink(missing_ok=True)  # a process that was killed may have left a socket with our number
            answers.bind(os.fspath(place))
            stack.callback(place.unlink, missing_ok=True)
            signal.pidfd_send_signal(daemon, signal.SIGHUP)
        except OSError as error:
            raise Error(f"the daemon (pid {pid}) cannot be asked: {error.strerror or error}") from error
        ready, _, _ = select.select([answers.fileno(), daemon], [], [], _PATIENCE)
        if answers.fileno() in ready:
            return answers.recv(_MAX_ANSWER).decode(errors="replace")
    reason = "has ended" if ready else f"gave no answer within {_PATIENCE:g} s"
    raise Error(f"the daemon (pid {pid}) {reason}")
