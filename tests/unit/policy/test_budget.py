"""What verification may compute: the time that counts, and who ends it."""

from __future__ import annotations

import contextlib
import threading

import pytest

from container_image_proxy.concurrency.cancellation import SLICE, Cancellation, CancelledError
from container_image_proxy.errors import PolicyRejectedError, VerificationTimeoutError
from container_image_proxy.policy.budget import Budget
from tests.support.verification import make_budget


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_it_lasts_for_its_seconds_and_no_longer() -> None:
    clock = Clock()
    budget = Budget(30, Cancellation(), clock)
    clock.now += 29
    budget.check()
    assert budget.left == 1
    clock.now += 1
    with pytest.raises(VerificationTimeoutError, match=r"within 30 s.*verification-timeout"):
        budget.check()


def test_time_that_it_is_paused_does_not_count_though_that_fails() -> None:
    clock = Clock()
    budget = Budget(30, Cancellation(), clock)
    clock.now += 10
    with contextlib.suppress(OSError), budget.paused():
        clock.now += 300
        raise OSError("network")
    assert budget.left == 20


def test_it_ends_at_once_when_nobody_waits_any_more() -> None:
    budget = Budget(30, token := Cancellation())
    token.cancel()
    with pytest.raises(CancelledError):
        budget.check()


def test_waiting_looks_up_now_and_then_and_never_longer_than_is_left() -> None:
    clock = Clock()
    budget = Budget(30, Cancellation(), clock)
    assert budget.patience == SLICE
    clock.now += 30 - SLICE / 2
    assert budget.patience == SLICE / 2
    clock.now += 60
    assert budget.patience == 0


def test_a_lock_is_waited_for_within_the_budget_and_released() -> None:
    lock = threading.Lock()
    with lock, pytest.raises(VerificationTimeoutError), make_budget(0.01).holding(lock):
        pass
    budget = Budget(30, token := Cancellation())
    token.cancel()
    with lock, pytest.raises(CancelledError), budget.holding(lock):
        pass
    with make_budget().holding(lock):
        assert lock.locked()
    assert not lock.locked()


def test_the_end_of_it_is_a_rejection_that_may_pass() -> None:
    assert issubclass(VerificationTimeoutError, PolicyRejectedError)
    assert VerificationTimeoutError.retryable
    assert not PolicyRejectedError.retryable
