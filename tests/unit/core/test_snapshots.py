"""Kept images are judged when they are wanted, each once, and nobody waits for the judgement of another one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from container_image_proxy.core.snapshot_store import SnapshotStore
from container_image_proxy.core.snapshots import Snapshots
from container_image_proxy.core.stored_image import StoredImage
from container_image_proxy.errors import PolicyRejectedError, VerificationTimeoutError
from tests.unit.core.test_snapshot_store import stored

PATIENCE = 10.0


class Evaluator:
    """Takes its time over image 1, until it is let go; counts."""

    def __init__(self) -> None:
        self.judged: list[StoredImage] = []
        self.is_slow = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, image: StoredImage) -> Any:
        self.judged.append(image)
        if image == stored(1):
            self.is_slow.set()
            assert self.go_on.wait(PATIENCE)
        return SimpleNamespace(stored=image)


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
        waiting = pool.submit(lambda: list(kept.of("slow")))
        assert judge.is_slow.wait(PATIENCE)
        assert [one.stored for one in kept.of("other")] == [stored(2)]
        kept.add("slow", SimpleNamespace(stored=stored(3)))  # type: ignore[arg-type]
        assert next(kept.of("slow")).stored == stored(3)
        judge.go_on.set()
        assert [one.stored for one in waiting.result(PATIENCE)] == [stored(1)]


def test_all_who_want_the_same_share_its_judgement(judge: Evaluator) -> None:
    kept = snapshots(judge, slow=[1])
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(lambda: list(kept.of("slow"))) for _ in range(8)]
        assert judge.is_slow.wait(PATIENCE)
        judge.go_on.set()
        assert [len(one.result(PATIENCE)) for one in waiting] == [1] * 8
    assert len(judge.judged) == 1


def test_only_those_that_are_wanted_are_judged(judge: Evaluator) -> None:
    kept = snapshots(judge, shelf=[2, 1, 3])
    assert next(kept.of("shelf")).stored == stored(2)
    assert judge.judged == [stored(2)]


def test_a_rejection_is_remembered_too(judge: Evaluator, caplog: pytest.LogCaptureFixture) -> None:
    def reject(image: StoredImage) -> None:
        judge.judged.append(image)
        raise PolicyRejectedError("no")

    store = SnapshotStore(None)
    store.add("shelf", stored(2))
    kept = Snapshots(store, reject)
    assert [*kept.of("shelf"), *kept.of("shelf")] == []
    assert len(judge.judged) == 1
    assert "is not used: no" in caplog.text


def test_what_is_no_longer_kept_is_forgotten() -> None:
    store = SnapshotStore(None)
    kept = Snapshots(store, lambda image: SimpleNamespace(stored=image))  # type: ignore[arg-type, return-value]
    for number in range(100):
        kept.add("shelf", SimpleNamespace(stored=stored(number)))  # type: ignore[arg-type]
    assert len(kept._verdicts) == len(store.kept())


def test_a_judgement_for_which_there_was_no_time_is_none_and_is_tried_again() -> None:
    busy = iter([VerificationTimeoutError("too slow")])

    def late(image: StoredImage) -> Any:
        for error in busy:
            raise error
        return SimpleNamespace(stored=image)

    store = SnapshotStore(None)
    for number in (1, 2):
        store.add("os", stored(number))
    kept = Snapshots(store, late)
    with pytest.raises(VerificationTimeoutError):
        next(kept.of("os"))
    assert next(kept.of("os")).stored == stored(2)
