"""Which images of a store a reference names, as containers/storage and containers/image find them.

Pure. A store is several lists of records: its own first, which counts most, then those of other places. They are gone
through in their order, and no further than need be: a list may be read only then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from container_image_proxy.errors import InvalidReferenceError
from container_image_proxy.image.reference import parse_reference

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from container_image_proxy.image.reference import Reference
    from container_image_proxy.transports.storage.records import ImageRecord


class Image(Struct, frozen=True):
    """An image, and the store below whose directory it lies."""

    root: Path
    record: ImageRecord


def find_by_key(stores: Iterable[Sequence[Image]], key: str) -> Image | None:
    """The image with that id or name, or whose id alone begins so, in the first store that has one."""
    own: frozenset[str] | None = None
    for images in stores:
        found = _find_in(images, key)
        # The name of an image that the own store has, too, is no more a name of it there if it is not one here.
        if found is not None and (own is None or found.record.id not in own):
            return found
        own = own if own is not None else frozenset(image.record.id for image in images)
    return None


def _find_in(images: Sequence[Image], key: str) -> Image | None:
    named = [image for image in images if key in (image.record.names or ())]
    found = [image for image in images if image.record.id == key] or named[-1:]  # of a name twice the last one counts
    if not found and key:
        begun = [image for image in images if image.record.id.startswith(key)]
        found = begun if len(begun) == 1 else []
    return found[0] if found else None


def find_images(stores: Iterable[Sequence[Image]], named: Reference | None, image_id: str) -> tuple[Image, ...]:
    """The images that a reference of name, id or both names; the first is the one that is meant if no digest says more.

    They are several where a digest is that of an index, of which a store has an image for each platform pulled.
    """
    if image_id:
        found = [find_by_key(stores, image_id)]
    elif named is not None and (by_name := find_by_key(stores, str(named))) is not None:
        found = [by_name]
    else:
        found = list(_by_digest(stores, named))
    return tuple(
        image for image in found if image is not None and (named is None or _is_in_repository(image.record, named))
    )


def _by_digest(stores: Iterable[Sequence[Image]], named: Reference | None) -> Iterator[Image]:
    if named is not None and named.digest is not None:
        wanted = str(named.digest)
        yield from (image for images in stores for image in images if wanted in image.record.manifest_digests)


def _is_in_repository(record: ImageRecord, named: Reference) -> bool:
    """Whether one of the image's names is in the repository that ``named`` is in."""
    return any(_repository_of(name) == named.name for name in record.names or ())


def _repository_of(name: str) -> str:
    try:
        return parse_reference(name).name
    except InvalidReferenceError:  # of another program, which had its reasons
        return ""


def find_former(stores: Iterable[Sequence[Image]], named: Reference) -> Image | None:
    """An image that had the name once."""
    images = (image for images in stores for image in images)
    return next((image for image in images if str(named) in (image.record.names_history or ())), None)
