"""A token is cancelled once and for good, and tells those who want to know."""

from __future__ import annotations

from container_image_proxy.concurrency.cancellation import Cancellation, CancelledError


def test_a_callback_is_called_once_and_only_meanwhile() -> None:
    token = Cancellation()
    calls: list[str] = []
    with token.calling(lambda: calls.append("before")):
        pass
    with token.calling(lambda: calls.append("meanwhile")):
        token.cancel()
        token.cancel()
    with token.calling(lambda: calls.append("late")):
        pass
    assert calls == ["meanwhile", "late"]


def test_cancellation_is_no_failure_that_anybody_handles() -> None:
    assert not issubclass(CancelledError, Exception)
