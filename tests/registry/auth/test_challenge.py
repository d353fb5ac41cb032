"""Reading WWW-Authenticate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.registry.auth.challenge import (
    Challenge,
    TokenScope,
    missing_scope,
    parse_challenges,
    parse_scope,
)

BEARER = Challenge("bearer", {"realm": "https://a/t", "service": "s"})
BASIC = Challenge("basic", {"realm": "r"})


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (['Bearer realm="https://a/t",service="s"'], [BEARER]),
        (['bEARER Realm="https://a/t",SERVICE="s"'], [BEARER]),
        (['Bearer realm = "https://a/t" , service = "s"'], [BEARER]),
        (["Bearer realm=https://a/t,service=s"], [BEARER]),
        (["Bearer realm=https://a/t?x=y"], [Challenge("bearer", {"realm": "https://a/t?x=y"})]),
        (['Bearer realm="https://a/t" service="s"'], [BEARER]),
        (['Bearer ,realm="https://a/t",,service="s",'], [BEARER]),
        (['Bearer\trealm="https://a/t",\tservice="s"  '], [BEARER]),
        (['Bearer realm="https://a/t,x",service="s, t",scope="repository:a/b:pull,push"'],
         [Challenge("bearer", {"realm": "https://a/t,x", "service": "s, t", "scope": "repository:a/b:pull,push"})]),
        (['Basic realm="r"', 'Bearer realm="https://a/t",service="s"'], [BASIC, BEARER]),
        (['Basic realm="r", Bearer realm="https://a/t",service="s"'], [BASIC, BEARER]),
        (['Bearer realm="https://a/t",service="s",Basic realm=r'], [BEARER, BASIC]),
        (['Bearer realm="https://a/t",service="s" Basic realm="r"'], [BEARER, BASIC]),
        (['Negotiate, Basic realm="r"'], [Challenge("negotiate", {}), BASIC]),
        (['NTLM,Negotiate , Basic realm="r"'], [Challenge("ntlm", {}), Challenge("negotiate", {}), BASIC]),
        (['Negotiate oRQwEqADCgEBoQsGCSqGSIb3EgECAg==, Basic realm="r"'], [Challenge("negotiate", {}), BASIC]),
        (["Negotiate abc=", "NTLM TlRMTVNTUAAC"], [Challenge("negotiate", {}), Challenge("ntlm", {})]),
        (['Digest realm="x", nonce="a,b", qop="auth", algorithm=MD5, Basic realm="r"'],
         [Challenge("digest", {"realm": "x", "nonce": "a,b", "qop": "auth", "algorithm": "MD5"}), BASIC]),
        (["Basic"], [Challenge("basic", {})]),
        (['Bearer realm="https://a/t",service="s",scope=""'],
         [Challenge("bearer", {"realm": "https://a/t", "service": "s", "scope": ""})]),
        (['Bearer realm="https://a/t",service="s",error="open'], [BEARER]),
        ([""], []),
        (['"quoted"', "=", ",", 'realm="no scheme"'], []),
    ],
)  # fmt: skip
def test_forms_of_challenges(lines: list[str], expected: list[Challenge]) -> None:
    assert list(parse_challenges(lines)) == expected


@pytest.mark.parametrize("piece", ["\\", "a ", "a=", "a,", 'a="', "a=b ", ",", " ", "a" * 64, "=", 'a="b",'])
@pytest.mark.parametrize("start", ["", "Bearer ", 'Bearer realm="', "Bearer realm="])
def test_a_long_hostile_header_takes_no_long_time(start: str, piece: str) -> None:
    parse_challenges([start + piece * (60_000 // len(piece))])


@given(st.text())
def test_any_header_gives_challenges_with_lower_case_names(value: str) -> None:
    for challenge in parse_challenges([value]):
        assert challenge.scheme == challenge.scheme.lower()
        assert all(name == name.lower() for name in challenge.parameters)


@pytest.mark.parametrize("text", ["", "a:b", "a:b:c:d", "::", "a::c"])
def test_what_is_no_scope(text: str) -> None:
    assert parse_scope(text) is None


def test_a_missing_scope_is_read_from_a_bearer_challenge_only() -> None:
    wanted = {"error": "insufficient_scope", "scope": "repository:a/b:pull"}
    assert missing_scope([Challenge("bearer", wanted)]) == TokenScope("repository", "a/b", "pull")
    assert missing_scope([Challenge("basic", wanted)]) is None
