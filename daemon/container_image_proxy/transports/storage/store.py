"""A store of containers-storage on disk, opened for nothing but reading.

This module knows where things lie below the directories of a store. A list is read under its lock, which is held no
longer than that. Nothing is created, and below the configured directories no symbolic link is followed.
Must not decide anything about images.
"""

from __future__ import annotations

import base64
import os
import re
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from container_image_proxy.config.obstacle import find_obstacle
from container_image_proxy.errors import SourceError, UnknownBlobError, shown
from container_image_proxy.transports.beneath import DIRECTORY, FILE, explain, failure_at, open_beneath, read_bounded
from container_image_proxy.transports.storage.layer_files import LayerFiles
from container_image_proxy.transports.storage.layer_reader import LayerReader
from container_image_proxy.transports.storage.lock import locked
from container_image_proxy.transports.storage.lookup import Image
from container_image_proxy.transports.storage.records import MAX_LIST_SIZE, parse_images, parse_layers
from container_image_proxy.transports.storage.tar_split import read_entries, size_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.config.storage_conf import StoreLocation
    from container_image_proxy.transports.storage.records import LayerRecord

DRIVERS: Final = ("overlay", "vfs")
_REMEDY: Final = "a drop-in with CAP_DAC_READ_SEARCH lets an instance read it, see container-image-proxy-transports(5)"
_PLAIN_KEY: Final = re.compile(r"[.0-9a-z]+")
_reading: Final = threading.Lock()
"""Held while a list is read and parsed, so that one list is in memory at a time."""
_Record = TypeVar("_Record")


class Lists(Generic[_Record]):
    """Lists of records. Each is read when its turn comes, and once. An additional store that cannot be reached does no
    harm unless it is needed.
    """

    def __init__(self, readers: Iterable[Callable[[], tuple[_Record, ...]]]) -> None:
        self._readers = tuple(readers)
        self._read: list[tuple[_Record, ...]] = []

    def __iter__(self) -> Iterator[tuple[_Record, ...]]:
        for position, read in enumerate(self._readers):
            if position == len(self._read):
                self._read.append(read())
            yield self._read[position]


