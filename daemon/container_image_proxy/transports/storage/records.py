"""images.json and layers.json: which images and layers a store has, as containers/storage records them.

A record claims, and proves nothing: what is read by it is held against a digest that policy has seen. Members that we
have no use for are ignored, those that we have may be null, which is how Go writes an empty one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct, field

from container_image_proxy.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_LIST_SIZE: Final = 32 << 20
"""Bytes of a list. A record has a kilobyte or two, and stores that build for many have some thousands of them."""
_ID: Final = re.compile(r"[0-9a-f]{64}")


class ImageRecord(Struct, frozen=True):
    """An image. ``big_data`` are the digests, by their keys, of what is kept as it is: manifests and configurations.

    ``metadata`` is JSON in its turn, of containers/image.
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
        """Those of its manifests and indexes."""
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
        """Whether it was being unpacked when that was cut short."""
        return (self.flags or {}).get("incomplete") is True


def parse_images(raw: bytes, place: str) -> tuple[ImageRecord, ...]:
    """Read images.json; :class:`SourceError` names ``place`` if it is none."""
    return tuple(one for one in _parse(raw, tuple[ImageRecord, ...], place) if _ID.fullmatch(one.id))


def parse_layers(raw: bytes, place: str) -> tuple[LayerRecord, ...]:
    """Read layers.json or volatile-layers.json; :class:`SourceError` names ``place`` if it is neither."""
    return tuple(one for one in _parse(raw, tuple[LayerRecord, ...], place) if _ID.fullmatch(one.id))


def _parse(raw: bytes, kind: type[Any], place: str) -> Sequence[Any]:
    try:
        return msgspec.json.decode(raw, type=kind) if raw else ()
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise SourceError(f"the store is broken: {place}: {error}", endpoint=place) from error
