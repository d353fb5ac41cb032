"""``oci:path[:image]``: an OCI image layout in a directory (image-spec image-layout.md, containers-transports(5)).

``image`` is the ``org.opencontainers.image.ref.name`` annotation of an entry of index.json, ``@N`` its N-th entry from
0, or nothing if there is only one. The directory is not trusted: see :mod:`directory`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar, Final, Protocol, Self

from container_image_proxy.concurrency.memory import unmetered
from container_image_proxy.errors import (
    AmbiguousImageError,
    DigestMismatchError,
    InvalidManifestError,
    InvalidReferenceError,
    UnknownManifestError,
    listed,
    naming,
    shown,
)
from container_image_proxy.image.manifest import Index, UntrustedManifest, parse_manifest
from container_image_proxy.image.media_types import OCI_INDEX
from container_image_proxy.transports.directory import Directory, PathReference, resolve_path
from container_image_proxy.transports.source import Unsigned

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.manifest import Descriptor, IndexEntry
    from container_image_proxy.transports.source import Access, BlobReader, ImageSource

_REF_NAME: Final = "org.opencontainers.image.ref.name"
_IMAGE_NAME: Final = re.compile(
    r"[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*(?:/[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*)*"
)
_POSITION: Final = re.compile(r"@([0-9]+)")
_WHAT: Final = "layout"


class LayoutReference(PathReference, frozen=True):
    """``image`` is "" for the only one, ``@N`` for the N-th, else a name."""

    transport: ClassVar[str] = "oci"
    image: str

    @classmethod
    def parse(cls, within: str) -> Self:
        """Read ``path[:image]``. The path need not exist yet, or be readable. Raises :class:`InvalidReferenceError`."""
        path, image = split_reference(within)
        image = check_image_name(image)
        return cls(path, resolve_path(path, cls.transport), image)

    def __str__(self) -> str:
        return f"{self.transport}:{self.path}:{self.image}"

    def verify_place(self) -> None:
        """See :class:`SourceReference`."""
        Directory(self, _WHAT).verify()

    def open_source(
        self,
        access: Access,
        earlier: ImageSource | None = None,
        state: bytes = b"",  # noqa: ARG002 - there is none
    ) -> ImageSource:
        """See :class:`SourceReference`."""
        if isinstance(earlier, LayoutSource) and earlier.is_current:
            return earlier
        return LayoutSource(self, WithSharedBlobs(self, access.shared_blobs) if access.shared_blobs else None)


def split_reference(within: str) -> tuple[str, str]:
    """Split ``path[:image]`` into its two parts. The image is empty if it is not given."""
    path, _, image = within.partition(":")
    return path, image


def check_image_name(name: str) -> str:
    """The name as it is, or ``@N`` without leading zeros.

    Raises :class:`InvalidReferenceError` if it cannot be a ref.name (image-spec annotations.md).
    """
    if position := _POSITION.fullmatch(name):
        return f"@{int(position[1])}"
    if name and not _IMAGE_NAME.fullmatch(name):
        raise InvalidReferenceError(f"{shown(name)} is neither an image name of a layout nor @N with N from 0")
    return name


def blob_path(digest: Digest) -> tuple[str, str, str]:
    """Where a layout keeps the blob, as path components below its directory (image-layout.md, "Blobs")."""
    return ("blobs", digest.algorithm, digest.hex)


def choose_entry(index: Index, image: str) -> IndexEntry:
    """The entry of index.json that ``image`` names.

    Raises :class:`UnknownManifestError`, which lists the images, or :class:`AmbiguousImageError`.
    """
    if position := _POSITION.fullmatch(image):
        matches = index.manifests[int(position[1]) : int(position[1]) + 1]  # empty if there are fewer
    elif image:
        matches = tuple(entry for entry in index.manifests if entry.annotations.get(_REF_NAME) == image)
    else:
        matches = index.manifests
    if not index.manifests:
        raise UnknownManifestError("the layout has no images")
    if not matches:
        raise UnknownManifestError(f"the layout has no image {image!r}; it has {_names(index)}")
    if len(matches) > 1 and not image:
        raise AmbiguousImageError(f"the layout has {len(matches)} images: name one of them: {_names(index)}")
    return matches[0]  # of several with one name the first counts, as in containers/image


def _names(index: Index) -> str:
    return listed([entry.annotations.get(_REF_NAME) or f"@{number}" for number, entry in enumerate(index.manifests)])


class Files(Protocol):
    """The files of a layout, wherever they are. A file is named by the components of its path."""

    @property
    def is_current(self) -> bool:
        """Whether the files are open, and opening them anew would give the same."""

    def read(self, context: Context, components: tuple[str, ...], take: Callable[[int], object]) -> bytes:
        """A whole document."""

    def open_reader(self, context: Context, components: tuple[str, ...], offset: int = 0) -> BlobReader:
        """A reader of the file's content from ``offset`` on."""

    def close(self) -> None:
        """Close what is open."""


