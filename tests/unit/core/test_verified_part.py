"""A verified part of a blob: nobody holds all of it unless it is right, and little is read in vain."""

from __future__ import annotations

import gc
import hashlib
import random
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.core import checkpoints as checkpoints_module
from container_image_proxy.core import verified_part as part_module
from container_image_proxy.core import verified_stream as stream_module
from container_image_proxy.core.checkpoints import Checkpoints
from container_image_proxy.core.verified_part import VerifiedPart, open_part
from container_image_proxy.core.verified_stream import VerifiedBlob
from container_image_proxy.errors import (
    CannotResumeError,
    DigestMismatchError,
    Error,
    IntegrityError,
    SizeMismatchError,
)
from container_image_proxy.image.descriptor import Descriptor
from container_image_proxy.image.digest import digest_of
from tests.support.contexts import CONTEXT
from tests.support.readers import ScriptedReader

SPACING, RING_SIZE, ALONE_SIZE, MAX_VAIN = 400, 64, 16, 1000
CONTENT = random.Random(1).randbytes(5000)  # noqa: S311 - no secret
BLOB = Descriptor("", digest_of(CONTENT), len(CONTENT))
FINE_BUT_FOR_THE_BEGINNING = b"!" + CONTENT[1:]


@pytest.fixture(autouse=True, scope="module")
def small_sizes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints_module, "SPACING", SPACING)
        patch.setattr(part_module, "MAX_VAIN", MAX_VAIN)
        patch.setattr(stream_module, "RING_SIZE", RING_SIZE)
        patch.setattr(part_module, "RING_SIZE", RING_SIZE)
        patch.setattr(stream_module, "FIRST_SIZE", ALONE_SIZE)
        yield


class Source:
    """Has a blob, right or wrong, and notes what is asked of it."""

    def __init__(self, content: bytes = CONTENT, *, can_resume: bool = True) -> None:
        self.content = content
        self.can_resume = can_resume
        self.asked: list[tuple[int, int]] = []
        self.readers: list[ScriptedReader] = []

    def __call__(self, offset: int, stop: int) -> ScriptedReader:
        self.asked.append((offset, stop))
        told = self.content[offset:stop]
        script: list[bytes | Error] = [told[start : start + 37] for start in range(0, len(told), 37)]
        if offset and not self.can_resume:
            script = [CannotResumeError("too much")]
        reader = ScriptedReader(script)
        self.readers.append(reader)
        return reader


def part_of(source: Source, checkpoints: Checkpoints, first: int, stop: int) -> VerifiedPart | None:
    return open_part(CONTEXT, source, BLOB, checkpoints.record("os", BLOB), range(first, stop))


def take(part: VerifiedPart | None) -> bytes:
    assert part is not None
    with closing(part.pieces):
        return b"".join(bytes(piece) for piece in part.pieces)


def drain(part: VerifiedPart | None) -> tuple[bytes, Error | None]:
    """What a client got, and how it ended."""
    assert part is not None
    received = b""
    try:
        with closing(part.pieces):
            for piece in part.pieces:
                received += piece
    except Error as error:
        return received, error
    return received, None


def stream(checkpoints: Checkpoints, content: bytes = CONTENT, *, up_to: int | None = None) -> None:
    """Let a client have the blob, or lose its connection ``up_to`` there."""
    hashed = checkpoints.record("os", BLOB).hash_at(0)
    try:
        with closing(VerifiedBlob(ScriptedReader([content]), BLOB, hashed)) as blob:
            received = 0
            for piece in blob:
                received += len(piece)
                if up_to is not None and received >= up_to:
                    return
    except DigestMismatchError:
        pass


@given(st.integers(0, len(CONTENT) - 1), st.integers(1, len(CONTENT)), st.integers(0, len(CONTENT)), st.booleans())
def test_a_part_is_what_was_asked_for_with_the_digest_of_all_before(
    first: int,
    length: int,
    seen: int,
    is_wrong: bool,  # noqa: FBT001 - Hypothesis's
) -> None:
    checkpoints, source = Checkpoints(), Source()
    stream(checkpoints, up_to=seen or None)
    if is_wrong:
        source.content = CONTENT[:-1] + b"!"
    stop = min(first + length, len(CONTENT))
    try:
        part = part_of(source, checkpoints, first, stop)
        content = take(part) if part is not None else b""
    except IntegrityError:
        assert is_wrong
    else:
        assert part is None or content == CONTENT[first:stop]
        assert part is None or part.prefix == digest_of(CONTENT[:first])
        assert part is not None or stop < len(CONTENT), "what goes to the end costs what the whole does"
    assert all(reader.closed for reader in source.readers)


