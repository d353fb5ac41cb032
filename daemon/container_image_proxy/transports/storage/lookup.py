"""Which images of a store a reference names. The rules are those of containers/storage and containers/image.

Pure. A store has several lists of images: its own, which counts most, then those of additional stores. A list may be
read from disk when its turn comes, so no more lists are looked at than decide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from container_image_proxy.errors import InvalidReferenceError
from container_image_proxy.image.reference import parse_reference

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from container_image_proxy.image.reference import Reference
    from container_image_proxy.transports.storage.records import ImageRecord


class Image(Struct, frozen=True):
    """An image, and the store below whose directory it lies."""

    root: Path
    record: ImageRecord


def find_by_key(stores: Iterable[Sequence[Image]], key: str) -> Image | None:
    """The image with that id or name in the first store that has one. ``key`` may also be the beginning of one id."""
    own: frozenset[str] | None = None
    for images in stores:
        named = [image for image in images if key in (image.record.names or ())]
        found = [image for image in images if image.record.id == key] or named[-1:]  # the last image took the name over
        if not found and key:
            begun = [image for image in images if image.record.id.startswith(key)]
            found = begun if len(begun) == 1 else []
        # If the own store has a record of an image, that alone says which names the image has. A name that is taken
        # away there, as by podman untag, may still be in the additional store.
        if found and (own is None or found[0].record.id not in own):
            return found[0]
        own = own if own is not None else frozenset(image.record.id for image in images)
    return None


def find_images(stores: Iterable[Sequence[Image]], named: Reference | None, image_id: str) -> tuple[Image, ...]:
    """The images that a reference by name, by id, or by both names. The first one is meant if no digest says more.

    They are several if the name has the digest of an index: a store has an image for each platform that was pulled.
    """
    found = find_by_key(stores, image_id or str(named))
    images = [found] if found is not None else []
    if not images and not image_id and named is not None and named.digest is not None:
        wanted = str(named.digest)
        images = [one for records in stores for one in records if wanted in one.record.manifest_digests]
    return tuple(one for one in images if named is None or named.name in map(_repository_of, one.record.names or ()))


def _repository_of(name: str) -> str | None:
    try:
        return parse_reference(name).name
    except InvalidReferenceError:  # written by a program with other rules
        return None


def find_former(stores: Iterable[Sequence[Image]], named: Reference) -> Image | None:
    """The first image that had the name once; None if there is none."""
    images = (image for images in stores for image in images)
    return next((image for image in images if str(named) in (image.record.names_history or ())), None)