class WithSharedBlobs:
    """The files of a layout whose blobs are in a directory that it shares with others (``--shared-blob-dir``).

    They lie there as in a layout's ``blobs``.
    """

    def __init__(self, reference: LayoutReference, shared: Path) -> None:
        self._own = Directory(reference, _WHAT)
        self._shared = Directory(LayoutReference(str(shared), resolve_path(str(shared), "oci"), ""), "blob directory")

    @property
    def is_current(self) -> bool:
        """See :class:`Files`."""
        return self._own.is_current

    def read(self, context: Context, components: tuple[str, ...], take: Callable[[int], object]) -> bytes:
        """See :class:`Files`."""
        directory, below = self._find(components)
        return directory.read(context, below, take)

    def open_reader(self, context: Context, components: tuple[str, ...], offset: int = 0) -> BlobReader:
        """See :class:`Files`."""
        directory, below = self._find(components)
        return directory.open_reader(context, below, offset)

    def close(self) -> None:
        """See :class:`Files`."""
        self._own.close()
        self._shared.close()

    def _find(self, components: tuple[str, ...]) -> tuple[Directory, tuple[str, ...]]:
        return (self._shared, components[1:]) if components[0] == "blobs" else (self._own, components)


class LayoutSource(Unsigned):
    """An :class:`ImageSource` over ``files``, which it owns. By default they are those in the reference's directory."""

    state: Final = b""

    def __init__(self, reference: LayoutReference, files: Files | None = None) -> None:
        self._files = Directory(reference, _WHAT) if files is None else files
        self._path = reference.place
        self._image = reference.image

    @property
    def is_current(self) -> bool:
        """Whether what is open is what the reference names now."""
        return self._files.is_current

    def fetch_manifest(
        self,
        context: Context,
        digest: Digest | None = None,
        *,
        unless: Digest | None = None,
        take: Callable[[int], object] = unmetered,
    ) -> UntrustedManifest | None:
        """See :class:`ImageSource`. A manifest that is asked for by digest has no media type but its own."""
        if digest is not None:
            return UntrustedManifest(self._files.read(context, blob_path(digest), take), "")
        index_json = self._files.read(context, ("index.json",), take)
        with naming(f"index.json of {self._path}"):
            index = parse_manifest(UntrustedManifest(index_json, OCI_INDEX))
            if not isinstance(index, Index):
                raise InvalidManifestError("it is not an image index")
            entry = choose_entry(index, self._image)
        if entry.digest == unless:
            return None
        raw = self._files.read(context, blob_path(entry.digest), take)
        if not entry.digest.matches(raw):
            raise DigestMismatchError(f"{self._path}: the blob of {entry.digest} has other content")
        return UntrustedManifest(raw, entry.media_type)

    def open_blob(self, context: Context, descriptor: Descriptor, offset: int = 0) -> BlobReader:
        """See :class:`ImageSource`."""
        return self._files.open_reader(context, blob_path(descriptor.digest), offset)

    def close(self) -> None:
        """Close the files."""
        self._files.close()
