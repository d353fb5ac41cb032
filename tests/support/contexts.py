"""Contexts for tests."""

from __future__ import annotations

from container_image_proxy.concurrency.cancellation import Cancellation
from container_image_proxy.concurrency.context import Context

CONTEXT = Context(Cancellation())
"""One that nobody cancels, without a deadline."""
