"""What ``oci:`` and ``dir:`` have in common: an image that is named by its path, and a directory with its files.

The directory is not trusted, and its files are opened as :mod:`beneath` opens them. Must not know any format.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from msgspec import Struct

from container_image_proxy.errors import InvalidReferenceError
from container_image_proxy.image.convert import to_oci
from container_image_proxy.image.manifest import MAX_MANIFEST_SIZE
from container_image_proxy.transports.beneath import DIRECTORY, FILE, explain, open_beneath, open_place, read_bounded
from container_image_proxy.transports.regions import Region, RegionReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.errors import SourceError
    from container_image_proxy.image.manifest import Manifest
    from container_image_proxy.image.reference import Reference
    from container_image_proxy.transports.source import Access


class PathReference(Struct, frozen=True):
    """Base of the references that name an image by its path. Policy knows the image by where it really is.

    ``path`` is as it was written. ``place`` is where it led when the reference was read, absolute and without symbolic
    links. A component that did not exist then is in ``place`` as it was written. If it is a link when the image is
    opened, that fails.
    """

    transport: ClassVar[str]
    may_be_signed: ClassVar[bool] = False
    pinned_digest: ClassVar[None] = None
    registry: ClassVar[None] = None
    path: str
    place: str

    @property
    def docker_reference(self) -> Reference | None:
        """None: a path says nothing about names."""
        return None

    @property
    def policy_identity(self) -> str:
        """The place."""
        return self.place

    @property
    def policy_namespaces(self) -> tuple[str, ...]:
        """The place and the directories above it, except for the root, which is no scope."""
        place = Path(self.place)
        return tuple(str(parent) for parent in (place, *place.parents) if parent != Path("/"))

    @property
    def depends_on_directory(self) -> bool:
        """Whether the path is relative."""
        return not self.path.startswith("/")

    def prepare(self, access: Access) -> None:
        """Nothing takes long here."""

    def to_oci(self, manifest: Manifest, state: bytes) -> Manifest:  # noqa: ARG002 - the blobs are those it names
        """See :class:`SourceReference`."""
        return to_oci(manifest)


def resolve_path(path: str, transport: str) -> str:
    """Where ``path`` really is now. Raises :class:`InvalidReferenceError` if it cannot be a path."""
    if not path or "\0" in path:
        raise InvalidReferenceError(f"{transport}: a path is missing, as in {transport}:/srv/image")
    return os.path.realpath(path)


class Directory:
    """The directory of a :class:`PathReference`, opened when it is first needed. Threads may share it.

    ``what`` says in words what it holds, for errors. It stays open until :meth:`close`, so that an image is served to
    its end even if its directory is renamed (contrib/adr/0028).
    """

    def __init__(self, reference: PathReference, what: str) -> None:
        self._given = reference.path
        self.path = reference.place
        self._what = what
        self._lock = threading.Lock()
        self._number: int | None = None

    @property
    def is_current(self) -> bool:
        """Whether it is open, is still what its path names, and lies where policy knows it."""
        with self._lock:
            try:
                return (
                    self._number is not None
                    and os.path.samestat(os.fstat(self._number), Path(self._given).stat())
                    and os.path.realpath(self._given) == self.path
                )
            except OSError:
                return False

    def verify(self) -> None:
        """Raise :class:`SourceError` if there is no directory, or it may not be entered, or is not where policy knows
        it to be.
        """
        os.close(self._open_place())

    def read(
        self,
        context: Context,  # noqa: ARG002 - files are there at once
        components: tuple[str, ...],
        take: Callable[[int], object],
        limit: int = MAX_MANIFEST_SIZE,
    ) -> bytes:
        """A whole document, as :func:`read_bounded` has it."""
        return read_bounded(self._open(components), limit, take, lambda error: self._failure(components, error))

    def has(self, components: tuple[str, ...]) -> bool:
        """Whether there is such a file. If that cannot be told, it counts as there, so that opening it says why."""
        try:
            os.close(self._open_beneath(components, os.O_PATH | os.O_CLOEXEC))
        except OSError as error:
            return not isinstance(error, FileNotFoundError)
        return True

    def open_reader(
        self,
        context: Context,  # noqa: ARG002 - files are there at once
        components: tuple[str, ...],
        offset: int = 0,
    ) -> RegionReader:
        """A reader of the file's content from ``offset`` on."""
        number = self._open(components)
        return RegionReader(
            Region(number, 0, os.fstat(number).st_size),
            str(Path(self.path, *components)),
            offset,
            failure=lambda error: self._failure(components, error),
            end=lambda: os.close(number),
        )

    def close(self) -> None:
        """Close the directory. It is opened again when it is needed."""
        with self._lock:
            if self._number is not None:
                os.close(self._number)
                self._number = None

    def _open_place(self) -> int:
        return open_place(self._given, self.path, DIRECTORY, self._what)

    def _open(self, components: tuple[str, ...]) -> int:
        """A descriptor of the regular file, reached without following a link below the directory."""
        try:
            try:
                return self._open_beneath(components)
            except FileNotFoundError:
                if self.is_current:
                    raise
                # The directory was replaced or deleted. The new one may have the file: blobs are found by digest.
                self.close()
                return self._open_beneath(components)
        except OSError as error:
            raise self._failure(components, error) from error

    def _open_beneath(self, components: tuple[str, ...], flags: int = FILE) -> int:
        with self._lock:
            if self._number is None:
                self._number = self._open_place()
            root = os.dup(self._number)
        try:
            return open_beneath(root, components, flags)
        finally:
            os.close(root)

    def _failure(self, components: tuple[str, ...], error: OSError) -> SourceError:
        """The error for a file in the directory, which cannot be opened or read."""
        return explain(Path(self.path), components, error, self._what)
