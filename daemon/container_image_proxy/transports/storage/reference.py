"""``containers-storage:[driver@graphroot+runroot:options]name``: which image of which store is meant.

The name is ``name[:tag]``, ``name[:tag]@digest``, either of them with ``@id`` behind it, or an id with or without
``@``. An id may be abbreviated to its first 3 digits or more. The store is asked for the rest when the reference is
read, because policy knows the image by its whole id. Spec: containers-transports(5). The policy scopes are those of
containers/image.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Self

from msgspec import Struct

from container_image_proxy.concurrency.cancellation import Cancellation
from container_image_proxy.concurrency.context import Context
from container_image_proxy.config.storage_conf import StoreLocation, find_additional_stores, find_driver
from container_image_proxy.errors import MAX_SHOWN, InvalidReferenceError, UpstreamError, shown
from container_image_proxy.image.reference import Reference, parse_reference
from container_image_proxy.transports.storage.lookup import find_by_key
from container_image_proxy.transports.storage.source import StorageSource
from container_image_proxy.transports.storage.store import Store
from container_image_proxy.transports.storage.tar_layers import to_oci

if TYPE_CHECKING:
    from collections.abc import Callable

    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.manifest import Manifest
    from container_image_proxy.transports.source import Access, ImageSource

_ID: Final = re.compile(r"[0-9a-f]{64}")
_BEGINNING: Final = re.compile(r"[0-9a-f]{3,64}")
_PATIENCE: Final = 5.0
"""Seconds that reading a configuration may wait for a store."""


class StorageReference(Struct, frozen=True):
    """An image of the store at ``location`` by name, by id, or by both. ``options`` are as they were written.

    ``image_id`` is abbreviated still if the store had no such image when the reference was read.
    """

    transport: ClassVar[str] = "containers-storage"
    may_be_signed: ClassVar[bool] = True
    depends_on_directory: ClassVar[bool] = False
    registry: ClassVar[None] = None
    location: StoreLocation
    named: Reference | None = None
    image_id: str = ""
    options: str = ""

    @classmethod
    def parse(cls, within: str, default: Callable[[], StoreLocation] | None = None) -> Self:
        """Read what is behind the colon. ``default`` finds the store that is meant where none is named.

        Raises :class:`InvalidReferenceError`, and what ``default`` raises.
        """
        if "\0" in within:
            raise InvalidReferenceError("containers-storage: a reference has no null character")
        location, options, name = _parse_store(within, default or _no_default)
        name, image_id = _split_id(name, location)
        if not name and not image_id:
            raise InvalidReferenceError(f"containers-storage:{within[:MAX_SHOWN]} names no image")
        named = parse_reference(name).with_default_tag() if name else None
        return cls(location, named, image_id, options)

    def __str__(self) -> str:
        location = self.location
        run_root = f"+{location.run_root}" if location.run_root else ""
        options = f":{self.options}" if self.options else ""
        return f"{self.transport}:[{location.driver}@{location.graph_root}{run_root}{options}]{self._name}"

    @property
    def docker_reference(self) -> Reference | None:
        """The name, with tag and digest as they are given."""
        return self.named

    @property
    def pinned_digest(self) -> Digest | None:
        """The digest in the name."""
        return self.named.digest if self.named is not None else None

    @property
    def policy_identity(self) -> str:
        """``[driver@graphroot]`` and the name in full."""
        return f"{self._store}{self._name}"

    @property
    def policy_namespaces(self) -> tuple[str, ...]:
        """The name without id, then without digest, its repository, the namespaces above, the store, its directory."""
        named, names = self.named, []
        if named is not None:
            if self.image_id:
                names.append(str(named))
            if named.tag is not None and named.digest is not None:
                names.append(f"{named.name}:{named.tag}")
            parts = named.name.split("/")
            names += ["/".join(parts[:end]) for end in range(len(parts), 0, -1)]
        return (*(f"{self._store}{name}" for name in names), self._store, f"[{self.location.graph_root}]")

    @property
    def _store(self) -> str:
        return f"[{self.location.driver}@{self.location.graph_root}]"

    @property
    def _name(self) -> str:
        return (str(self.named) if self.named is not None else "") + (f"@{self.image_id}" if self.image_id else "")

    def verify_place(self) -> None:
        """See :class:`SourceReference`."""
        Store(self.location).verify()

    def prepare(self, access: Access) -> None:
        """Nothing takes long here."""

    def open_source(
        self,
        access: Access,  # noqa: ARG002 - the protocol's
        earlier: ImageSource | None = None,
        state: bytes = b"",
    ) -> ImageSource:
        """See :class:`SourceReference`."""
        known = earlier if isinstance(earlier, StorageSource) else None
        return StorageSource(Store(self.location), self, state, known)

    def to_oci(self, manifest: Manifest, state: bytes) -> Manifest:
        """See :class:`SourceReference`. The layers are tars: a store keeps no compressed ones."""
        return to_oci(manifest, state)


def _no_default() -> StoreLocation:
    """The default where no configuration has been read."""
    raise InvalidReferenceError("containers-storage: write which store is meant, as [driver@graphroot]")


def _parse_store(within: str, default: Callable[[], StoreLocation]) -> tuple[StoreLocation, str, str]:
    """The store, the options that are given for it, and the rest, which names the image."""
    if not within.startswith("["):
        return default(), "", within
    store, bracket, name = within[1:].partition("]")
    driver, at, directories = store.partition("@") if "@" in store else ("", "", store)
    directories, _, options = directories.partition(":")
    graph_root, _, run_root = directories.partition("+")
    if not bracket or not store or (at and not driver) or not (graph_root or run_root or options):
        raise InvalidReferenceError(
            f"containers-storage:{within[:MAX_SHOWN]} does not begin as [driver@graphroot+runroot:options]"
        )
    for path in filter(None, (graph_root, run_root)):
        if not path.startswith("/"):
            raise InvalidReferenceError(f"containers-storage: the path {shown(path)} must be absolute")
    root = Path(posixpath.normpath(graph_root)) if graph_root else default().graph_root
    location = StoreLocation(
        driver=find_driver(driver, root),
        graph_root=root,
        run_root=Path(posixpath.normpath(run_root)) if run_root else None,
        additional=find_additional_stores(options.split(",")),
    )
    return location, options, name


def _split_id(name: str, location: StoreLocation) -> tuple[str, str]:
    """The name without an id, and the id, in full if the store has the image; each is empty if it is not given."""
    front, at, last = name.rpartition("@")
    if at and not last:
        raise InvalidReferenceError(f"containers-storage: {shown(name)} ends with an empty digest or id")
    if at and ":" not in last:
        if not _BEGINNING.fullmatch(last):
            raise InvalidReferenceError(f"containers-storage: {shown(last)} is neither a digest nor an image's id")
        return front, _complete(last, location) or last
    if not at and _BEGINNING.fullmatch(name) and (image_id := _complete(name, location)):
        return "", image_id
    return name, ""


def _complete(beginning: str, location: StoreLocation) -> str | None:
    """The whole id; None if no image has one that begins so, or several have, or the store cannot be read."""
    if _ID.fullmatch(beginning):
        return beginning
    try:
        found = find_by_key(Store(location).images(Context(Cancellation()).within(_PATIENCE)), beginning)
    except UpstreamError:  # said when the image is asked for, so that the instance can serve its other images
        return None
    return found.record.id if found is not None and found.record.id.startswith(beginning) else None
