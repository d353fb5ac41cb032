"""Checkpoints of a blob's hash: which are kept, which are believed, and that they are bounded."""

from __future__ import annotations

import hashlib

import pytest

from container_image_proxy.core import checkpoints as module
from container_image_proxy.core.checkpoints import BlobHash, Checkpoints
from container_image_proxy.image.descriptor import Descriptor
from container_image_proxy.image.digest import digest_of

SPACING = 100
CONTENT = bytes(range(256)) * 4  # ten checkpoints
BLOB = Descriptor("", digest_of(CONTENT), len(CONTENT))


@pytest.fixture(autouse=True)
def small_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPACING", SPACING)
    monkeypatch.setattr(module, "MAX_PER_BLOB", 16)
    monkeypatch.setattr(module, "MAX_CHECKPOINTS", 24)
    monkeypatch.setattr(module, "MAX_BLOBS", 4)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def stream(checkpoints: Checkpoints, content: bytes, *, image: str = "os", blob: Descriptor = BLOB) -> BlobHash:
    """Hash ``content`` in pieces that have nothing to do with checkpoints."""
    hashed = checkpoints.record(image, blob).hash_at(0)
    for start in range(0, len(content), 33):
        hashed.update(memoryview(content[start : start + 33]))
    return hashed


def digests_at(checkpoints: Checkpoints, content: bytes, offset: int, *, image: str = "os") -> tuple[int, bool]:
    """Where a hash begins that is wanted at ``offset``, and whether it is that of ``content``."""
    hashed = checkpoints.record(image, BLOB).hash_at(offset)
    return hashed.offset, hashed.digest().hex == hashlib.sha256(content[: hashed.offset]).hexdigest()


def test_a_hash_begins_at_the_last_checkpoint_at_or_before_what_is_wanted() -> None:
    checkpoints = Checkpoints()
    stream(checkpoints, CONTENT[:750])
    for offset, begins in ((0, 0), (99, 0), (100, 100), (350, 300), (700, 700), (1000, 700)):
        assert digests_at(checkpoints, CONTENT, offset) == (begins, True)


def test_until_the_blob_is_proved_its_end_decides_and_then_the_next_checkpoint() -> None:
    checkpoints = Checkpoints()
    hashed = stream(checkpoints, CONTENT)
    assert checkpoints.record("os", BLOB).decision(150) == (BLOB.size, BLOB.digest)
    hashed.confirm()
    known = checkpoints.record("os", BLOB)
    assert known.decision(150) == (200, digest_of(CONTENT[:200]))
    assert known.decision(200) == (200, digest_of(CONTENT[:200]))
    assert known.decision(1001) == (BLOB.size, BLOB.digest)


def test_a_run_that_goes_on_from_a_checkpoint_keeps_those_before_it_and_proves_them() -> None:
    checkpoints = Checkpoints()
    stream(checkpoints, CONTENT[:550])
    hashed = checkpoints.record("os", BLOB).hash_at(450)
    assert hashed.offset == 400
    hashed.update(memoryview(CONTENT[400:]))
    assert hashed.digest() == BLOB.digest
    hashed.confirm()
    assert checkpoints.record("os", BLOB).decision(50) == (100, digest_of(CONTENT[:100]))


def test_the_states_of_two_runs_are_never_mixed() -> None:
    """One run is wrong from its beginning and came further; the other one, which proved right, proves only its own."""
    checkpoints = Checkpoints()
    right = checkpoints.record("os", BLOB).hash_at(0)
    right.update(memoryview(CONTENT[:350]))
    stream(checkpoints, b"!" + CONTENT[1:800])
    assert digests_at(checkpoints, CONTENT, 700) == (700, False), "nobody knows yet"
    right.update(memoryview(CONTENT[350:]))
    right.confirm()
    assert digests_at(checkpoints, CONTENT, 700) == (700, True)
    assert checkpoints.record("os", BLOB).decision(610) == (700, digest_of(CONTENT[:700]))


