"""Kept images are judged when they are wanted, each once, and nobody waits for the judgement of another one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from container_image_proxy.concurrency.context import Context
from container_image_proxy.core.lease import Lease
from container_image_proxy.core.snapshot_store import KEPT, SnapshotStore
from container_image_proxy.core.snapshots import Snapshots
from container_image_proxy.core.stored_image import StoredImage
from container_image_proxy.errors import PolicyRejectedError, VerificationTimeoutError
from tests.support.contexts import CONTEXT
from tests.unit.core.test_snapshot_store import stored

PATIENCE = 10.0


def never_opened() -> Any:
    raise AssertionError("nobody asked for a blob")


def snapshot_of(image: StoredImage) -> Any:
    return SimpleNamespace(stored=image, lease=Lease(never_opened))


class Evaluator:
    """Takes its time over image 1, until it is let go; counts."""

    def __init__(self) -> None:
        self.judged: list[StoredImage] = []
        self.is_slow = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, _: Context, image: StoredImage) -> Any:
        self.judged.append(image)
        if image == stored(1):
            self.is_slow.set()
            assert self.go_on.wait(PATIENCE)
        return snapshot_of(image)


@pytest.fixture
def judge() -> Evaluator:
    return Evaluator()


def snapshots(judge: Evaluator, **shelves: list[int]) -> Snapshots:
    store = SnapshotStore(None)
    for shelf, numbers in shelves.items():
        for number in reversed(numbers):
            store.add(shelf, stored(number))
    return Snapshots(store, judge)


def test_a_slow_judgement_keeps_nobody_else_waiting(judge: Evaluator) -> None:
    kept = snapshots(judge, slow=[1], other=[2])
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(lambda: list(kept.of(CONTEXT, "slow")))
        assert judge.is_slow.wait(PATIENCE)
        assert [one.stored for one in kept.of(CONTEXT, "other")] == [stored(2)]
        kept.add("slow", snapshot_of(stored(3)))
        assert next(kept.of(CONTEXT, "slow")).stored == stored(3)
        judge.go_on.set()
        assert [one.stored for one in waiting.result(PATIENCE)] == [stored(1)]


def test_all_who_want_the_same_share_its_judgement(judge: Evaluator) -> None:
    kept = snapshots(judge, slow=[1])
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(lambda: list(kept.of(CONTEXT, "slow"))) for _ in range(8)]
        assert judge.is_slow.wait(PATIENCE)
        judge.go_on.set()
        assert [len(one.result(PATIENCE)) for one in waiting] == [1] * 8
    assert len(judge.judged) == 1


def test_only_those_that_are_wanted_are_judged(judge: Evaluator) -> None:
    kept = snapshots(judge, shelf=[2, 1, 3])
    assert next(kept.of(CONTEXT, "shelf")).stored == stored(2)
    assert judge.judged == [stored(2)]


def test_a_rejection_is_remembered_too(judge: Evaluator, caplog: pytest.LogCaptureFixture) -> None:
    def reject(_: Context, image: StoredImage) -> None:
        judge.judged.append(image)
        raise PolicyRejectedError("no")

    store = SnapshotStore(None)
    store.add("shelf", stored(2))
    kept = Snapshots(store, reject)
    assert [*kept.of(CONTEXT, "shelf"), *kept.of(CONTEXT, "shelf")] == []
    assert len(judge.judged) == 1
    assert "is not used: no" in caplog.text


def test_what_is_no_longer_kept_is_forgotten() -> None:
    store = SnapshotStore(None)
    kept = Snapshots(store, snapshot_of)
    for number in range(100):
        kept.add("shelf", snapshot_of(stored(number)))
    assert len(kept._verdicts) == len(store.kept())


def test_a_judgement_for_which_there_was_no_time_is_none_and_is_tried_again() -> None:
    busy = iter([VerificationTimeoutError("too slow")])

    def late(_: Context, image: StoredImage) -> Any:
        for error in busy:
            raise error
        return snapshot_of(image)

    store = SnapshotStore(None)
    for number in (1, 2):
        store.add("os", stored(number))
    kept = Snapshots(store, late)
    with pytest.raises(VerificationTimeoutError):
        next(kept.of(CONTEXT, "os"))
    assert next(kept.of(CONTEXT, "os")).stored == stored(2)


def test_a_snapshot_holds_its_lease_as_long_as_it_is_kept() -> None:
    kept = Snapshots(SnapshotStore(None), snapshot_of)
    made = [snapshot_of(stored(number)) for number in range(KEPT + 1)]
    for one in made:
        kept.add("shelf", one)
    assert [one.lease._holders for one in made] == [0] + [1] * KEPT
    again = SimpleNamespace(stored=made[-1].stored, lease=made[-1].lease)
    kept.add("shelf", again)
    assert again.lease._holders == 1, "one that was checked anew takes the place of the former"
    kept.close()
    assert {one.lease._holders for one in made} == {0}
    kept.add("shelf", made[0])
    assert made[0].lease._holders == 0, "nothing is kept of a configuration that has been replaced"
