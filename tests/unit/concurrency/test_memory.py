"""Places for large images: few, one for an image, and nobody waits for one for ever."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from container_image_proxy.concurrency.cancellation import Cancellation, CancelledError
from container_image_proxy.concurrency.context import Context
from container_image_proxy.concurrency.memory import LARGE, SMALL, Memory
from container_image_proxy.errors import InvalidManifestError, OverloadedError
from tests.support.contexts import CONTEXT

PATIENCE = 10.0


def test_any_number_of_small_images_is_resolved_at_a_time() -> None:
    memory = Memory(places=1, patience=0)
    with ExitStack() as stack:
        for number in range(100):
            share = stack.enter_context(memory.share(CONTEXT, f"image-{number}"))
            share.take(SMALL // 2)
            share.take(SMALL // 2)


@pytest.mark.demand("LIM-manifest")
def test_as_many_large_images_as_there_are_places() -> None:
    memory = Memory(places=2, patience=0)
    with memory.share(CONTEXT, "a") as a, memory.share(CONTEXT, "b") as b, memory.share(CONTEXT, "c") as c:
        a.take(SMALL + 1)
        a.take(SMALL + 1)
        b.take(LARGE)
        c.take(SMALL)
        with pytest.raises(OverloadedError):
            c.take(1)
    with memory.share(CONTEXT, "c") as c:
        c.take(LARGE)


def test_an_image_has_one_place_at_most() -> None:
    memory = Memory(places=2, patience=0)
    with memory.share(CONTEXT, "a") as one, memory.share(CONTEXT, "a") as other, memory.share(CONTEXT, "b") as stranger:
        one.take(LARGE)
        with pytest.raises(OverloadedError):
            other.take(LARGE)
        stranger.take(LARGE)


@pytest.mark.demand("LIM-manifest")
def test_no_image_may_have_more_than_the_largest() -> None:
    with Memory().share(CONTEXT, "a") as share:
        share.take(LARGE)
        with pytest.raises(InvalidManifestError, match="more than"):
            share.take(1)


def test_who_waits_goes_on_when_a_place_becomes_free() -> None:
    memory = Memory(places=1, patience=PATIENCE)
    waiting = threading.Event()

    def resolve() -> bool:
        with memory.share(CONTEXT, "b") as share:
            waiting.set()
            share.take(LARGE)
            return share.has_place

    with ThreadPoolExecutor(1) as pool:
        with memory.share(CONTEXT, "a") as share:
            share.take(LARGE)
            outcome = pool.submit(resolve)
            assert waiting.wait(PATIENCE)
            assert not outcome.done()
        assert outcome.result(PATIENCE)


@pytest.mark.demand("client-disconnect")
def test_who_waits_for_a_place_gives_up_when_nobody_wants_the_image_any_more() -> None:
    memory = Memory(places=1, patience=3600)
    token = Cancellation()

    def resolve() -> None:
        with memory.share(Context(token), "b") as share:
            share.take(LARGE)

    with memory.share(CONTEXT, "a") as share, ThreadPoolExecutor(1) as pool:
        share.take(LARGE)
        outcome = pool.submit(resolve)
        token.cancel()
        with pytest.raises(CancelledError):
            outcome.result(PATIENCE)
