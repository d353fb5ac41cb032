"""The file that says what is wrong with the configuration, for the units that monitoring sees.

systemd has no state for a service that is up and degraded. ``container-image-proxy-health@NAME.path`` therefore watches
the file ``health`` in the instance's runtime directory, and its service fails as long as the file has content
(contrib/adr/0023). Spec: systemd.path(5).
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from container_image_proxy.service.journal import one_line

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)

_NAME: Final = "health"
_SETTLED_SECONDS: Final = 5.0
"""Seconds. A path unit does not see a change that comes while its service runs, which takes some hundredths of one.
A change that follows another one within this time is therefore written once more at its end.
"""


class Health:
    """The file in ``directory``; no file without one. A failure to write it is only logged. A timer of the loop."""

    def __init__(self, directory: Path | None) -> None:
        self._path = directory / _NAME if directory else None
        last = None
        if self._path is not None:
            with suppress(OSError, ValueError):  # there is none yet, or it is none of ours
                last = self._path.read_text()
        self._said = last or ""
        # If the process before this one wrote the file, that may have been a moment ago.
        self._settled_at = 0.0 if last is None else time.monotonic() + _SETTLED_SECONDS
        self._repeat_at: float | None = None

    def report(self, complaint: str) -> None:
        """Write what is wrong; "" if nothing is. The same again is not written."""
        line = f"{one_line(complaint)}\n" if complaint else ""
        if line != self._said:
            now = time.monotonic()
            self._repeat_at = None if now >= self._settled_at else now + _SETTLED_SECONDS
            self._settled_at = now + _SETTLED_SECONDS
            self._said = line
            self._write()

    def due(self) -> float | None:
        """When to write once more, on the monotonic clock."""
        return self._repeat_at

    def run(self) -> None:
        """Write once more if that is due."""
        if self._repeat_at is not None and time.monotonic() >= self._repeat_at:
            self._repeat_at = None
            self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        new = self._path.with_name(f"{_NAME}.new")  # renamed when it is complete: the unit must not see half of it
        try:
            new.write_text(self._said)
            new.replace(self._path)
        except OSError as error:
            _log.warning("%s cannot be written: %s", self._path, error.strerror)
