"""Which packets an OpenPGP message may have, and in how many ways they may be written."""

from __future__ import annotations

import bz2
import contextlib
import itertools
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.errors import SignatureRejectedError
from container_image_proxy.policy.openpgp_message import MAX_MESSAGE_SIZE, unpack_signed_message
from tests.support.openpgp import compressed, in_pieces, literal, packet

ONE_PASS = packet(4, b"\x03\x00\x08\x16" + bytes(8) + b"\x01")
LITERAL = literal(b"what is signed" * 100)
SIGNATURE = packet(2, b"\x04 and so on")
MESSAGE = ONE_PASS + LITERAL + SIGNATURE
MARKER = packet(10, b"PGP")


def refusal(message: bytes) -> str:
    with pytest.raises(SignatureRejectedError) as caught:
        unpack_signed_message(message)
    return str(caught.value)


def old(tag: int, body: bytes, length_type: int) -> bytes:
    octets = (1, 2, 4, 0)[length_type]
    return bytes([0x80 | tag << 2 | length_type]) + len(body).to_bytes(octets or 4, "big")[4 * (not octets) :] + body


def body_of(written: bytes) -> bytes:
    return written[6:]


@pytest.mark.parametrize(
    "written",
    [
        MESSAGE,
        compressed(MESSAGE),
        packet(8, b"\x02" + zlib.compress(MESSAGE)),
        packet(8, b"\x03" + bz2.compress(MESSAGE)),
        packet(8, b"\x00" + MESSAGE),
        packet(8, b"\x02" + zlib.compress(compressed(MESSAGE))),
        in_pieces(8, compressed(MESSAGE)[1:], 2),
        ONE_PASS + in_pieces(11, body_of(LITERAL), 9) + SIGNATURE,
        ONE_PASS + in_pieces(11, body_of(LITERAL), 0) + SIGNATURE,
        old(4, body_of(ONE_PASS), 0) + old(11, body_of(LITERAL), 1) + old(2, body_of(SIGNATURE), 2),
        MARKER + ONE_PASS + MARKER + LITERAL + SIGNATURE,
    ],
)
def test_one_signature_of_one_literal_packet_is_a_message_however_it_is_written(written: bytes) -> None:
    assert unpack_signed_message(written) == MESSAGE
    assert unpack_signed_message(unpack_signed_message(written)) == MESSAGE


def test_a_signature_may_stand_before_what_it_signs() -> None:
    assert unpack_signed_message(compressed(SIGNATURE + LITERAL)) == SIGNATURE + LITERAL


PACKETS = {"one-pass": ONE_PASS, "literal": LITERAL, "signature": SIGNATURE, "unknown": packet(60, b"")}
MESSAGES = {("one-pass", "literal", "signature"), ("signature", "literal")}


@pytest.mark.demand("SIG-multi")
def test_no_other_sequence_of_packets_is_a_message() -> None:
    sequences = {names for length in range(5) for names in itertools.product(PACKETS, repeat=length)}
    for names in sequences - MESSAGES:
        message = b"".join(PACKETS[name] for name in names)
        for written in (message, compressed(message)):
            refusal(written)


@pytest.mark.demand("SIG-multi")
@pytest.mark.parametrize(
    "packed",
    [
        compressed(MESSAGE),
        packet(8, b"\x01" + zlib.compress(MESSAGE, wbits=-zlib.MAX_WBITS)),
        packet(8, b"\x02" + zlib.compress(MESSAGE)),
        packet(8, b"\x03" + bz2.compress(MESSAGE)),
        MESSAGE,
    ],
)
def test_no_packet_may_follow(packed: bytes) -> None:
    assert unpack_signed_message(packed) == MESSAGE
    for behind in (LITERAL, SIGNATURE, MESSAGE, packed):
        assert "is not exactly one signature of one message" in refusal(packed + behind)
    refusal(packed + b"\0")


@pytest.mark.demand("SIG-unsigned")
@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (LITERAL, "no signed OpenPGP message"),
        (b"", "no signed OpenPGP message"),
        (packet(1, b"x") + packet(18, b"x"), "encrypted"),
        (SIGNATURE + packet(9, b"x"), "encrypted"),
        (MESSAGE[:-1], "ends within a packet"),
        (MESSAGE + b"\x04", "something else than a packet"),
        (packet(8, b""), "unknown way"),
        (packet(8, b"\x09x"), "unknown way"),
        (packet(8, b"\x02xx"), "cannot be decompressed"),
        (packet(8, b"\x03x" * 50), "cannot be decompressed"),
        (packet(8, b"\x02" + zlib.compress(MESSAGE)[:-1]), "ends within compressed data"),
    ],
)
def test_what_is_wrong_is_told(message: bytes, complaint: str) -> None:
    assert complaint in refusal(message)


ZEROS = bytes(1 << 20)


def deflated(content: bytes, times: int) -> bytes:
    """The content, so many times."""
    packer = zlib.compressobj(9, wbits=-15)
    return b"\x01" + b"".join(packer.compress(content) for _ in range(times)) + packer.flush()


@pytest.mark.demand("LIM-signatures")
@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(packet(8, deflated(ZEROS, 40)), id="zeros"),
        pytest.param(packet(8, deflated(packet(8, deflated(ZEROS, 16)), 2000)), id="nested"),
        pytest.param(packet(8, b"\x03" + bz2.compress(ZEROS * 16)), id="bzip2"),
        pytest.param(packet(8, deflated(packet(60, ZEROS), 45)), id="packets-that-nobody-knows"),
    ],
)
def test_a_bomb_is_unpacked_no_further_than_a_message_may_be_large(bomb: bytes) -> None:
    assert len(bomb) < 100_000
    assert refusal(bomb) == f"it unpacks to more than {MAX_MESSAGE_SIZE} bytes"


@pytest.mark.demand("LIM-signatures")
def test_a_message_that_is_too_large_is_not_read() -> None:
    assert refusal(MESSAGE + bytes(MAX_MESSAGE_SIZE)) == f"it is larger than {MAX_MESSAGE_SIZE} bytes"


@pytest.mark.demand("LIM-signatures")
def test_a_packet_in_millions_of_pieces_is_not_put_together() -> None:
    assert "in more than 4096 pieces" in refusal(ONE_PASS + in_pieces(11, bytes(1_000_000), 0) + SIGNATURE)


@pytest.mark.demand("LIM-signatures")
def test_packets_within_packets_come_to_an_end() -> None:
    message = MESSAGE
    for _ in range(4):
        message = packet(8, b"\x00" + message)
        assert unpack_signed_message(message) == MESSAGE
    assert "exactly one" in refusal(packet(8, b"\x00" + message))


@given(st.integers(0, len(MESSAGE) - 1), st.binary(max_size=3), st.integers(0, 3))
def test_a_damaged_message_is_our_error_or_a_message(position: int, inserted: bytes, removed: int) -> None:
    damaged = MESSAGE[:position] + inserted + MESSAGE[position + removed :]
    for written in (damaged, compressed(damaged)):
        with contextlib.suppress(SignatureRejectedError):
            unpacked = unpack_signed_message(written)
            assert unpack_signed_message(unpacked) == unpacked


@given(st.binary(max_size=300))
def test_garbage_is_our_error_or_a_message(garbage: bytes) -> None:
    with contextlib.suppress(SignatureRejectedError):
        unpack_signed_message(garbage)
