"""Who waits learns that nobody waits for him."""

from __future__ import annotations

import threading

import pytest

from container_image_proxy import cancellation
from container_image_proxy.cancellation import Cancellation, CancelledError

PATIENCE = 10.0


def test_without_a_token_nothing_is_ever_cancelled() -> None:
    cancellation.check()
    cancellation.sleep(0)


def test_work_under_a_token_sees_that_it_was_cancelled_and_other_work_does_not() -> None:
    token = Cancellation()
    token.cancel()
    with cancellation.under(token), pytest.raises(CancelledError):
        cancellation.check()
    with cancellation.under(token), cancellation.under(Cancellation()):
        cancellation.check()
    cancellation.check()


def test_a_sleep_ends_when_its_token_is_cancelled() -> None:
    token = Cancellation()
    asleep, woken, ended = threading.Event(), threading.Event(), threading.Event()

    def sleep() -> None:
        with cancellation.under(token), token.calling(woken.set):
            asleep.set()
            try:
                cancellation.sleep(3600)
            except CancelledError:
                ended.set()

    sleeper = threading.Thread(target=sleep)
    sleeper.start()
    assert asleep.wait(PATIENCE)
    token.cancel()
    sleeper.join(PATIENCE)
    assert not sleeper.is_alive()
    assert woken.is_set()
    assert ended.is_set()


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
