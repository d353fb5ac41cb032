"""A value that is made once, by whoever asks first."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from container_image_proxy.concurrency.lazy import Lazy


def test_nothing_is_made_before_it_is_asked_for() -> None:
    lazy = Lazy(object)
    assert not lazy.is_made
    assert lazy() is lazy()
    assert lazy.is_made


def test_threads_that_ask_at_once_have_one_value() -> None:
    makers = threading.Barrier(2)
    made = []

    def make() -> object:
        made.append(object())
        with suppress(threading.BrokenBarrierError):
            makers.wait(0.2)  # for a second maker, who must not come
        return made[-1]

    lazy = Lazy(make)
    with ThreadPoolExecutor(2) as threads:
        assert set(threads.map(lambda _: lazy(), range(2))) == set(made)
    assert len(made) == 1


def test_a_failure_is_not_kept() -> None:
    outcomes = iter((ValueError("not yet"), None))

    def make() -> str:
        if (error := next(outcomes)) is not None:
            raise error
        return "made"

    lazy = Lazy(make)
    with pytest.raises(ValueError, match="not yet"):
        lazy()
    assert not lazy.is_made
    assert lazy() == "made"
