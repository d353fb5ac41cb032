"""One run for all who ask at once, and nothing left of it when it fails."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress

import pytest

from container_image_proxy.single_flight import SingleFlight

PATIENCE = 10.0


class Document:
    """Something that a run has in hand, as large as it likes."""


class Key:
    """Tells when another thread than the first looks for it; that is under the lock, so that it finds what is there."""

    def __init__(self) -> None:
        self.is_wanted = threading.Event()
        self._first = threading.get_ident()

    def __hash__(self) -> int:
        if threading.get_ident() != self._first:
            self.is_wanted.set()
        return 0


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

    def fail() -> None:
        document = Document()
        documents.add(document)
        other.start()
        assert key.is_wanted.wait(PATIENCE)
        raise LookupError

    def share() -> None:
        try:
            flights.run(key, lambda: None)
        except LookupError:
            failed.append("the other one")

    other = threading.Thread(target=share)
    with suppress(LookupError):
        flights.run(key, fail)
    other.join(PATIENCE)
    assert failed == ["the other one"]
    assert not documents


def test_after_a_failure_the_next_run_is_a_new_one() -> None:
    flights: SingleFlight[int] = SingleFlight()
    with pytest.raises(ZeroDivisionError):
        flights.run("key", lambda: 1 // 0)
    assert flights.run("key", lambda: 1) == 1
