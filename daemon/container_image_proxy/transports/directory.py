"""A directory that is not trusted, from which files are read: ``oci:`` and ``dir:`` images are such directories.

Below the directory no symbolic link is followed, and only regular files are opened. So an image cannot name files
outside of itself, or make the daemon wait on a FIFO. Must not know any format.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from msgspec import Struct

from container_image_proxy.config.obstacle import find_obstacle
from container_image_proxy.errors import InvalidReferenceError, SourceError
from container_image_proxy.image.convert import to_oci
from container_image_proxy.image.manifest import MAX_MANIFEST_SIZE
from container_image_proxy.transports.beneath import DIRECTORY, PASSING, explain, open_beneath
from container_image_proxy.transports.readers import FileReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.image.manifest import Manifest
    from container_image_proxy.image.reference import Reference
    from container_image_proxy.transports.source import Access


class PathReference(Struct, frozen=True):
    """What references to images by path have in common: policy knows them by where they really are.

    ``path`` is as it was written. ``place`` is where it led when the reference was read, absolute and without symbolic
    links. Components that did not exist stand there as they were written, and must prove to be no links when the image
    is opened.
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
        """As :class:`SourceReference` has it."""
        return to_oci(manifest)


def resolve_path(path: str, transport: str) -> str:
    """Where ``path`` really is now. Raises :class:`InvalidReferenceError` if it cannot be a path."""
    if not path or "\0" in path:
        raise InvalidReferenceError(f"{transport}: a path is missing, as in {transport}:/srv/image")
    return os.path.realpath(path)


class Directory:
    """The directory of a :class:`PathReference`, opened when it is first needed. Threads may share it.

    ``what`` says in words what it holds, for errors. It stays open until :meth:`close`, so that an image can be served
    whose directory was renamed (contrib/adr/0028).
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
                is_same = self._number is not None and os.path.samestat(
                    os.fstat(self._number), Path(self._given).stat()
                )
            except OSError:
                return False
        return is_same and os.path.realpath(self._given) == self.path

    def verify(self) -> None:
        """Raise :class:`SourceError` if there is no directory, it may not be entered, or lies elsewhere than policy
        knows: a link may have been changed since the reference was read.
        """
        os.close(self._open_place())

    def read(
        self,
        context: Context,  # noqa: ARG002 - files are there at once
        components: tuple[str, ...],
        take: Callable[[int], object],
        limit: int = MAX_MANIFEST_SIZE,
    ) -> bytes:
        """A whole document. Of a larger one a byte more than ``limit`` is returned, so that its parser refuses it."""
        with self._open(components) as number, os.fdopen(os.dup(number), "rb") as file:
            size = min(os.fstat(number).st_size, limit) + 1
            take(size)
            return file.read(size)

    def has(self, components: tuple[str, ...]) -> bool:
        """Whether there is such a file. If that cannot be told, it counts as there, so that opening it says why."""
        try:
            root = self._duplicate_root()
        except OSError:
            return True
        try:
            os.stat("/".join(components), dir_fd=root, follow_symlinks=False)
        except OSError as error:
            return not isinstance(error, FileNotFoundError)
        finally:
            os.close(root)
        return True

    def open_reader(
        self,
        context: Context,  # noqa: ARG002 - files are there at once
        components: tuple[str, ...],
        offset: int = 0,
    ) -> FileReader:
        """A reader of the file's content from ``offset`` on."""
        with self._open(components) as number:
            size = os.fstat(number).st_size
            place = str(Path(self.path, *components))
            return FileReader(
                os.dup(number), size, place, lambda error: self._failure(components, error), offset=offset
            )

    def close(self) -> None:
        """Close the directory. It is opened again when it is needed."""
        with self._lock:
            if self._number is not None:
                os.close(self._number)
                self._number = None

    def _open_place(self) -> int:
        try:
            number = os.open(self._given, DIRECTORY)
        except OSError as error:
            raise self._unreachable(error) from error
        if os.path.realpath(self._given) != self.path:
            os.close(number)
            reason = f"{self._given} led to {self.path} when the configuration was read, and does no more: reload"
            raise SourceError(reason, endpoint=self._given)
        return number

    @contextmanager
    def _open(self, components: tuple[str, ...]) -> Iterator[int]:
        """A descriptor of the regular file, reached without following a link below the directory."""
        try:
            try:
                number = self._open_beneath(components)
            except FileNotFoundError:
                if self.is_current:
                    raise
                # The directory was replaced or deleted. The new one may have the file: blobs are found by digest.
                self.close()
                number = self._open_beneath(components)
            try:
                yield number
            finally:
                os.close(number)
        except OSError as error:
            raise self._failure(components, error) from error

    def _open_beneath(self, components: tuple[str, ...]) -> int:
        root = self._duplicate_root()
        try:
            return open_beneath(root, components)
        finally:
            os.close(root)

    def _duplicate_root(self) -> int:
        with self._lock:
            if self._number is None:
                self._number = self._open_place()
            return os.dup(self._number)

    def _unreachable(self, error: OSError) -> SourceError:
        """The error for the directory itself, which cannot be opened."""
        obstacle = find_obstacle(Path(self._given), error)
        remedy = f" ({obstacle.remedy})" if obstacle.remedy else ""
        reason = f"there is no {self._what} to be read at {self._given}: {obstacle.reason}{remedy}"
        return SourceError(reason, endpoint=self._given, retryable=error.errno in PASSING)

    def _failure(self, components: tuple[str, ...], error: OSError) -> SourceError:
        """The error for a file in the directory, which cannot be opened or read."""
        return explain(Path(self.path), components, error, self._what)
