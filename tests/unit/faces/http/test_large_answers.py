"""Large bodies on their way to clients take so much memory at a time, and no more."""

from __future__ import annotations

import pytest

from container_image_proxy.concurrency.memory import SMALL
from container_image_proxy.errors import OverloadedError
from container_image_proxy.faces.http.large_answers import HeldBody, LargeAnswers

SIZE = SMALL + 1


def held(answers: LargeAnswers, body: bytes) -> HeldBody:
    answer = answers.hold(body)
    assert isinstance(answer, HeldBody)
    assert b"".join(answer) == body
    return answer


def test_a_small_body_is_what_it_was() -> None:
    answers = LargeAnswers(max_size=1)
    assert [answers.hold(bytes(SMALL)) for _ in range(2)] == [bytes(SMALL)] * 2


@pytest.mark.demand("client-stall")
def test_large_bodies_that_clients_still_take_leave_no_room_for_another_one() -> None:
    answers = LargeAnswers(max_size=2 * SIZE)
    bodies = [bytes([number]) * SIZE for number in range(3)]
    first, _second = (held(answers, body) for body in bodies[:2])
    with pytest.raises(OverloadedError):
        answers.hold(bodies[2])
    first.close()
    held(answers, bodies[2])


def test_a_body_that_several_clients_take_counts_once() -> None:
    answers = LargeAnswers(max_size=SIZE)
    body, other = bytes(SIZE), b"x" * SIZE
    clients = [held(answers, body) for _ in range(3)]
    for client in clients:
        with pytest.raises(OverloadedError):
            answers.hold(other)
        client.close()
    held(answers, other)


def test_one_that_is_larger_than_all_may_be_goes_alone() -> None:
    answers = LargeAnswers(max_size=1)
    held(answers, bytes(SIZE)).close()
    held(answers, b"x" * SIZE)
