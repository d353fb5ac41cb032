"""An image as a directory of its own, ``dir:`` of containers-transports(5): manifest, blobs and signatures as files.

It has the original manifest, byte for byte, since signatures are for that. It must not fetch anything.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from container_image_client.destination import write_file
from container_image_client.errors import DestinationError
from container_image_client.transfers import is_there

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from container_image_client.documents import Descriptor

_VERSION: Final = b"Directory Transport Version: 1.1\n"
_MANIFEST: Final = "manifest.json"


@dataclass(frozen=True, slots=True)
class ImageDirectory:
    """``dir:DIR``."""

    path: Path

    def blob(self, digest: str) -> Path:
        """Where a blob is, or would be."""
        return self.path / digest.partition(":")[2]

    def verify_replaceable(self) -> None:
        """Raise unless nothing is there but an image, which another may replace."""
        if self.path.is_dir() and any(self.path.iterdir()) and not (self.path / _MANIFEST).is_file():
            remedy = "name another directory"
            raise DestinationError(f"{self.path} is not empty, and has no {_MANIFEST}: it is no image", remedy=remedy)

    def link(self, blob: Descriptor, other: ImageDirectory) -> None:
        """Give the other one this one's blob, if it is there with the right size."""
        if is_there(self, blob):
            with suppress(OSError):  # not every file system has links, and the blob can be fetched
                os.link(self.blob(blob.digest), other.blob(blob.digest), follow_symlinks=False)

    def complete(self, manifest: bytes, signatures: Sequence[bytes]) -> None:
        """Add the manifest and its signatures to the blobs, and let everybody read them."""
        write_file(self.path / "version", _VERSION, sync=False)
        for number, signature in enumerate(signatures, 1):
            write_file(self.path / f"signature-{number}", signature, sync=False)
        write_file(self.path / _MANIFEST, manifest, sync=False)
        self.path.chmod(0o755)
