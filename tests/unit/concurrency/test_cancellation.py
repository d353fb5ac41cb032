"""Who waits learns that nobody waits for him."""

from __future__ import annotations

import threading

import pytest

from container_image_proxy.concurrency import cancellation
from container_image_proxy.concurrency.cancellation import Cancellation, CancelledError

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


def test_work_that_is_not_done_in_time_is_cancelled_and_its_token_is_not() -> None:
    token, released = Cancellation(), threading.Event()

    def work() -> None:
        with cancellation.within(0.01), cancellation.current().calling(released.set):
            cancellation.sleep(PATIENCE)

    with cancellation.under(token):
        with pytest.raises(TimeoutError, match=r"not done within 0\.01 s"):
            work()
        cancellation.check()
    assert released.is_set()
    assert not token.is_cancelled


def test_work_that_is_done_in_time_is_not_cancelled_later() -> None:
    with cancellation.within(0.01):
        inner = cancellation.current()
    with cancellation.within(0.05), pytest.raises(CancelledError):
        cancellation.sleep(PATIENCE)
    assert not inner.is_cancelled


def test_who_left_before_the_time_was_over_has_left() -> None:
    token = Cancellation()

    def leave() -> None:
        with cancellation.within(PATIENCE):
            token.cancel()
            cancellation.check()

    with cancellation.under(token), pytest.raises(CancelledError):
        leave()


def test_there_is_no_time_at_all() -> None:
    with pytest.raises(TimeoutError), cancellation.within(-1):
        cancellation.sleep(PATIENCE)
