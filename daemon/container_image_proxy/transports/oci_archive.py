"""``oci-archive:path[:image]``: an OCI image layout in a tar archive (containers-transports(5)).

``image`` is as in :mod:`layout`. Blobs are read from where they lie in the archive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from container_image_proxy.errors import InvalidManifestError, SourceError
from container_image_proxy.image.manifest import MAX_MANIFEST_SIZE
from container_image_proxy.transports.archives.file import ArchiveFile
from container_image_proxy.transports.archives.headers import shown
from container_image_proxy.transports.layout import LayoutReference, LayoutSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.transports.archives.archive import Archive
    from container_image_proxy.transports.regions import Region, RegionReader
    from container_image_proxy.transports.source import Access, ImageSource


class OciArchiveReference(LayoutReference, frozen=True):
    """As a layout's, except that ``path`` is a file."""

    transport: ClassVar[str] = "oci-archive"

    def verify_place(self) -> None:
        """See :class:`SourceReference`."""
        ArchiveFile(self.path, self.place).verify_place()

    def open_source(
        self,
        access: Access,
        earlier: ImageSource | None = None,
        state: bytes = b"",  # noqa: ARG002 - the archive's headers are read anew, which takes milliseconds
    ) -> ImageSource:
        """See :class:`SourceReference`."""
        if isinstance(earlier, LayoutSource) and earlier.is_current:
            return earlier
        return LayoutSource(self, ArchivedFiles(access.archives().open(self.path, self.place, access.spools)))


class ArchivedFiles:
    """The files of a layout in an archive, of which it is a holder."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._place = archive.place

    @property
    def is_current(self) -> bool:
        """See :class:`Files`."""
        return self._archive.is_current

    def read(self, context: Context, components: tuple[str, ...], take: Callable[[int], object]) -> bytes:
        """See :class:`Files`."""
        with self._archive.in_use():
            region = self._find(context, components)
            if region.size > MAX_MANIFEST_SIZE:
                raise InvalidManifestError(
                    f"{self._place}: {'/'.join(components)} is larger than {MAX_MANIFEST_SIZE} bytes"
                )
            take(region.size)
            return self._archive.read(region)

    def open_reader(self, context: Context, components: tuple[str, ...], offset: int = 0) -> RegionReader:
        """See :class:`Files`."""
        with self._archive.in_use():
            return self._archive.open_reader(self._find(context, components), "/".join(components), offset)

    def close(self) -> None:
        """Release the archive."""
        self._archive.close()

    def _find(self, context: Context, components: tuple[str, ...]) -> Region:
        name = "/".join(components)
        region = self._archive.find(context, name)
        if region is None:
            hint = ""
            if components == ("index.json",) and self._archive.find(context, "manifest.json") is not None:
                hint = "; it has a manifest.json, which docker-archive: reads"
            raise SourceError(f"{self._place} has no member {shown(name.encode())}{hint}")
        return region
