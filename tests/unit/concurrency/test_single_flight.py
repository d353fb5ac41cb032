"""One run for all who ask at once, as long as one of them wants it, and nothing left of it when it fails."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import pytest

from container_image_proxy.concurrency.cancellation import Cancellation, CancelledError
from container_image_proxy.concurrency.context import Context
from container_image_proxy.concurrency.single_flight import SingleFlight
from tests.support.contexts import CONTEXT

PATIENCE = 10.0


class Key:
    """Tells when a second thread looks for it; that is under the lock, so that it finds the run of the first."""

    def __init__(self) -> None:
        self.is_shared = threading.Event()
        self._first: int | None = None

    def __hash__(self) -> int:
        self._first = self._first or threading.get_ident()
        if threading.get_ident() != self._first:
            self.is_shared.set()
        return 0


class SharedRun:
    """A run in the thread of ``first``, which ``second`` wants as well; it lasts until it may end or is cancelled."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.flights: SingleFlight[str] = SingleFlight()
        self.key = Key()
        self.tokens = (Cancellation(), Cancellation())
        self.may_end = threading.Event()
        self._has_begun = threading.Event()
        self.first = pool.submit(self._ask, self.tokens[0])
        assert self._has_begun.wait(PATIENCE)
        self.second: Future[str] = pool.submit(self._ask, self.tokens[1])
        assert self.key.is_shared.wait(PATIENCE)

    def _ask(self, token: Cancellation) -> str:
        return self.flights.run(Context(token), self.key, self._call)

    def _call(self, context: Context) -> str:
        self._has_begun.set()
        with context.cancellation.calling(self.may_end.set):
            assert self.may_end.wait(PATIENCE)
        context.check()
        return "value"


@pytest.fixture
def run() -> Iterator[SharedRun]:
    with ThreadPoolExecutor(2) as pool:
        yield SharedRun(pool)


@pytest.mark.demand("client-disconnect")
def test_a_run_goes_on_for_the_others_when_the_one_who_began_it_is_cancelled(run: SharedRun) -> None:
    run.tokens[0].cancel()
    run.may_end.set()
    assert run.second.result(PATIENCE) == "value"


@pytest.mark.demand("client-disconnect")
def test_who_only_shares_a_run_need_not_wait_for_it_once_cancelled(run: SharedRun) -> None:
    run.tokens[1].cancel()
    with pytest.raises(CancelledError):
        run.second.result(PATIENCE)
    run.may_end.set()
    assert run.first.result(PATIENCE) == "value"


@pytest.mark.demand("client-disconnect")
def test_a_run_that_nobody_wants_any_more_is_cancelled_and_shared_with_nobody(run: SharedRun) -> None:
    for token in run.tokens:
        token.cancel()
    assert run.flights.run(CONTEXT, run.key, lambda _: "another") == "another"
    for asked in (run.first, run.second):
        with pytest.raises(CancelledError):
            asked.result(PATIENCE)


class Document:
    """Something that a run has in hand, as large as it likes."""


@pytest.fixture
def _no_collector() -> Iterator[None]:
    """Only what nobody refers to any more goes; cycles stay."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.demand("LIM-manifest")
@pytest.mark.usefixtures("_no_collector")
def test_nothing_that_a_failed_run_had_in_hand_outlives_its_error() -> None:
    flights: SingleFlight[None] = SingleFlight()
    documents: weakref.WeakSet[Document] = weakref.WeakSet()
    key = Key()
    failed: list[str] = []

    def fail(_: Context) -> None:
        document = Document()
        documents.add(document)
        other.start()
        assert key.is_shared.wait(PATIENCE)
        raise LookupError

    def share() -> None:
        try:
            flights.run(CONTEXT, key, lambda _: None)
        except LookupError:
            failed.append("the other one")

    other = threading.Thread(target=share)
    with suppress(LookupError):
        flights.run(CONTEXT, key, fail)
    other.join(PATIENCE)
    assert failed == ["the other one"]
    assert not documents


def test_after_a_failure_the_next_run_is_a_new_one() -> None:
    flights: SingleFlight[int] = SingleFlight()
    with pytest.raises(ZeroDivisionError):
        flights.run(CONTEXT, "key", lambda _: 1 // 0)
    assert flights.run(CONTEXT, "key", lambda _: 1) == 1


def test_who_only_shares_a_run_waits_for_it_until_its_own_deadline(run: SharedRun) -> None:
    with pytest.raises(TimeoutError):
        run.flights.run(CONTEXT.within(0), run.key, lambda _: "another")
    run.may_end.set()
    assert run.second.result(PATIENCE) == "value"
