"""Errors as problem documents: the table of design, and nothing secret or foreign in an answer."""

from __future__ import annotations

import inspect
import json

import pytest

from container_image_proxy import errors
from container_image_proxy.faces.http.problem import MEDIA_TYPE, Answer, is_expected, problem_of


def document(answer: Answer) -> dict[str, object]:
    assert isinstance(answer.body, bytes)
    assert dict(answer.headers)["Content-Length"] == str(len(answer.body))
    return json.loads(answer.body)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.InvalidDigestError("x"), 400, "DIGEST_INVALID"),
        (errors.InvalidInputError("x"), 400, "NAME_INVALID"),
        (errors.InvalidPlatformError("x"), 400, "QUERY_INVALID"),
        (errors.InvalidQueryError("x"), 400, "QUERY_INVALID"),
        (errors.PeerDeniedError("x"), 403, "DENIED"),
        (errors.PolicyRejectedError("x"), 403, "POLICY_REJECTED"),
        (errors.RegistryBlockedError("x"), 403, "POLICY_REJECTED"),
        (errors.UnknownImageError("x"), 404, "NAME_UNKNOWN"),
        (errors.UnknownManifestError("x"), 404, "MANIFEST_UNKNOWN"),
        (errors.UnknownBlobError("x"), 404, "BLOB_UNKNOWN"),
        (errors.RegistryError("x"), 502, "UPSTREAM_ERROR"),
        (errors.RegistryAuthError("x"), 502, "UNAUTHORIZED"),
        (errors.SourceError("x"), 502, "SOURCE_ERROR"),
        (errors.DigestMismatchError("x"), 502, "DIGEST_MISMATCH"),
        (errors.SizeMismatchError("x"), 502, "SIZE_MISMATCH"),
        (errors.InvalidManifestError("x"), 502, "MANIFEST_INVALID"),
        (errors.UnreadableSignatureError("x"), 502, "INTEGRITY"),
        (errors.MalformedDocumentError("x"), 502, "INTEGRITY"),
        (errors.RateLimitedError("x"), 503, "TOOMANYREQUESTS"),
        (errors.RegistryUnavailableError("x"), 503, "UPSTREAM_UNAVAILABLE"),
        (errors.UpstreamTimeoutError("x"), 504, "UPSTREAM_TIMEOUT"),
    ],
)
def test_each_error_has_the_status_and_code_of_the_table(error: errors.Error, status: int, code: str) -> None:
    answer = problem_of(error)
    problem = document(answer)
    assert (answer.status, problem["status"], problem["code"]) == (status, status, code)
    assert dict(answer.headers)["Content-Type"] == MEDIA_TYPE
    assert (problem["type"], problem["title"]) == ("about:blank", answer.status.phrase), "RFC 9457 section 4.2.1"
    assert {"detail", "retryable"} <= problem.keys()


def test_every_class_of_the_tree_but_its_root_is_in_the_table() -> None:
    classes = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, errors.Error)]
    missing = [one.__name__ for one in classes if one is not errors.Error and not is_expected(one.__new__(one))]
    assert not missing


def test_a_foreign_exception_is_answered_without_a_word_about_it() -> None:
    answer = problem_of(RuntimeError("password=hunter2"))
    assert answer.status == 500
    assert b"hunter2" not in answer.body
    assert b"RuntimeError" not in answer.body


def test_upstream_trouble_says_where_when_and_whether_to_try_again() -> None:
    error = errors.RateLimitedError(
        "slow", phase="blob", endpoint="r.example", upstream_status=429, retryable=True, retry_after=2.4
    )
    answer = problem_of(error)
    problem = document(answer)
    assert dict(answer.headers)["Retry-After"] == "3"
    assert (problem["phase"], problem["endpoint"], problem["upstream_status"], problem["retryable"]) == (
        "blob",
        "r.example",
        429,
        True,
    )


def test_reasons_and_candidates_are_listed() -> None:
    assert document(problem_of(errors.PolicyRejectedError("no", ("a", "b"))))["reasons"] == ["a", "b"]
    assert document(problem_of(errors.AmbiguousDigestError("?", ("x", "y"))))["candidates"] == ["x", "y"]


@pytest.mark.demand("HTTP-response-split")
@pytest.mark.demand("LOG-injection")
def test_line_ends_and_endless_text_in_a_message_stay_inside_the_document() -> None:
    answer = problem_of(errors.RegistryError("a\r\nX-Evil: 1\x1b[0m" + "x" * 1_000_000))
    assert len(answer.body) < 4000
    assert b"\r" not in answer.body
    assert b"\x1b" not in answer.body
    assert not any("\n" in value for pair in answer.headers for value in pair)