class Store:
    """The directories of ``location``. Nothing is held between calls; threads may share it."""

    def __init__(self, location: StoreLocation) -> None:
        own = location.image_store or location.graph_root  # imagestore of storage.conf
        self._location = location
        self._driver = location.driver
        self._image_roots = tuple(dict.fromkeys((own, location.graph_root, *location.additional)))
        self._layer_roots = tuple(dict.fromkeys((location.graph_root, own, *location.additional)))

    def verify(self) -> None:
        """Raise :class:`SourceError` if there is no store, it may not be read, or its driver is not in ``DRIVERS``."""
        root = self._location.graph_root
        if self._driver not in DRIVERS:
            raise SourceError(
                f"the store {root} is one of the driver {shown(self._driver)}, of which none can be read "
                f"({' and '.join(DRIVERS)} can): copy the image to an oci: layout with skopeo, and serve that",
                endpoint=str(root),
            )
        # A host on which nothing was pulled yet may have no store but additional ones, which came with the system.
        images, missing = (f"{self._driver}-images",), None
        for one in self._image_roots:
            try:
                os.close(self._open(one, images, DIRECTORY))
            except FileNotFoundError as error:
                missing = missing or error
            else:
                return
        assert missing is not None  # noqa: S101 - for mypy
        reason = find_obstacle(self._image_roots[0].joinpath(*images), missing).reason
        raise failure_at(str(root), f"there is no store to be read at {root}: {reason}", missing) from missing

    def images(self, context: Context) -> Lists[Image]:
        """The images of each store, in the order in which they count."""
        self.verify()

        def read(root: Path) -> tuple[Image, ...]:
            records = self._records(context, root, "images", "images.json", parse_images)
            return tuple(Image(root, record) for record in records)

        return Lists(partial(read, root) for root in self._image_roots)

    def layers(self, context: Context) -> Lists[LayerRecord]:
        """The layers of each store, in the order in which they count."""
        location = self._location

        def read(root: Path) -> tuple[LayerRecord, ...]:
            # transient_store of storage.conf: what is gone after a reboot is recorded below the run root.
            is_transient = location.is_transient and root == location.graph_root
            volatile = location.run_root if is_transient and location.run_root else root
            read_list = partial(self._records, context, kind="layers", parse=parse_layers, locked_at=root)
            return (*read_list(root, name="layers.json"), *read_list(volatile, name="volatile-layers.json"))

        return Lists(partial(read, root) for root in self._layer_roots)

    def read_data(self, image: Image, key: str, limit: int, take: Callable[[int], object]) -> bytes | None:
        """What is kept with the image under ``key``; None if there is nothing.

        Of a larger file a byte more than ``limit`` is returned.
        """
        # containers/storage encodes a key that could not be the name of a file, such as one with a digest's colon.
        name = key if _PLAIN_KEY.fullmatch(key) else "=" + base64.b64encode(key.encode()).decode()
        directory = (f"{self._driver}-images", image.record.id)
        # An image of an additional store that was given a name in this store has a record here, and nothing else.
        own = self._has(image.root, directory)
        for root in (image.root,) if own else self._image_roots:
            with suppress(FileNotFoundError):
                return self._read(root, (*directory, name), limit, take)
        return None

    def find_refusal(self, layer: LayerRecord) -> str | None:
        """Why the layer's tar cannot be put together again; None if nothing is known to be in the way."""
        if layer.is_incomplete:
            return "was not unpacked to its end: pull the image again"
        home = self._find_root(self._files(layer))
        is_composefs = home is not None and self._has(home, ("overlay", layer.id, "composefs-data"))
        if is_composefs or (layer.toc_digest and not layer.diff_digest):
            return (
                f"is stored as {'composefs' if is_composefs else 'zstd:chunked'}, of which its tar cannot be made: "
                "pull it with enable_partial_images and use_composefs off (storage.conf), or serve it by docker://"
            )
        if self._find_root(self._tar_split(layer)) is None:
            return "has no tar-split, by which its tar could be made again: pull it again, or serve it by docker://"
        return None

    def open_layer(self, layer: LayerRecord, offset: int = 0) -> LayerReader:
        """A reader of the layer's tar from ``offset`` on. Raises :class:`UnknownBlobError` if the layer is gone."""
        # Without a lock: the files of a layer never change, and one that is removed meanwhile ends the transfer.
        tar_split = self._open_anywhere(layer, self._tar_split(layer), FILE)
        try:
            files = LayerFiles(self._open_anywhere(layer, self._files(layer), DIRECTORY))
        except BaseException:
            os.close(tar_split)
            raise
        return LayerReader(os.fdopen(tar_split, "rb"), files, f"{self._location.graph_root}: layer {layer.id}", offset)

    def measure(self, layer: LayerRecord) -> int:
        """The size of the layer's tar in bytes: as it was recorded, or else as its tar-split has it."""
        if layer.diff_size is not None and layer.diff_size > 0:
            return layer.diff_size
        place = f"{self._location.graph_root}: the tar-split of layer {layer.id}"
        with os.fdopen(self._open_anywhere(layer, self._tar_split(layer), FILE), "rb") as file:
            try:
                return sum(map(size_of, read_entries(file, place)))
            except OSError as error:
                raise failure_at(place, f"{place}: {error.strerror or error}", error) from error

    def _files(self, layer: LayerRecord) -> tuple[str, ...]:
        return ("overlay", layer.id, "diff") if self._driver == "overlay" else ("vfs", "dir", layer.id)

    def _tar_split(self, layer: LayerRecord) -> tuple[str, str]:
        return (f"{self._driver}-layers", f"{layer.id}.tar-split.gz")

    def _records(
        self,
        context: Context,
        root: Path,
        kind: str,
        name: str,
        parse: Callable[[bytes, str], tuple[_Record, ...]],
        *,
        locked_at: Path | None = None,
    ) -> tuple[_Record, ...]:
        """The records of a list, read under the lock of its kind. A list that is not there has none: stores begin so.

        The lock is at ``locked_at``, by default the root.
        """
        directory, locked_at = f"{self._driver}-{kind}", locked_at or root
        try:
            lock = self._open(locked_at, (directory, f"{kind}.lock"), FILE)
        except FileNotFoundError:
            lock = None  # on a medium that nobody writes to; it is not made, because the store is only read
        with locked(lock, locked_at / directory / f"{kind}.lock", context), _reading:
            try:
                raw = self._read(root, (directory, name), MAX_LIST_SIZE, lambda _: None)
            except FileNotFoundError:
                return ()
            if len(raw) > MAX_LIST_SIZE:
                raise SourceError(f"{root}/{directory}/{name} is larger than {MAX_LIST_SIZE} bytes", endpoint=str(root))
            return parse(raw, f"{root}/{directory}/{name}")

    def _find_root(self, components: tuple[str, ...]) -> Path | None:
        """The first store that has it. The files of a layer need not be in the store that lists it."""
        return next((root for root in self._layer_roots if self._has(root, components)), None)

    def _has(self, root: Path, components: tuple[str, ...]) -> bool:
        try:
            os.close(self._open(root, components, os.O_PATH | os.O_CLOEXEC))
        except FileNotFoundError:
            return False
        return True

    def _open_anywhere(self, layer: LayerRecord, components: tuple[str, ...], flags: int) -> int:
        root = self._find_root(components)
        if root is not None:
            with suppress(FileNotFoundError):  # gone meanwhile
                return self._open(root, components, flags)
        raise UnknownBlobError(f"{self._location.graph_root}: layer {layer.id} is not there any more")

    def _read(self, root: Path, components: tuple[str, ...], limit: int, take: Callable[[int], object]) -> bytes:
        """A whole file, as :func:`read_bounded` has it. Raises as :meth:`_open`."""
        number = self._open(root, components, FILE)
        return read_bounded(number, limit, take, lambda error: self._failure(root, components, error))

    def _open(self, root: Path, components: tuple[str, ...], flags: int) -> int:
        """A descriptor of what is there, reached without following a link below ``root``.

        Raises ``FileNotFoundError`` if there is no such file, and :class:`SourceError` for anything else.
        """
        try:
            directory = os.open(root, DIRECTORY)
            try:
                return open_beneath(directory, components, flags)
            finally:
                os.close(directory)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._failure(root, components, error) from error

    def _failure(self, root: Path, components: tuple[str, ...], error: OSError) -> SourceError:
        """Why something in the store cannot be opened or read."""
        # The remedy is no change of modes: those in a store are its owner's, and podman needs them as they are.
        return explain(root, components, error, "store", _REMEDY)
