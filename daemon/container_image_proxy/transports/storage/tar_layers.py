"""The manifest that is served for a store's image, made of what is kept with a snapshot (contrib/adr/0032).

That is the configuration, which lists the digests of the layers' tars, and the sizes of these. It is untrusted. The
configuration counts if it has the digest that the verified manifest names. A wrong size makes the transfer fail.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

import msgspec

from container_image_proxy.errors import InvalidManifestError
from container_image_proxy.image.diff_ids import parse_diff_ids, with_tar_layers
from container_image_proxy.image.manifest import MAX_CONFIG_SIZE
from container_image_proxy.transports.source import MAX_STATE_SIZE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from container_image_proxy.image.manifest import Manifest

MAX_LAYERS: Final = 10_000
MAX_IMAGES: Final = 8
"""Images of one source, which are those of several platforms: as many as an instance keeps snapshots of an image."""
_MAX_DECODED: Final = 2 * (MAX_CONFIG_SIZE + 16 * MAX_LAYERS)
"""Bytes of a state when it is uncompressed. There is room for one image in any case."""


class TarLayers(msgspec.Struct, frozen=True):
    """An image's configuration, which lists the digests of the tars, and the sizes of these in bytes."""

    config: bytes
    sizes: tuple[int, ...]


def encode_state(known: Mapping[str, TarLayers]) -> bytes:
    """The state for images by the digests of their configurations: of the last ones, if there is no room for all."""
    kept = dict([*known.items()][-MAX_IMAGES:])
    while kept:
        state = zlib.compress(msgspec.msgpack.encode(kept), level=1)
        if len(state) <= MAX_STATE_SIZE:
            return state
        del kept[next(iter(kept))]
    return b""


def decode_state(state: bytes) -> dict[str, TarLayers]:
    """What :func:`encode_state` was given; empty for what it has not made, because state is untrusted."""
    try:
        raw = zlib.decompressobj().decompress(state, _MAX_DECODED)
        return msgspec.msgpack.decode(raw, type=dict[str, TarLayers])
    except (zlib.error, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


def to_oci(manifest: Manifest, state: bytes) -> Manifest:
    """The manifest as it is served, with tars as layers. Raises :class:`InvalidManifestError` if they are not known."""
    found = decode_state(state).get(str(manifest.config.digest))
    if found is None or not manifest.config.digest.matches(found.config):
        raise InvalidManifestError("it is not known which tars the image's layers are")
    return with_tar_layers(manifest, parse_diff_ids(found.config), found.sizes)
