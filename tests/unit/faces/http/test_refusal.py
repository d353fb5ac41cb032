"""Answers that the server gives on its own."""

from __future__ import annotations

import json
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import pytest

from container_image_proxy.faces.http.refusal import refusal
from container_image_proxy.faces.http.request_head import RefusedRequestError


def fields_of(head: bytes) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in head.decode("ascii").split("\r\n")[1:] if line)


def test_a_refusal_is_a_whole_answer_with_a_date_after_which_the_connection_closes() -> None:
    head, body = refusal(RefusedRequestError(HTTPStatus.FORBIDDEN, "not you", "DENIED"))
    fields = fields_of(head)
    assert head.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert parsedate_to_datetime(fields["Date"]).tzname() == "UTC"
    assert fields["Connection"] == "close"
    assert int(fields["Content-Length"]) == len(body)
    assert (json.loads(body)["detail"], json.loads(body)["code"]) == ("not you", "DENIED")


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        (HTTPStatus.SERVICE_UNAVAILABLE, True),
        (HTTPStatus.REQUEST_TIMEOUT, True),
        (HTTPStatus.FORBIDDEN, False),
        (HTTPStatus.BAD_REQUEST, False),
    ],
)
def test_what_may_succeed_later_says_so(status: HTTPStatus, *, retryable: bool) -> None:
    _, body = refusal(RefusedRequestError(status, "x"))
    assert json.loads(body)["retryable"] is retryable


def test_a_refusal_may_say_when_to_come_back() -> None:
    head, _ = refusal(RefusedRequestError(HTTPStatus.SERVICE_UNAVAILABLE, "x", retry_after=7))
    assert fields_of(head)["Retry-After"] == "7"


def test_a_refusal_of_head_has_the_length_of_a_body_and_no_body() -> None:
    head, body = refusal(RefusedRequestError(HTTPStatus.BAD_REQUEST, "x"), head_only=True)
    assert int(fields_of(head)["Content-Length"]) > 0
    assert body == b""
