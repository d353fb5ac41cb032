"""images.json and layers.json: which images and layers a store has, as containers/storage records them.

A record proves nothing: whatever is read because of it is verified by a digest that policy has seen. Members that are
not used here are ignored. Those that are used may be null, as Go writes an empty one.
"""

from __future__ import annotations

import re
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct, field

from container_image_proxy.errors import SourceError

MAX_LIST_SIZE: Final = 32 << 20
"""Bytes of a list. A record has a kilobyte or two. The stores of large build hosts have some thousands of records."""
_ID: Final = re.compile(r"[0-9a-f]{64}")


class ImageRecord(Struct, frozen=True):
    """An image. ``big_data`` has the digests of the manifests and configurations that are kept with it, by their keys.

    ``metadata`` is a JSON document of containers/image.
    """

    id: str
    digest: str | None = None
    names: tuple[str, ...] | None = None
    names_history: tuple[str, ...] | None = field(default=None, name="names-history")
    top_layer: str | None = field(default=None, name="layer")
    metadata: str | None = None
    big_data: dict[str, str] | None = field(default=None, name="big-data-digests")

    @property
    def manifest_digests(self) -> frozenset[str]:
        """The digests of its manifests and indexes."""
        kept = {digest for key, digest in (self.big_data or {}).items() if key.startswith("manifest")}
        return frozenset(kept | {self.digest or ""})


class LayerRecord(Struct, frozen=True):
    """A layer. ``diff_digest`` and ``diff_size`` are those of its tar, ``toc_digest`` that of a zstd:chunked layer."""

    id: str
    parent: str | None = None
    diff_digest: str | None = field(default=None, name="diff-digest")
    diff_size: int | None = field(default=None, name="diff-size")
    toc_digest: str | None = field(default=None, name="toc-digest")
    flags: dict[str, Any] | None = None

    @property
    def is_incomplete(self) -> bool:
        """Whether unpacking it was cut short."""
        return (self.flags or {}).get("incomplete") is True


_Record = TypeVar("_Record", ImageRecord, LayerRecord)


def parse_images(raw: bytes, place: str) -> tuple[ImageRecord, ...]:
    """Read images.json. ``place`` names it in errors. Raises :class:`SourceError`."""
    return _parse(raw, tuple[ImageRecord, ...], place)


def parse_layers(raw: bytes, place: str) -> tuple[LayerRecord, ...]:
    """Read layers.json or volatile-layers.json, as :func:`parse_images`."""
    return _parse(raw, tuple[LayerRecord, ...], place)


def _parse(raw: bytes, kind: type[tuple[_Record, ...]], place: str) -> tuple[_Record, ...]:
    try:
        records = msgspec.json.decode(raw or b"[]", type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise SourceError(f"the store is broken: {place}: {error}", endpoint=place) from error
    # An id becomes part of paths below the store.
    return tuple(one for one in records if _ID.fullmatch(one.id))
