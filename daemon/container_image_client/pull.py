"""Pulling an image: into an OCI layout beside others, or as a directory of its own with its signatures.

An image has its name when all of it is there. An interrupted pull leaves the layout or directory that was there, or
none. With ``sync``, as by default, that holds for a power cut, too. It must know nothing of terminals.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from container_image_client.attached import fetch_signatures
from container_image_client.destination import NewDirectory
from container_image_client.documents import parse_manifest
from container_image_client.errors import DestinationError, UnsupportedImageError
from container_image_client.image_directory import ImageDirectory
from container_image_client.layout import LayoutPath
from container_image_client.progress import SILENT, Progress
from container_image_client.transfers import Transfers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from container_image_client.client import Client
    from container_image_client.documents import Descriptor, Manifest

_WORK: Final = ".cip"  # in a layout, where what is not whole yet is kept
_REMEDY: Final = "skopeo copy takes it along from the registry, as the program carry-image does (contrib/uses.md)"


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull did. ``signatures`` is how many a directory has."""

    manifest: Manifest
    fetched: tuple[Descriptor, ...]
    kept: tuple[Descriptor, ...]
    signatures: int = 0


def pull(
    client: Client,
    place: LayoutPath | ImageDirectory,
    *,
    verify: bool = False,
    sync: bool = True,
    progress: Progress = SILENT,
) -> Pulled:
    """Fetch what the place lacks of the image, and give it its name there.

    What arrives complete is verified by the daemon; with ``verify`` it is hashed here as well, and so are the blobs
    that are there already.
    """
    if isinstance(place, LayoutPath):
        return _pull_into_layout(client, place, verify=verify, sync=sync, progress=progress)
    return _pull_directory(client, place, verify=verify, sync=sync, progress=progress)


def _pull_into_layout(client: Client, layout: LayoutPath, *, verify: bool, sync: bool, progress: Progress) -> Pulled:
    with _at_work(layout.directory) as work:
        manifest = client.manifest()
        fetched = Transfers(client, layout, work, progress, verify=verify, sync=sync).fetch(manifest.blobs)
        layout.enter(manifest, sync=sync)
    return Pulled(manifest, fetched, _others(manifest, fetched))


@contextmanager
def _at_work(directory: Path) -> Iterator[Path]:
    """The folder of a layout for what is not whole yet, which has what an interrupted pull left. It is locked."""
    work = directory / _WORK
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not work.is_dir() and not (directory / "oci-layout").exists() and any(directory.iterdir()):
            raise DestinationError(f"{directory} is not empty, and is no OCI layout", remedy="name another directory")
        work.mkdir(exist_ok=True)
        lock = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise DestinationError(f"{directory} cannot be made a layout: {error.strerror}: {error.filename}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            remedy = "wait for it, or end it"
            raise DestinationError(f"another cip is pulling into {directory} at this moment", remedy=remedy) from None
        yield work
        shutil.rmtree(work)
    except OSError as error:
        raise DestinationError(f"{directory} cannot be written: {error.strerror or error}") from error
    finally:
        os.close(lock)


def _pull_directory(
    client: Client, directory: ImageDirectory, *, verify: bool, sync: bool, progress: Progress
) -> Pulled:
    """A directory is made anew, with links to the blobs that the one before has, and put in its place."""
    directory.verify_replaceable()
    manifest = client.manifest()
    raw = client.original_manifest(manifest.digest)  # which is what signatures are for
    config, layers, media_type = parse_manifest(raw)
    original = replace(manifest, raw=raw, config=config, layers=layers, media_type=media_type)
    signatures = fetch_signatures(client, manifest.digest)
    if manifest.signed_by and (not signatures or any(signer.startswith("openpgp:") for signer in manifest.signed_by)):
        raise UnsupportedImageError(
            f"the directory would lack what the image is trusted for, a signature of {', '.join(manifest.signed_by)}: "
            "the daemon hands out those only that are attached to the manifest itself",
            remedy=_REMEDY,
        )
    with NewDirectory(directory.path, replace=True, sync=sync) as new:
        made = ImageDirectory(new.path)
        for blob in original.blobs:
            directory.link(blob, made)
        fetched = Transfers(client, made, made.path, progress, verify=verify, sync=False).fetch(original.blobs)
        made.complete(raw, signatures)
        new.commit()
    return Pulled(manifest, fetched, _others(original, fetched), len(signatures))


def _others(manifest: Manifest, fetched: tuple[Descriptor, ...]) -> tuple[Descriptor, ...]:
    return tuple(blob for blob in manifest.blobs if blob not in fetched)
