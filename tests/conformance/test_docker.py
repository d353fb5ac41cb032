"""What registries say, read as containers/image reads it: challenges, scopes, ranges, types, warnings, errors."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from container_image_proxy.errors import Error, RegistryError, UpstreamError
from container_image_proxy.image.reference import parse_reference
from container_image_proxy.registry.attempts import has_progressed
from container_image_proxy.registry.auth.challenge import missing_scope, parse_challenges
from container_image_proxy.registry.http.headers import parse_content_range, parse_media_type, parse_warning
from tests.support.conformance import deviation, expects_error, rows, to_bytes
from tests.support.contexts import CONTEXT
from tests.support.registry_client import registry_client
from tests.support.upstream import Upstream, answering

Row = dict[str, Any]
_RESUMES = "docker/body_resume_policy"


def _time(text: str) -> dt.datetime:
    """To the second, which is as exact as the rows' ages are."""
    return dt.datetime.fromisoformat(f"{text[:19]}+00:00")


# The rows tell when things happened but not when that was recorded: at the latest time of all, a second more or less.
_STATES = [case["state"] for case in rows(_RESUMES).args[1] if isinstance(case, dict)]
_TIMES = [_time(state[name]) for state in _STATES for name in ("firstConnectionTime", "lastRetryTime") if name in state]
_RECORDED = max(_TIMES, default=_time("2000-01-01T00:00:00Z"))


@rows("docker/challenges")
def test_challenges(row: Row) -> None:
    parsed = parse_challenges(row["www_authenticate"])
    recorded = row["challenges"]
    if deviation("docker/challenges", row):
        assert [each.scheme for each in parsed[: len(recorded)]] == [each["scheme"] for each in recorded]
        for each, less in zip(parsed, recorded, strict=False):
            assert all(each.parameters[name].startswith(value) for name, value in less["parameters"].items())
    else:
        assert [{"scheme": each.scheme, "parameters": dict(each.parameters)} for each in parsed] == recorded


@rows("docker/needs_scope_retry")
def test_scope_retry(row: Row) -> None:
    response = row["response"]
    challenges = parse_challenges(response["header"].get("Www-Authenticate", []))
    scope = missing_scope(challenges) if response["status"] in {401, 403} else None
    assert (scope is not None) is row["retry"]
    if scope is not None:
        assert row["scope"] == {
            "resourceType": scope.resource_type,
            "remoteName": scope.name,
            "actions": scope.actions,
        }


@rows("docker/content_range")
def test_content_range(row: Row) -> None:
    value = ", ".join(row["header"])
    if expects_error("docker/content_range", row, recorded=bool(row["error"])):
        with pytest.raises(RegistryError):
            parse_content_range(value)
        return
    found = parse_content_range(value)
    assert [found.first, found.last, -1 if found.complete is None else found.complete] == row["result"]


@rows("docker/content_type")
def test_content_type(row: Row) -> None:
    assert parse_media_type(row["input"]) == row["expected"]


@rows("docker/registry_warning_header")
def test_warning(row: Row) -> None:
    header, expected = (_wire_text(row[column]) for column in ("header", "expected"))
    assert parse_warning(header) == expected


def _wire_text(value: str | dict[str, str]) -> str:
    """Header bytes as the HTTP library hands them out: one character a byte."""
    raw = to_bytes({"b64": value["$b64"]}) if isinstance(value, dict) else value.encode()
    return raw.decode("latin-1")


@rows(_RESUMES)
def test_resuming(row: Row) -> None:
    state = row["state"]
    last_offset = state["lastRetryOffset"]
    since = _RECORDED - _time(state.get("lastRetryTime", state["firstConnectionTime"]))
    last = None if last_offset < 0 else last_offset
    # the recorded implementation asks for no rate
    may_resume = has_progressed(state["offset"], last, since.total_seconds(), minimum_rate=0)
    assert may_resume is not expects_error(_RESUMES, row, recorded=bool(row["error"]))


@rows("docker/error_responses")
def test_error_responses(row: Row) -> None:
    _verify_error(row["status"], {}, row["error"])


@rows("docker/registry_response_errors")
def test_registry_response_errors(row: Row) -> None:
    response = row["response"]
    kept = {name: values[0] for name, values in response["header"].items() if name != "Content-Length"}
    _verify_error(response["status"], kept, row["error"])


def _verify_error(status: int, headers: dict[str, str], recorded: str) -> None:
    """An error that knows its status and repeats nothing of the body, of which the tables have only the text."""
    reference = "image:1"
    body = recorded.encode()
    with (
        Upstream(answering(status, body, headers)) as upstream,
        registry_client() as client,
        pytest.raises(Error) as caught,
    ):
        client.fetch_manifest(CONTEXT, parse_reference(f"{upstream.authority}/{reference}"))
    assert recorded not in str(caught.value)
    if isinstance(caught.value, UpstreamError):
        assert caught.value.upstream_status == status
        assert not caught.value.retryable
