"""Waiting for what a test cannot be told of."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")
_PATIENCE = 120.0  # of a machine that is busy; who is in time does not wait
_MOMENT = 0.02


def await_true(look: Callable[[], _T], what: str) -> _T:
    """What ``look`` returns as soon as that is true."""
    deadline = time.monotonic() + _PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what} did not happen within {_PATIENCE:g} s"
        time.sleep(_MOMENT)
    return found
