"""Signature blobs: known by their first bytes, read strictly."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.errors import UnreadableSignatureError
from container_image_proxy.image.signature import parse_signature_blob

SIGSTORE = b"\0sigstore-json\n"


def sigstore(**fields: object) -> bytes:
    return SIGSTORE + json.dumps({"mimeType": "m", "payload": "cGF5", "annotations": {"a": "b"}, **fields}).encode()


def test_a_sigstore_blob_gives_payload_and_annotations() -> None:
    signature = parse_signature_blob(sigstore(), "file:///signature-1")
    assert (signature.kind, signature.blob, signature.media_type) == ("sigstore", b"pay", "m")
    assert (signature.annotations, signature.source) == ({"a": "b"}, "file:///signature-1")


@pytest.mark.parametrize("first", [0x88, 0x90, 0xA3, 0xC2, 0xC4, 0xC8])
def test_an_openpgp_message_is_known_by_its_first_packet(first: int) -> None:
    blob = bytes([first, 1, 2])
    assert parse_signature_blob(blob, "x").blob == blob


def test_a_named_simple_signature_is_what_follows_the_name() -> None:
    assert parse_signature_blob(b"\0simple-signing\n\xa3x", "x").blob == b"\xa3x"


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\0",
        b"\0sigstore-json",
        b"\0other\n{}",
        b"\0simple-signing",
        b"simple-signing\n\xa3x",
        sigstore()[1:],
        b"-----BEGIN PGP MESSAGE-----",
        b"\x99\x01",  # an OpenPGP public key
        b"\xac\x01",  # an OpenPGP literal, not signed
        SIGSTORE + b"{}",
        SIGSTORE + b"[]",
        SIGSTORE + b'{"mimeType":"a","mimeType":"b","payload":""}',
        sigstore(payload="!"),
        sigstore(payload=1),
        sigstore(annotations=[]),
        sigstore(annotations={"a": 1}),
    ],
)
def test_anything_else_is_an_error(blob: bytes) -> None:
    with pytest.raises(UnreadableSignatureError, match="signature-9"):
        parse_signature_blob(blob, "signature-9")


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: SIGSTORE + tail))
def test_any_bytes_are_a_signature_or_our_error(blob: bytes) -> None:
    with contextlib.suppress(UnreadableSignatureError):
        assert parse_signature_blob(blob, "x").kind in {"simple", "sigstore"}
