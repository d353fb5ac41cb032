"""Messages: whatever comes is a request or an error, and every answer fits."""

from __future__ import annotations

import json
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.errors import Error, OverloadedError, PolicyRejectedError, UnknownBlobError, UpstreamError
from container_image_proxy.faces.http.request_head import RefusedRequestError
from container_image_proxy.faces.image_proxy import messages
from container_image_proxy.faces.image_proxy.messages import (
    MAX_MESSAGE,
    Call,
    InvalidRequestError,
    ReaderGoneError,
    ReaderStalledError,
    parse_request,
    read_integer,
    read_text,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["method", "args", "Args", "x"]) | st.text(), inner)
    ),
)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_a_message_is_a_request_or_an_error(message: bytes) -> None:
    try:
        request = parse_request(message)
    except InvalidRequestError:
        return
    assert isinstance(request.method, str)
    assert isinstance(request.arguments, tuple)


@given(st.text(), st.lists(JSON))
def test_what_clients_write_is_what_is_read(method: str, arguments: list[object]) -> None:
    message = json.dumps({"method": method, "args": arguments}, allow_nan=False) if _is_plain(arguments) else None
    if message is not None and len(message) <= MAX_MESSAGE:
        request = parse_request(message.encode())
        assert (request.method, json.dumps(request.arguments)) == (method, json.dumps(arguments))


def _is_plain(value: object) -> bool:
    """Whether every reader of JSON reads the same: no surrogates, no huge numbers."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        text.encode()
    except ValueError:
        return False
    return not any(len(digits) > 15 for digits in text.replace("-", " ").replace(".", " ").split())


@pytest.mark.parametrize(
    "message", [b'{"method":"A","method":"B"}', b'{"METHOD":"B","args":null}', b'{"method":"B","x":[{}]}']
)
def test_messages_are_read_as_the_recorded_program_reads_them(message: bytes) -> None:
    assert parse_request(message) == Call("B", ())


@pytest.mark.parametrize("value", [0, 1, 2**53 - 1, 1.0])
def test_whole_numbers(value: float) -> None:
    assert read_integer(value, "it") == value


@pytest.mark.parametrize("value", [-1, 2**53, 1.5, 1e300, float("inf"), True, None, "1", [], {}])
def test_what_is_no_whole_number(value: object) -> None:
    with pytest.raises(InvalidRequestError, match=r"^it "):
        read_integer(value, "it")


@pytest.mark.parametrize("value", [5, None, True, [], {}])
def test_what_is_no_text(value: object) -> None:
    with pytest.raises(InvalidRequestError, match=r"^it is not text"):
        read_text(value, "it")


@given(st.text(max_size=10_000))
def test_every_failure_fits_into_a_message(text: str) -> None:
    assert len(messages.failure(Error(text))) <= MAX_MESSAGE
    assert len(messages.error_record(Error(text))) <= 4096 * 8
    answer = json.loads(messages.failure(Error(text)))
    assert answer == {"success": False, "value": None, "pipeid": 0, "error_code": "other", "error": text[:2000]}


def test_an_answer_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(InvalidRequestError, match="larger"):
        messages.success(["x" * MAX_MESSAGE])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ReaderGoneError("gone"), "EPIPE"),
        (ReaderStalledError("stalled"), "other"),
        (UpstreamError("later", retryable=True), "retryable"),
        (UpstreamError("never"), "other"),
        (OverloadedError("later"), "retryable"),
        (PolicyRejectedError("no"), "other"),
        (UnknownBlobError("none"), "other"),
        (KeyError("a defect"), "other"),
        (RefusedRequestError(HTTPStatus.FORBIDDEN, "not you", "DENIED"), "other"),
        (
            RefusedRequestError(HTTPStatus.SERVICE_UNAVAILABLE, "too many", "TOOMANYREQUESTS", retry_after=1),
            "retryable",
        ),
    ],
)
def test_errors_have_the_protocols_code(error: Exception, code: str) -> None:
    assert json.loads(messages.failure(error))["error_code"] == code
    assert json.loads(messages.error_record(error))["code"] == code


def test_a_defect_is_told_without_a_word_about_it() -> None:
    assert "secret" not in messages.failure(KeyError("secret")).decode()