def test_from_a_checkpoint_little_is_asked_for_that_was_had() -> None:
    checkpoints, source = Checkpoints(), Source()
    stream(checkpoints, up_to=2500)
    part = part_of(source, checkpoints, 2450, len(CONTENT))
    assert source.asked == [(2400, 5000)]
    assert part is not None
    assert part.prefix == digest_of(CONTENT[:2450])
    assert take(part) == CONTENT[2450:]


def test_without_a_checkpoint_what_lies_before_is_read_first() -> None:
    source = Source()
    part = part_of(source, Checkpoints(), 2450, len(CONTENT))
    assert source.asked == [(0, 5000)]
    assert part is not None
    assert part.prefix == digest_of(CONTENT[:2450])
    assert take(part) == CONTENT[2450:]


def test_a_part_in_the_middle_of_a_blob_that_was_verified_is_decided_by_the_next_checkpoint() -> None:
    checkpoints, source = Checkpoints(), Source()
    stream(checkpoints)
    assert take(part_of(source, checkpoints, 2450, 2700)) == CONTENT[2450:2700]
    assert take(part_of(source, checkpoints, 2400, 2800)) == CONTENT[2400:2800]
    assert take(part_of(source, checkpoints, 4900, 4950)) == CONTENT[4900:4950]
    assert source.asked == [(2400, 2800), (2400, 2800), (4800, 5000)]


@pytest.mark.demand("DIG-blob-mismatch")
@pytest.mark.parametrize("stop", [2700, 2799, 2800])
def test_the_end_of_a_part_is_withheld_until_the_next_checkpoint_is_right(stop: int) -> None:
    checkpoints, source = Checkpoints(), Source()
    stream(checkpoints)
    source.content = CONTENT[:2799] + b"!" + CONTENT[2800:]
    received, error = drain(part_of(source, checkpoints, 2450, stop))
    assert isinstance(error, DigestMismatchError)
    assert str(BLOB.digest) in str(error)
    assert received == CONTENT[2450 : 2450 + len(received)]
    assert len(received) < stop - 2450
    assert source.readers[-1].rejected == 1


def test_a_part_in_the_middle_of_a_blob_that_was_not_verified_is_decided_at_its_end_where_that_is_near() -> None:
    checkpoints, source = Checkpoints(), Source()
    assert part_of(source, checkpoints, 2450, 2700) is None, "the whole is sent instead"
    assert take(part_of(source, checkpoints, 300, 4500)) == CONTENT[300:4500]
    assert source.asked == [(0, 5000)]
    assert take(part_of(source, checkpoints, 2450, 2700)) == CONTENT[2450:2700], "now it is verified"
    assert source.asked[1:] == [(2400, 2800)]


@pytest.mark.demand("DIG-blob-mismatch")
def test_a_wrong_end_of_the_blob_withholds_the_end_of_a_part_before_it() -> None:
    received, error = drain(part_of(Source(CONTENT[:-1] + b"!"), Checkpoints(), 300, 4500))
    assert isinstance(error, DigestMismatchError)
    assert len(received) < 4200


@pytest.mark.demand("mirror-corrupt-blob")
def test_a_mirror_that_spoils_the_beginning_and_then_cuts_makes_no_complete_answer() -> None:
    """The client holds a wrong beginning; nothing that follows it may be complete with a digest that fits it."""
    checkpoints = Checkpoints()
    stream(checkpoints, FINE_BUT_FOR_THE_BEGINNING, up_to=2500)
    wrong_prefix = digest_of(FINE_BUT_FOR_THE_BEGINNING[:2450])
    part = part_of(Source(), checkpoints, 2450, len(CONTENT))
    assert part is not None
    assert part.prefix == wrong_prefix, "which the client has"
    received, error = drain(part)
    assert isinstance(error, DigestMismatchError)
    assert len(received) < len(CONTENT) - 2450
    assert part_of(Source(), checkpoints, 2450, len(CONTENT)) is None, "from now on the whole is sent"
    assert checkpoints.record("os", BLOB).hash_at(2450).offset == 0


@pytest.mark.demand("mirror-corrupt-blob")
def test_a_client_with_a_wrong_beginning_sees_by_the_digest_that_it_is_wrong() -> None:
    """The checkpoints are lost, as with a new process."""
    part = part_of(Source(), Checkpoints(), 2450, len(CONTENT))
    assert part is not None
    assert part.prefix != digest_of(FINE_BUT_FOR_THE_BEGINNING[:2450])
    part.pieces.close()


