"""Who waits does so until somebody cancels, or the time is over: a context can only be narrowed."""

from __future__ import annotations

import threading

import pytest

from container_image_proxy.concurrency.cancellation import Cancellation, CancelledError
from container_image_proxy.concurrency.context import AddressPolicy, Context, Deadline
from tests.support.contexts import CONTEXT

PATIENCE = 10.0


def test_work_of_which_nothing_ends_the_wait_goes_on() -> None:
    CONTEXT.check()
    CONTEXT.sleep(0)


def test_work_that_nobody_waits_for_ends_and_other_work_does_not() -> None:
    token = Cancellation()
    token.cancel()
    with pytest.raises(CancelledError):
        Context(token).check()
    Context(token).under(Cancellation()).check()


def test_work_ends_when_its_time_is_over() -> None:
    with pytest.raises(TimeoutError):
        CONTEXT.within(0).check()
    with pytest.raises(TimeoutError):
        CONTEXT.within(0.01).sleep(3600)


def test_who_left_before_the_time_was_over_has_left() -> None:
    token = Cancellation()
    token.cancel()
    with pytest.raises(CancelledError):
        Context(token).within(0).check()


def test_less_time_can_be_given_and_more_cannot() -> None:
    hour = CONTEXT.within(3600)
    assert hour.within(7200).deadline == hour.deadline
    assert hour.within(60).deadline < hour.deadline
    assert CONTEXT.deadline == Deadline()


def test_a_narrower_context_is_of_the_same_work() -> None:
    inner = CONTEXT.within(60).towards(AddressPolicy.PUBLIC)
    assert (inner.cancellation, inner.addresses) == (CONTEXT.cancellation, AddressPolicy.PUBLIC)


@pytest.mark.demand("client-disconnect")
def test_a_sleep_ends_when_its_token_is_cancelled() -> None:
    token = Cancellation()
    asleep, ended = threading.Event(), threading.Event()

    def sleep() -> None:
        asleep.set()
        try:
            Context(token).sleep(3600)
        except CancelledError:
            ended.set()

    sleeper = threading.Thread(target=sleep)
    sleeper.start()
    assert asleep.wait(PATIENCE)
    token.cancel()
    sleeper.join(PATIENCE)
    assert ended.is_set()
