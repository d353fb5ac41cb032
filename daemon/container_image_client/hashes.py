"""Hashes of the algorithms that a digest may name."""

from __future__ import annotations

import hashlib
import os
from typing import Final

from container_image_client.errors import UnsupportedImageError

_BUFFER: Final = 1 << 20


def new_hash(digest: str) -> hashlib._Hash:
    """A hash of the digest's algorithm."""
    algorithm = digest.partition(":")[0]
    if algorithm not in ("sha256", "sha512"):
        raise UnsupportedImageError(f"{digest[:80]!r} is no digest that can be verified here: sha256 and sha512 can")
    return hashlib.new(algorithm)


def hash_of_file(descriptor: int, digest: str, end: int) -> hashlib._Hash:
    """The hash of an open file's beginning, by the algorithm of the digest; the file's position stays."""
    hashing = new_hash(digest)
    position = 0
    while position < end and (piece := os.pread(descriptor, min(_BUFFER, end - position), position)):
        hashing.update(piece)
        position += len(piece)
    return hashing


def is_file(descriptor: int, digest: str, size: int) -> bool:
    """Whether an open file is what the digest names, which has this size."""
    if os.fstat(descriptor).st_size != size:
        return False
    return hash_of_file(descriptor, digest, size).hexdigest() == digest.partition(":")[2]