@pytest.mark.demand("mirror-corrupt-blob")
@pytest.mark.parametrize("cut", [100, 1000])
def test_a_client_that_does_not_compare_gets_no_end_that_does_not_go_with_its_beginning(cut: int) -> None:
    """Whether the wrong beginning was cut before its first checkpoint, or the right blob came through meanwhile."""
    checkpoints = Checkpoints()
    stream(checkpoints, FINE_BUT_FOR_THE_BEGINNING, up_to=cut)
    if cut > SPACING:
        stream(checkpoints)
        assert part_of(Source(), checkpoints, cut - 50, len(CONTENT)) is None
        return
    received, error = drain(part_of(Source(), checkpoints, cut - 50, len(CONTENT)))
    assert isinstance(error, DigestMismatchError)
    assert "began with other content" in str(error)
    assert len(received) < len(CONTENT) - cut + 50
    assert part_of(Source(), checkpoints, cut - 50, len(CONTENT)) is None


def test_who_goes_on_from_a_right_beginning_is_not_kept_from_it() -> None:
    checkpoints = Checkpoints()
    for cut in (100, 500, 1900, 4000):
        stream(checkpoints, up_to=cut)
        assert take(part_of(Source(), checkpoints, cut - 50, len(CONTENT))) == CONTENT[cut - 50 :]


def test_from_its_first_byte_on_a_suspect_blob_is_sent_as_any_other() -> None:
    checkpoints = Checkpoints()
    stream(checkpoints, FINE_BUT_FOR_THE_BEGINNING)
    assert part_of(Source(), checkpoints, 1, len(CONTENT)) is None
    assert take(part_of(Source(), checkpoints, 0, len(CONTENT))) == CONTENT


def test_a_source_that_cannot_begin_in_the_middle_is_read_from_the_beginning() -> None:
    checkpoints, source = Checkpoints(), Source(can_resume=False)
    stream(checkpoints, up_to=2500)
    assert take(part_of(source, checkpoints, 2450, len(CONTENT))) == CONTENT[2450:]
    assert source.asked == [(2400, 5000), (0, 5000)]
    stream(checkpoints)
    assert part_of(source, checkpoints, 2450, 2700) is None, "the whole is sent instead"


@pytest.mark.demand("DIG-blob-short")
@pytest.mark.parametrize("length", [1000, 3000])
def test_a_source_that_ends_early_makes_no_complete_part(length: int) -> None:
    checkpoints = Checkpoints()
    with pytest.raises(SizeMismatchError):
        take(part_of(Source(CONTENT[:length]), checkpoints, 2450, len(CONTENT)))


def test_of_a_blob_that_fits_the_ring_a_part_is_verified_before_it_leaves() -> None:
    content = CONTENT[:RING_SIZE]
    blob = Descriptor("", digest_of(content), len(content))
    known = Checkpoints().record("os", blob)
    part = open_part(CONTEXT, Source(content), blob, known, range(10, 20))
    assert part is not None
    assert (take(part), part.prefix) == (content[10:20], digest_of(content[:10]))
    with pytest.raises(DigestMismatchError):
        open_part(CONTEXT, Source(b"!" + content[1:]), blob, known, range(10, 20))


@pytest.mark.demand("DIG-sha512")
def test_the_digests_are_of_the_blobs_own_algorithm() -> None:
    blob = Descriptor("", digest_of(CONTENT, "sha512"), len(CONTENT))
    part = open_part(CONTEXT, Source(), blob, Checkpoints().record("os", blob), range(700, 5000))
    assert part is not None
    assert part.prefix.hex == hashlib.sha512(CONTENT[:700]).hexdigest()
    assert take(part) == CONTENT[700:]


def streams_alive() -> set[int]:
    """Those in memory, by identity."""
    return {id(one) for one in gc.get_objects() if isinstance(one, VerifiedBlob)}


def test_while_the_last_piece_is_sent_the_stream_is_closed_and_its_memory_gone() -> None:
    checkpoints, source = Checkpoints(), Source()
    stream(checkpoints)
    earlier = streams_alive()
    part = part_of(source, checkpoints, 100, len(CONTENT))
    assert part is not None
    with closing(part.pieces):
        received = 0
        for piece in part.pieces:
            received += len(piece)
            is_last = received == len(CONTENT) - 100
            assert bool(source.readers[-1].closed) == is_last
            assert (streams_alive() == earlier) == is_last


def test_leaving_early_closes_the_reader() -> None:
    checkpoints, source = Checkpoints(), Source()
    stream(checkpoints)
    for stop in (2700, len(CONTENT)):
        part = part_of(source, checkpoints, 100, stop)
        assert part is not None
        next(iter(part.pieces))
        part.pieces.close()
        assert source.readers[-1].closed
