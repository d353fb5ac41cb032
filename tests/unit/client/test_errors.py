"""Errors: a problem document becomes the class of its code, and every code has a remedy and an exit code."""

from __future__ import annotations

import json

import pytest

from container_image_client import errors
from container_image_client.cli.exit_codes import ExitCode, exit_code_of
from container_image_client.errors import parse_problem
from container_image_proxy.faces.http import problem

CODES = {row.code: row.status.value for row in problem._TABLE}
NEVER_ASKED = {"NOT_FOUND", "RANGE_INVALID"}  # by this client
KINDS = {
    "DENIED": (errors.DeniedError, ExitCode.DENIED),
    "POLICY_REJECTED": (errors.PolicyRejectedError, ExitCode.REJECTED),
    "NAME_UNKNOWN": (errors.NotFoundError, ExitCode.NOT_FOUND),
    "CONFIGURATION": (errors.ConfigurationError, ExitCode.SOURCE),
    "DIGEST_INVALID": (errors.RequestError, ExitCode.USAGE),
    "DIGEST_MISMATCH": (errors.SourceError, ExitCode.SOURCE),
}


def answered(code: str, status: int, **members: object) -> errors.ProblemError:
    return parse_problem(status, json.dumps({"code": code, "detail": "why", "status": status, **members}).encode())


@pytest.mark.parametrize("code", sorted(CODES.keys() - NEVER_ASKED))
def test_every_code_of_the_daemon_has_a_remedy(code: str) -> None:
    error = answered(code, CODES[code])
    assert (str(error), error.code, bool(error.remedy)) == ("why", code, True)


@pytest.mark.parametrize("code", KINDS)
def test_a_code_has_its_class_and_its_exit_code(code: str) -> None:
    error = answered(code, CODES[code])
    assert (type(error), exit_code_of(error)) == KINDS[code]


def test_what_may_succeed_later_has_one_exit_code_whatever_it_is() -> None:
    assert {exit_code_of(answered(code, CODES[code], retryable=True)) for code in CODES} == {ExitCode.LATER}


def test_the_daemons_own_remedy_and_reasons_are_kept() -> None:
    assert answered("CONFIGURATION", 500, remedy="mend it").remedy == "mend it"
    rejected = answered("POLICY_REJECTED", 403, reasons=["one", "two"])
    assert isinstance(rejected, errors.PolicyRejectedError)
    assert rejected.reasons == ("one", "two")


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"\xff", b'"x"', b'{"code": 5, "detail": ["x"], "retryable": "yes"}']
)
def test_an_answer_that_is_no_problem_document_is_an_error_all_the_same(body: bytes) -> None:
    error = parse_problem(502, body)
    assert isinstance(error, errors.SourceError)
    assert str(error)
    assert not error.retryable


@pytest.mark.parametrize(
    ("value", "seconds"), [("7", 7.0), ("-1", None), ("soon", None), ("1" * 30, None), (None, None)]
)
def test_retry_after_is_read_as_seconds(value: str | None, seconds: float | None) -> None:
    assert parse_problem(503, b"{}", retry_after=value).retry_after == seconds
