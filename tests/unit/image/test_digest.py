from __future__ import annotations

import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.errors import InvalidDigestError, shown
from container_image_proxy.image.digest import HEX_LENGTHS, Digest, digest_of, parse_digest, parse_digest_prefix

EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
ALGORITHMS = st.sampled_from(sorted(HEX_LENGTHS))

MALFORMED = [
    "",
    ":",
    "sha256",
    "sha256:",
    EMPTY_SHA256,
    f":{EMPTY_SHA256}",
    "sha256:abc",
    "sha256:../../../../etc/passwd",
    f"sha256:{EMPTY_SHA256[:-1]}",
    f"sha256:{EMPTY_SHA256}0",
    f"sha256:{EMPTY_SHA256.upper()}",
    f"SHA256:{EMPTY_SHA256}",
    f"sha256:{EMPTY_SHA256}\n",
    f"sha256:{EMPTY_SHA256[:-1]}\n",
    f"sha256:{EMPTY_SHA256[:-1]}/",
    f" sha256:{EMPTY_SHA256}",
    f"sha512:{EMPTY_SHA256}",
    f"sha256+b64:{EMPTY_SHA256}",
    "md5:d41d8cd98f00b204e9800998ecf8427e",
    "sha256:" + "\N{FULLWIDTH DIGIT ONE}" * 64,
    "sha256:" + "a" * 10_000,
]


@pytest.mark.demand("DIG-malformed")
@pytest.mark.parametrize("text", MALFORMED)
def test_a_malformed_digest_is_refused_in_a_short_message(text: str) -> None:
    with pytest.raises(InvalidDigestError) as caught:
        parse_digest(text)
    assert str(caught.value).startswith(f"{shown(text)} is not ")
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@pytest.mark.demand("DIG-sha512")
def test_sha512_is_verified_with_sha512() -> None:
    digest = parse_digest(f"sha512:{hashlib.sha512(b'blob').hexdigest()}")
    assert digest.matches(b"blob")
    assert not digest.matches(b"blub")


@given(st.binary(max_size=100), ALGORITHMS)
def test_a_digest_matches_its_own_content_and_nothing_else(data: bytes, algorithm: str) -> None:
    digest = digest_of(data, algorithm)
    assert digest.matches(data)
    assert not digest.matches(data + b"\0")


@given(st.binary(max_size=100), ALGORITHMS)
def test_text_and_digest_round_trip(data: bytes, algorithm: str) -> None:
    digest = digest_of(data, algorithm)
    assert parse_digest(str(digest)) == digest


@given(st.lists(st.binary(max_size=20)), ALGORITHMS)
def test_hashing_in_pieces_gives_the_same_digest(pieces: list[bytes], algorithm: str) -> None:
    digest = digest_of(b"".join(pieces), algorithm)
    hasher = digest.hasher()
    for piece in pieces:
        hasher.update(piece)
    assert hasher.hexdigest() == digest.hex


@given(st.text(max_size=200))
def test_any_text_is_a_digest_or_our_error(text: str) -> None:
    with contextlib.suppress(InvalidDigestError):
        assert str(parse_digest(text)) == text


def test_a_digest_cannot_be_made_malformed() -> None:
    with pytest.raises(InvalidDigestError):
        Digest("sha256", "abc")


@pytest.mark.demand("DIG-request-path")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        "sha256:",
        "sha256:abcdef",
        "sha256:ABCDEF0",
        "md5:" + "a" * 32,
        "sha256:" + "a" * 65,
        "sha256:../../etc",
        "a" * 64,
    ],
)
def test_what_is_neither_digest_nor_prefix_is_refused(text: str) -> None:
    with pytest.raises(InvalidDigestError) as caught:
        parse_digest_prefix(text)
    assert str(caught.value).startswith(f"{shown(text)} is not ")


@given(st.text(max_size=80) | st.from_regex(r"sha(256|512):[0-9a-f]{0,130}"))
def test_any_text_is_a_prefix_of_a_digest_or_refused(text: str) -> None:
    try:
        prefix = parse_digest_prefix(text)
    except InvalidDigestError:
        return
    algorithm, digits = prefix.split(":")
    assert parse_digest(f"{algorithm}:{digits.ljust(HEX_LENGTHS[algorithm], '0')}")
