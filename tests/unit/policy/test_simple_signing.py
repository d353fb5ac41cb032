"""What a signature says, and whether that is about the image."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.errors import SignatureRejectedError
from container_image_proxy.image.digest import digest_of
from container_image_proxy.image.reference import parse_reference
from container_image_proxy.policy.simple_signing import ATOMIC, COSIGN, Attestation, Claim, parse_claim, verify_claim
from tests.support.identities import parse_identity

MANIFEST = b'{"schemaVersion":2}'
IMAGE = parse_reference("quay.io/example/os:1")


def payload(**changes: object) -> bytes:
    critical = {
        "type": ATOMIC,
        "image": {"docker-manifest-digest": str(digest_of(MANIFEST))},
        "identity": {"docker-reference": "quay.io/example/os:1"},
    }
    return json.dumps({"critical": critical, "optional": {"creator": "test", "timestamp": 7}, **changes}).encode()


def check(reference: str, identity: dict[str, str], raw: bytes = MANIFEST) -> None:
    attestation = Attestation("openpgp:ABC", Claim(reference, digest_of(MANIFEST)))
    verify_claim(attestation, parse_identity(identity), IMAGE, raw)


def test_a_claim_is_read_whole() -> None:
    claim = parse_claim(payload(), ATOMIC)
    assert claim == Claim("quay.io/example/os:1", digest_of(MANIFEST))


@pytest.mark.demand("JSON-duplicate-keys")
@pytest.mark.parametrize("key", [b'"critical"', b'"type"', b'"docker-reference"', b'"timestamp"'])
def test_a_repeated_key_is_refused(key: bytes) -> None:
    with pytest.raises(SignatureRejectedError):
        parse_claim(payload().replace(key, key + b": 1, " + key, 1), ATOMIC)


def test_the_kinds_of_payload_are_not_mixed_up() -> None:
    with pytest.raises(SignatureRejectedError, match=r"critical\.type"):
        parse_claim(payload(), COSIGN)


@pytest.mark.parametrize("timestamp", [7, 7.0, -1, (1 << 63) - 1, None])
def test_a_timestamp_is_a_whole_number_or_null(timestamp: object) -> None:
    assert parse_claim(payload(optional={"timestamp": timestamp}), ATOMIC)


@pytest.mark.parametrize("timestamp", [True, 0.5, "7", 1 << 63, -(1 << 63) - 1, 10**30, 1e300, {}])
def test_any_other_timestamp_is_refused(timestamp: object) -> None:
    with pytest.raises(SignatureRejectedError, match="timestamp"):
        parse_claim(payload(optional={"timestamp": timestamp}), ATOMIC)


def test_a_creator_is_text_or_null() -> None:
    assert parse_claim(payload(optional={"creator": None}), ATOMIC)
    with pytest.raises(SignatureRejectedError, match="creator"):
        parse_claim(payload(optional={"creator": 1}), ATOMIC)


@pytest.mark.parametrize("place", [b'{"critical"', b'{"type"', b'{"docker-manifest-digest"', b'{"docker-reference"'])
def test_an_unknown_key_is_refused_except_among_the_optional_ones(place: bytes) -> None:
    assert parse_claim(payload().replace(b'{"creator"', b'{"unknown": 1, "creator"'), ATOMIC)
    with pytest.raises(SignatureRejectedError, match="unknown key"):
        parse_claim(payload().replace(place, b'{"unknown": 1, ' + place[1:]), ATOMIC)


def test_only_cosign_may_leave_the_optional_part_null() -> None:
    with pytest.raises(SignatureRejectedError, match="optional"):
        parse_claim(payload(optional=None), ATOMIC)


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: payload()[:-20] + tail))
def test_any_bytes_are_a_claim_or_our_error(raw: bytes) -> None:
    with contextlib.suppress(SignatureRejectedError):
        assert parse_claim(raw, ATOMIC).docker_reference


@pytest.mark.demand("SIG-identity")
def test_a_claim_for_another_image_is_told_apart_by_name() -> None:
    check("quay.io/example/os:1", {"type": "matchExact"})
    with pytest.raises(SignatureRejectedError) as caught:
        check("quay.io/other/image:1", {"type": "matchRepository"})
    message = str(caught.value)
    assert message == "it is valid and by openpgp:ABC, but for 'quay.io/other/image:1'; quay.io/example/os:1 is wanted"


def test_a_claim_for_other_content_is_refused() -> None:
    with pytest.raises(SignatureRejectedError, match="for other content"):
        check("quay.io/example/os:1", {"type": "matchExact"}, MANIFEST + b" ")


def test_an_image_without_a_name_is_told() -> None:
    attestation = Attestation("openpgp:ABC", Claim("quay.io/example/os:1", digest_of(MANIFEST)))
    with pytest.raises(SignatureRejectedError, match="no name"):
        verify_claim(attestation, parse_identity({"type": "matchExact"}), None, MANIFEST)


def test_a_sha512_digest_may_be_claimed() -> None:
    digest = digest_of(MANIFEST, "sha512")
    verify_claim(Attestation("x", Claim(str(IMAGE), digest)), parse_identity({"type": "matchExact"}), IMAGE, MANIFEST)
