"""An image's root file system as a directory: fetched, verified, unpacked, and put in place when all of it is right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from container_image_client.destination import NewDirectory
from container_image_client.errors import DestinationError
from container_image_client.layers import LayerReader
from container_image_client.progress import SILENT, Counting, Progress
from container_image_client.tar import TarReader
from container_image_client.unpack import Unpacker

if TYPE_CHECKING:
    import os
    from collections import Counter

    from container_image_client.client import Client
    from container_image_client.documents import Manifest


def unpack(
    client: Client,
    directory: str | os.PathLike[str],
    *,
    replace: bool = False,
    sync: bool = True,
    progress: Progress = SILENT,
) -> tuple[Manifest, Counter[str]]:
    """Make the directory; which image it is, and what could not be kept of it.

    It must be missing or empty, or with ``replace`` it is exchanged for the new one in one step.
    With ``sync`` all of it is on the disk before it has its name: else files may be empty after a power cut.
    """
    manifest = client.manifest()
    layers = client.layers(manifest)
    with NewDirectory(directory, replace=replace, sync=sync) as new:
        unpacker = Unpacker(new.descriptor)
        for number, layer in enumerate(layers, 1):
            label = f"layer {number}/{len(layers)}"
            with (
                progress.step(label, layer.blob.digest, layer.blob.size) as step,
                LayerReader(Counting(client.open(layer.blob.digest), step), layer.diff_id) as archive,
            ):
                try:
                    unpacker.apply(TarReader(archive.read))
                except OSError as error:
                    raise DestinationError(f"{directory} cannot be filled: {error}") from error
        unpacker.finish()
        new.commit()
    return manifest, unpacker.left_out