def test_a_blob_that_proves_wrong_drops_its_checkpoints_and_is_suspect_for_a_while() -> None:
    clock = Clock()
    checkpoints = Checkpoints(clock)
    stream(checkpoints, b"!" + CONTENT[1:]).refute()
    known = checkpoints.record("os", BLOB)
    assert (known.hash_at(500).offset, known.is_suspect) == (0, True)
    clock.now = module.MAX_AGE + 1
    assert not checkpoints.record("os", BLOB).is_suspect


def test_what_is_proved_outlives_a_wrong_run() -> None:
    checkpoints = Checkpoints()
    stream(checkpoints, CONTENT).confirm()
    stream(checkpoints, b"!" + CONTENT[1:]).refute()
    assert digests_at(checkpoints, CONTENT, 500) == (500, True)
    assert checkpoints.record("os", BLOB).is_suspect


def test_what_one_images_source_sends_harms_no_other_image() -> None:
    checkpoints = Checkpoints()
    stream(checkpoints, CONTENT[:500])
    stream(checkpoints, b"!" + CONTENT[1:], image="other").refute()
    assert digests_at(checkpoints, CONTENT, 500) == (500, True)
    assert not checkpoints.record("os", BLOB).is_suspect


def test_a_record_stays_as_it_was_while_a_run_goes_on() -> None:
    checkpoints = Checkpoints()
    hashed = stream(checkpoints, CONTENT[:250])
    known = checkpoints.record("os", BLOB)
    hashed.update(memoryview(CONTENT[250:]))
    hashed.confirm()
    assert known.hash_at(900).offset == 200
    assert known.decision(150) == (BLOB.size, BLOB.digest)


def test_checkpoints_are_bounded_in_number_and_age() -> None:
    clock = Clock()
    checkpoints = Checkpoints(clock)
    for number in range(10):
        stream(checkpoints, CONTENT, image=f"image{number}")
    kept = [digests_at(checkpoints, CONTENT, 500, image=f"image{number}")[0] for number in range(10)]
    assert kept == [0] * 8 + [500] * 2, "ten of each blob, 24 in all"
    clock.now = module.MAX_AGE + 1
    assert digests_at(checkpoints, CONTENT, 500, image="image9")[0] == 0


def test_blobs_are_bounded_in_number() -> None:
    checkpoints = Checkpoints()
    for number in range(20):
        stream(checkpoints, CONTENT[:150], image=f"image{number}")
        stream(checkpoints, b"!" + CONTENT[1:], image=f"wrong{number}").refute()
    assert sum(digests_at(checkpoints, CONTENT, 100, image=f"image{number}")[0] > 0 for number in range(20)) <= 4
    assert sum(checkpoints.record(f"wrong{number}", BLOB).is_suspect for number in range(20)) == 4


def test_where_a_run_was_broken_off_others_compare_for_a_while() -> None:
    clock = Clock()
    checkpoints = Checkpoints(clock)
    stream(checkpoints, b"!" + CONTENT[1:50]).leave()
    clock.now = module.MAX_AGE + 1
    assert not stream(checkpoints, CONTENT).is_contradicted
    stream(checkpoints, b"!" + CONTENT[1:50]).leave()
    stream(checkpoints, CONTENT[:60]).leave()
    assert checkpoints.record("os", BLOB).is_suspect
    assert stream(checkpoints, CONTENT).is_contradicted
    assert not stream(checkpoints, CONTENT, image="other").is_contradicted


def test_what_was_read_through_or_proved_wrong_is_no_place_to_compare() -> None:
    checkpoints = Checkpoints()
    for settle in (BlobHash.confirm, BlobHash.refute):
        hashed = stream(checkpoints, b"!" + CONTENT[1:250])
        getattr(hashed, settle.__name__)()
        hashed.leave()
    assert not stream(checkpoints, CONTENT).is_contradicted


def test_a_huge_blob_has_its_checkpoints_further_apart() -> None:
    checkpoints = Checkpoints()
    content = bytes(SPACING * 60)
    blob = Descriptor("", digest_of(content), len(content))
    stream(checkpoints, content, blob=blob)
    assert checkpoints.record("os", blob).hash_at(950).offset == 800
