"""What a maker is asked for, and what it hands back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.layouts import StoredImage


@dataclass(frozen=True)
class Spot:
    """Where the bytes of a blob lie: in which file, and from which byte of it on."""

    path: Path
    start: int = 0


@dataclass(frozen=True)
class Made:
    """An image in some format, as it has to be served.

    ``digest`` is what ``Manifest-Digest`` has to be; None where the format has no manifest of its own. ``config`` and
    ``layers`` are the blobs as they have to come out. ``config`` is None if any will do that names the layers' DiffIDs.
    ``spots`` says where blobs lie, by digest; none where no file of ours has them as they are. ``unreadable`` is a file
    or directory without which the image cannot be read.
    """

    reference: str
    digest: str | None
    config: bytes | None
    layers: tuple[bytes, ...]
    unreadable: Path | None = None
    spots: Mapping[str, Spot] = field(default_factory=dict)


@dataclass(frozen=True)
class Maker:
    """A writer of one format.

    ``make(layout, image, place)`` turns ``image``, the one named ``latest`` in an OCI layout, into the format below
    ``place``, an empty directory that it makes. ``make_list(layout, place)`` does so with an index named ``latest``,
    and returns the reference. ``hostile`` makes images that must be refused, by what is wrong with them: each is given
    an empty directory and a file outside of it that must not come out, and returns the reference. ``clutter(made)``
    makes 10,000 things of the format's that are none of the image's. ``sparse(place, size)`` makes an image whose one
    layer is a hole of so many bytes, and returns its reference and the layer's digest, which need not be true.
    """

    name: str
    make: Callable[[Path, StoredImage, Path], Made]
    programs: tuple[str, ...] = ()
    make_list: Callable[[Path, Path], str] | None = None
    hostile: Mapping[str, Callable[[Path, Path], str]] = field(default_factory=dict)
    clutter: Callable[[Made], None] | None = None
    sparse: Callable[[Path, int], tuple[str, str]] | None = None

    def __str__(self) -> str:
        return self.name
