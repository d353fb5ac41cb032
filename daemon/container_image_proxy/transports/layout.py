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
    from container_image_proxy.policy.signature_blob import SignatureKind, UntrustedSignature

TRANSPORT: Final = "oci"
_REF_NAME: Final = "org.opencontainers.image.ref.name"
_IMAGE_NAME: Final = re.compile(
    r"[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*(?:/[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*)*"
)
_POSITION: Final = re.compile(r"@([0-9]+)")
_PASSING: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR})
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
    """
    path, image = split_reference(within)
    image = check_image_name(image)
    place = _real_path(path)
    parents = [place, *place.parents]
    return ImageReference(
        transport=TRANSPORT,
        within=f"{path}:{image}",
        docker_reference=None,
        policy_identity=str(place),
        policy_namespaces=tuple(str(parent) for parent in parents if parent != Path("/")),
        may_be_signed=False,
    )


def _real_path(path: str) -> Path:
    """The real path; its last component need not exist yet."""
    if not path or "\0" in path:
        raise InvalidReferenceError("oci: a layout needs a path, as in oci:/srv/image")
    try:
        place = Path(path)
        return place.resolve(strict=True) if place.exists() else place.parent.resolve(strict=True) / place.name
    except (OSError, RuntimeError) as error:
        raise InvalidReferenceError(f"oci: {path}: {os.strerror(getattr(error, 'errno', 0) or 40)}") from error


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
    if not matches:
        raise UnknownManifestError(f"the layout has no image {image!r}; it has {_names(index)}")
    if len(matches) > 1 and not image:
        raise UnknownManifestError(f"the layout has {len(matches)} images: name one of them: {_names(index)}")
    return matches[0]


def _names(index: Index) -> str:
    names = [entry.annotations.get(_REF_NAME) or f"@{position}" for position, entry in enumerate(index.manifests)]
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "") or "none"  # noqa: PLR2004 - a readable line


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

    def __init__(self, reference: ImageReference) -> None:
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
    ) -> Iterator[tuple[UntrustedSignature, ...]]:
        """A layout has no place for signatures."""
        return iter(())

    def close(self) -> None:
        """Nothing is held between calls."""

    def _entry(self) -> IndexEntry:
        index = parse_manifest(UntrustedManifest(self._read(("index.json",)), OCI_INDEX))
        if not isinstance(index, Index):
            raise InvalidManifestError(f"{self._path}/index.json is not an image index")
        return choose_entry(index, self._image)

    def _read(self, components: tuple[str, ...]) -> bytes:
        """A whole document; one byte over the limit is kept so that the parser refuses it."""
        with self._open(components) as number, os.fdopen(os.dup(number), "rb") as file:
            return file.read(MAX_MANIFEST_SIZE + 1)

    @contextmanager
    def _open(self, components: tuple[str, ...]) -> Iterator[int]:
        """A descriptor of the regular file, reached without following a link below the layout's directory."""
        try:
            with _Descriptor(os.open(self._real_place(), _DIRECTORY)) as current:
                for name in components[:-1]:
                    current.replace(os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=current.number))
                current.replace(os.open(components[-1], _FILE | os.O_NOFOLLOW, dir_fd=current.number))
                if not stat.S_ISREG(os.fstat(current.number).st_mode):
                    raise SourceError(f"{self._path}/{'/'.join(components)} is not a regular file", endpoint=self._path)
                yield current.number
        except OSError as error:
            raise self._failure(components, error) from error

    def _real_place(self) -> str:
        """The directory that policy knows; :class:`SourceError` if a link has been turned to another one since."""
        if os.path.realpath(self._place) != self._path:
            reason = f"{self._place} led to {self._path} when the configuration was read, and does no more: reload"
            raise SourceError(reason, endpoint=self._place)
        return self._path

    def _failure(self, components: tuple[str, ...], error: OSError) -> SourceError:
        place = "/".join((self._path, *components))
        reason = f"{place}: {os.strerror(error.errno or 0)}"
        if error.errno in _PASSING:
            return SourceError(reason, endpoint=self._path, retryable=True)
        return SourceError(f"the layout is broken: {reason}", endpoint=self._path)


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
