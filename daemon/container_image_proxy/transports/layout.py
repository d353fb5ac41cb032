"""``oci:path[:image]``: an OCI image layout in a directory (image-spec image-layout.md, containers-transports(5)).

``image`` is the ``org.opencontainers.image.ref.name`` annotation of an entry of index.json, ``@N`` its N-th entry, or
nothing when there is only one. The tree is treated as hostile: below the configured directory no symbolic link is
followed and nothing but regular files is opened, so that a layout cannot name files outside of itself or make the
daemon wait on a FIFO.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from container_image_proxy.concurrency.memory import unmetered
from container_image_proxy.config.obstacle import find_obstacle
from container_image_proxy.errors import (
    DigestMismatchError,
    InvalidManifestError,
    InvalidReferenceError,
    SourceError,
    UnknownManifestError,
)
from container_image_proxy.image.image_reference import ImageReference
from container_image_proxy.image.manifest import MAX_MANIFEST_SIZE, Index, UntrustedManifest, parse_manifest
from container_image_proxy.image.media_types import OCI_INDEX

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.manifest import Descriptor, IndexEntry
    from container_image_proxy.image.signature import Findings, SignatureKind

TRANSPORT: Final = "oci"
_REF_NAME: Final = "org.opencontainers.image.ref.name"
_IMAGE_NAME: Final = re.compile(
    r"[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*(?:/[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*)*"
)
_POSITION: Final = re.compile(r"@([0-9]+)")
_PASSING: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR})
_LINK: Final = frozenset({errno.ELOOP, errno.ENOTDIR})  # open(2), O_NOFOLLOW, of a file and of a directory
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM})
_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # O_NONBLOCK: opening a FIFO must not wait for its writer


def split_reference(within: str) -> tuple[str, str]:
    """``path[:image]`` into its two parts; the image is empty if not given."""
    path, _, image = within.partition(":")
    return path, image


def check_image_name(name: str) -> str:
    """The name as it is, ``@N`` without leading zeros; :class:`InvalidReferenceError` if it cannot be a ref.name
    (annotations.md).
    """
    if position := _POSITION.fullmatch(name):
        return f"@{int(position[1])}"
    if name and not _IMAGE_NAME.fullmatch(name):
        raise InvalidReferenceError(f"oci: {name[:100]!r} is neither an image name of a layout nor @N with N from 0")
    return name


def parse(within: str) -> ImageReference:
    """Read ``path[:image]``. The path is made absolute and free of symbolic links, because policy scopes are real
    places.

    Nothing need be there yet, or be ours to see: what cannot be resolved now stands as it is written, and is served
    only if it proves to be no link (:meth:`LayoutSource.verify_place`).
    """
    path, image = split_reference(within)
    image = check_image_name(image)
    if not path or "\0" in path:
        raise InvalidReferenceError("oci: a layout needs a path, as in oci:/srv/image")
    place = Path(os.path.realpath(path))
    parents = [place, *place.parents]
    return ImageReference(
        transport=TRANSPORT,
        within=f"{path}:{image}",
        docker_reference=None,
        policy_identity=str(place),
        policy_namespaces=tuple(str(parent) for parent in parents if parent != Path("/")),
        may_be_signed=False,
    )


def blob_path(digest: Digest) -> tuple[str, str, str]:
    """Where a layout keeps the blob, as path components below its directory."""
    return ("blobs", digest.algorithm, digest.hex)


def choose_entry(index: Index, image: str) -> IndexEntry:
    """The entry of index.json that ``image`` names; :class:`UnknownManifestError` says which there are."""
    if position := _POSITION.fullmatch(image):
        matches = index.manifests[int(position[1]) : int(position[1]) + 1]
    elif image:
        matches = tuple(entry for entry in index.manifests if entry.annotations.get(_REF_NAME) == image)
    else:
        matches = index.manifests
    if not index.manifests:
        raise UnknownManifestError("the layout has no images")
    if not matches:
        raise UnknownManifestError(f"the layout has no image {image!r}; it has {_names(index)}")
    if len(matches) > 1 and not image:
        raise UnknownManifestError(f"the layout has {len(matches)} images: name one of them: {_names(index)}")
    return matches[0]


def _names(index: Index) -> str:
    names = [entry.annotations.get(_REF_NAME) or f"@{position}" for position, entry in enumerate(index.manifests)]
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")  # noqa: PLR2004 - a readable line


class FileReader:
    """A :class:`BlobReader` over an open file, which it owns; ``failure`` makes our error of an ``OSError``."""

    def __init__(self, number: int, failure: Callable[[OSError], SourceError]) -> None:
        self._file = os.fdopen(number, "rb", buffering=0)
        self._failure = failure
        self.offset = 0

    def readinto(self, buffer: memoryview) -> int:
        """As in :class:`BlobReader`."""
        try:
            count: int = self._file.readinto(buffer)
        except OSError as error:
            raise self._failure(error) from error
        self.offset += count
        return count

    def reject(self) -> None:
        """There is nobody else to ask."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class LayoutSource:
    """An :class:`ImageSource` over a layout directory; opened anew for every use, so that a replaced layout is seen."""

    supplier: Final = None

    def __init__(self, reference: ImageReference, take: Callable[[int], object] = unmetered) -> None:
        self._take = take
        self._place = split_reference(reference.within)[0]
        self._path = reference.policy_identity
        self._image = split_reference(reference.within)[1]

    def fetch_manifest(self, digest: Digest | None = None, *, unless: Digest | None = None) -> UntrustedManifest | None:
        """As in :class:`ImageSource`; a manifest by digest has no media type but its own."""
        if digest is not None:
            return UntrustedManifest(self._read(blob_path(digest)), "")
        entry = self._entry()
        if entry.digest == unless:
            return None
        raw = self._read(blob_path(entry.digest))
        if not entry.digest.matches(raw):
            raise DigestMismatchError(f"{self._path}: the blob of {entry.digest} has other content")
        return UntrustedManifest(raw, entry.media_type)

    def open_blob(self, descriptor: Descriptor) -> FileReader:
        """As in :class:`ImageSource`."""
        components = blob_path(descriptor.digest)
        with self._open(components) as number:
            return FileReader(os.dup(number), lambda error: self._failure(components, error))

    def fetch_signatures(
        self,
        digest: Digest,  # noqa: ARG002 - the protocol's
        kinds: Collection[SignatureKind],  # noqa: ARG002 - the protocol's
    ) -> Iterator[Findings]:
        """A layout has no place for signatures."""
        return iter(())

    def close(self) -> None:
        """Nothing is held between calls."""

    def verify_place(self) -> None:
        """Raise :class:`SourceError` if there is no directory, it may not be entered, or is not the one that policy
        knows: a link may have been turned to another one since the reference was read.
        """
        try:
            os.close(os.open(self._place, _DIRECTORY))
        except OSError as error:
            raise self._unreachable(error) from error
        if os.path.realpath(self._place) != self._path:
            reason = f"{self._place} led to {self._path} when the configuration was read, and does no more: reload"
            raise SourceError(reason, endpoint=self._place)

    def _entry(self) -> IndexEntry:
        index = parse_manifest(UntrustedManifest(self._read(("index.json",)), OCI_INDEX))
        if not isinstance(index, Index):
            raise InvalidManifestError(f"{self._path}/index.json is not an image index")
        return choose_entry(index, self._image)

    def _read(self, components: tuple[str, ...]) -> bytes:
        """A whole document; one byte over the limit is kept so that the parser refuses it."""
        with self._open(components) as number, os.fdopen(os.dup(number), "rb") as file:
            size = min(os.fstat(number).st_size, MAX_MANIFEST_SIZE) + 1
            self._take(size)
            return file.read(size)

    @contextmanager
    def _open(self, components: tuple[str, ...]) -> Iterator[int]:
        """A descriptor of the regular file, reached without following a link below the layout's directory."""
        self.verify_place()
        try:
            with _Descriptor(os.open(self._path, _DIRECTORY)) as current:
                for name in components[:-1]:
                    current.replace(os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=current.number))
                current.replace(os.open(components[-1], _FILE | os.O_NOFOLLOW, dir_fd=current.number))
                if not stat.S_ISREG(os.fstat(current.number).st_mode):
                    raise SourceError(f"{self._path}/{'/'.join(components)} is not a regular file", endpoint=self._path)
                yield current.number
        except OSError as error:
            raise self._failure(components, error) from error

    def _unreachable(self, error: OSError) -> SourceError:
        obstacle = find_obstacle(Path(self._place), error)
        remedy = f" ({obstacle.remedy})" if obstacle.remedy else ""
        reason = f"there is no layout to be read at {self._place}: {obstacle.reason}{remedy}"
        return SourceError(reason, endpoint=self._place, retryable=error.errno in _PASSING)

    def _failure(self, components: tuple[str, ...], error: OSError) -> SourceError:
        """Why a file of the layout cannot be opened or read."""
        place = Path(self._path, *components)
        if error.errno in _LINK:
            link = next((one for one in (*reversed(place.parents), place) if one.is_symlink()), None)
            if link is not None:
                return SourceError(f"{link} is a symbolic link, which is not followed", endpoint=self._path)
        obstacle = find_obstacle(place, error)
        if error.errno in _PASSING:
            return SourceError(f"{place}: {obstacle.reason}", endpoint=self._path, retryable=True)
        if error.errno in _DENIED:
            remedy = f" ({obstacle.remedy})" if obstacle.remedy else ""
            return SourceError(f"the layout cannot be read: {place}: {obstacle.reason}{remedy}", endpoint=self._path)
        return SourceError(f"the layout is broken: {place}: {obstacle.reason}", endpoint=self._path)


class _Descriptor:
    """An open descriptor on its way down a path: each step closes the one before."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.number)

    def replace(self, number: int) -> None:
        """Go on with ``number``."""
        os.close(self.number)
        self.number = number
