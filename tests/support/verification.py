"""What verification is given, for tests that call parts of it directly."""

from __future__ import annotations

from container_image_proxy.concurrency.cancellation import Cancellation
from container_image_proxy.policy.budget import Budget

PATIENCE = 60.0  # seconds, far more than anything takes here


def make_budget(seconds: float = PATIENCE) -> Budget:
    """A budget that nobody cancels."""
    return Budget(seconds, Cancellation())
