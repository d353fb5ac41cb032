"""Reading WWW-Authenticate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.registry.challenge import Challenge, Scope, missing_scope, parse_challenges, parse_scope


def test_a_half_broken_challenge_keeps_what_came_before() -> None:
    (challenge,) = parse_challenges(['Bearer realm="https://a/t",service="s" garbage,scope="x"'])
    assert dict(challenge.parameters) == {"realm": "https://a/t", "service": "s"}


def test_a_line_without_scheme_is_no_challenge() -> None:
    assert parse_challenges(["", '"quoted"', "="]) == ()


@given(st.text())
def test_any_header_gives_challenges_with_lower_case_names(value: str) -> None:
    for challenge in parse_challenges([value]):
        assert challenge.scheme == challenge.scheme.lower()
        assert all(name == name.lower() for name in challenge.parameters)


def test_a_long_hostile_header_takes_no_long_time() -> None:
    (challenge,) = parse_challenges(['Bearer realm="' + "\\" * 60_000])
    assert dict(challenge.parameters) == {}


@pytest.mark.parametrize("text", ["", "a:b", "a:b:c:d", "::", "a::c"])
def test_what_is_no_scope(text: str) -> None:
    assert parse_scope(text) is None


def test_a_missing_scope_is_read_from_a_bearer_challenge_only() -> None:
    wanted = {"error": "insufficient_scope", "scope": "repository:a/b:pull"}
    assert missing_scope([Challenge("bearer", wanted)]) == Scope("repository", "a/b", "pull")
    assert missing_scope([Challenge("basic", wanted)]) is None
