"""Warnings that are logged once, about files that are read again for every lookup."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging


@functools.lru_cache(maxsize=256)
def warn_once(log: logging.Logger, message: str) -> None:
    """Log ``message`` as a warning, unless it is among the last 256 messages of this function."""
    log.warning("%s", message)
