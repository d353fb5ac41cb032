"""tarball: images: the layers of an image as files, with nothing beside them."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.support.layouts import StoredImage
from tests.support.makers.maker import Made, Maker, Spot
from tests.support.schema1 import digest_of


def write(image: StoredImage, place: Path, change: Callable[[bytes], bytes] | None = None) -> Made:
    """Each layer as a file; ``change`` makes of it what is in the file, and may serve as it likes."""
    place.mkdir(parents=True)
    paths = []
    for number, layer in enumerate(image.layers):
        paths.append(place / f"{number}.tar")
        paths[-1].write_bytes(change(layer) if change else layer)
    spots = {} if change else {digest_of(layer): Spot(path) for layer, path in zip(image.layers, paths, strict=True)}
    return Made(f"tarball:{':'.join(map(str, paths))}", None, None, image.layers, paths[0], spots)


def unpacked(image: StoredImage) -> StoredImage:
    """The image with plain tars for layers."""
    return replace(image, layers=tuple(gzip.decompress(layer) for layer in image.layers))


MAKERS = (
    Maker("tarball", lambda _, image, place: write(image, place)),
    Maker("tarball-plain", lambda _, image, place: write(unpacked(image), place)),
    Maker("tarball-xz", lambda _, image, place: write(unpacked(image), place, lzma.compress)),
    Maker("tarball-bzip2", lambda _, image, place: write(unpacked(image), place, bz2.compress)),
)
