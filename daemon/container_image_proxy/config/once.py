"""Warnings that are told once: some files are read again for every lookup, and the log shall not repeat itself."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging


@functools.lru_cache(maxsize=256)
def warn_once(log: logging.Logger, message: str) -> None:
    """Log ``message``, which is told again only after many others."""
    log.warning("%s", message)
