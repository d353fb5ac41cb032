"""``docker-archive:path[:name[:tag]|:@N]``: an image as ``docker save`` writes it (containers-transports(5)).

Images are found by manifest.json, in the old form and in the new one, which has an OCI layout beside it. Each layer is
served as the tar whose digest is the DiffID in the configuration, also if the archive has it compressed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar, Final, Self

from msgspec import Struct

from container_image_proxy.concurrency.memory import unmetered
from container_image_proxy.errors import (
    InvalidManifestError,
    InvalidReferenceError,
    SourceError,
    UnknownBlobError,
    UnknownManifestError,
    naming,
)
from container_image_proxy.image.digest import Digest, digest_of
from container_image_proxy.image.manifest import (
    MAX_CONFIG_SIZE,
    Index,
    UntrustedManifest,
    parse_manifest,
)
from container_image_proxy.image.manifest import MAX_MANIFEST_SIZE as MAX_INDEX_SIZE
from container_image_proxy.image.media_types import OCI_INDEX, OCI_MANIFEST
from container_image_proxy.image.reference import Reference, parse_reference
from container_image_proxy.transports.archives.docker_images import (
    MANIFEST,
    MAX_MANIFEST_SIZE,
    choose_image,
    layers_of,
    make_manifest,
    parse_images,
)
from container_image_proxy.transports.archives.file import ArchiveFile
from container_image_proxy.transports.archives.headers import shown
from container_image_proxy.transports.directory import PathReference, resolve_path
from container_image_proxy.transports.source import Unsigned

if TYPE_CHECKING:
    from collections.abc import Callable

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.image.manifest import Descriptor
    from container_image_proxy.transports.archives.archive import Archive
    from container_image_proxy.transports.regions import Region, RegionReader
    from container_image_proxy.transports.source import Access, ImageSource

_INDEX: Final = "index.json"
_POSITION: Final = re.compile(r"@([0-9]{1,9})")


class DockerArchiveReference(PathReference, frozen=True):
    """``image`` is a name with a tag, a position in manifest.json, or None for the only image."""

    transport: ClassVar[str] = "docker-archive"
    image: Reference | int | None

    @classmethod
    def parse(cls, within: str) -> Self:
        """Read ``path[:name[:tag]]`` or ``path:@N``; the tag is ``latest`` if none is given.

        Raises :class:`InvalidReferenceError`.
        """
        path, colon, image = within.partition(":")
        return cls(path, resolve_path(path, cls.transport), _parse_image(image) if colon else None)

    def __str__(self) -> str:
        position = f"@{self.image}" if isinstance(self.image, int) else self.image
        return f"{self.transport}:{self.path}" + (f":{position}" if position is not None else "")

    @property
    def docker_reference(self) -> Reference | None:
        """The name by which the image is chosen; None if it is not chosen by name."""
        return self.image if isinstance(self.image, Reference) else None

    @property
    def policy_identity(self) -> str:
        """Empty: policy cannot tell such images apart, because anybody can give any image any name."""
        return ""

    @property
    def policy_namespaces(self) -> tuple[str, ...]:
        """None: only the transport's default scope holds these images."""
        return ()

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
        if isinstance(earlier, DockerArchiveSource) and earlier.is_current:
            return earlier
        archive = access.archives().open(self.path, self.place, access.spools, first_counts=True)
        return DockerArchiveSource(archive, self.image)


def _parse_image(text: str) -> Reference | int:
    if text.startswith("@"):
        position = _POSITION.fullmatch(text)
        if position is None:
            raise InvalidReferenceError(f"docker-archive: {text[:100]!r} is not @N with N from 0")
        return int(position[1])
    reference = parse_reference(text).with_default_tag()
    if reference.digest is not None:
        raise InvalidReferenceError("docker-archive: images have no digests there: name one by its tag, or by @N")
    return reference


class _Image(Struct, frozen=True):
    """What the archive has of the image. ``layers`` are from the lowest up, each with the member that it is."""

    config: str
    config_digest: Digest
    manifest_digest: Digest
    layers: tuple[tuple[Digest, str], ...]


class DockerArchiveSource(Unsigned):
    """An :class:`ImageSource` over an archive, of which it is a holder. ``wanted`` is as in the reference.

    ``image`` is what was read of it before.
    """

    state: Final = b""

    def __init__(self, archive: Archive, wanted: Reference | int | None, image: _Image | None = None) -> None:
        self._archive = archive
        self._place = archive.place
        self._wanted = wanted
        self._image = image

    def share(self) -> DockerArchiveSource | None:
        """Another source over the same archive; None if this source is closed, and was the archive's last holder."""
        return DockerArchiveSource(self._archive, self._wanted, self._image) if self._archive.share() else None

    @property
    def is_current(self) -> bool:
        """Whether the archive that is held is the one that the reference names now."""
        return self._archive.is_current

    @property
    def manifest_digest(self) -> Digest | None:
        """The digest of the manifest; None before it was made."""
        return self._image.manifest_digest if self._image is not None else None

    def is_known_as(self, context: Context, image_id: Digest) -> bool:
        """Whether ``image_id`` is the digest of the configuration, or of a manifest in the OCI layout beside it.

        The latter are the IDs of a Docker daemon that keeps its images in containerd.
        """
        with self._archive.in_use():
            image = self._image or self._read_image(context, unmetered)[1]
            if image.config_digest == image_id:
                return True
            if self._archive.find(context, _INDEX) is None:
                return False
            raw = self._read(context, _INDEX, MAX_INDEX_SIZE, unmetered)
        with naming(f"{_INDEX} of {self._place}"):
            index = parse_manifest(UntrustedManifest(raw, OCI_INDEX))
        return isinstance(index, Index) and any(entry.untrusted_digest == str(image_id) for entry in index.manifests)

    def fetch_manifest(
        self,
        context: Context,
        digest: Digest | None = None,
        *,
        unless: Digest | None = None,
        take: Callable[[int], object] = unmetered,
    ) -> UntrustedManifest | None:
        """See :class:`ImageSource`. The manifest is made here."""
        if digest is None and unless is not None and self.manifest_digest == unless:
            return None
        with self._archive.in_use():
            raw, self._image = self._read_image(context, take)
        if digest not in (None, self._image.manifest_digest):
            raise UnknownManifestError(f"{self._place} has no manifest {digest}")
        is_known = digest is None and unless == self._image.manifest_digest
        return None if is_known else UntrustedManifest(raw, OCI_MANIFEST)

    def open_blob(self, context: Context, descriptor: Descriptor, offset: int = 0) -> RegionReader:
        """See :class:`ImageSource`."""
        with self._archive.in_use():
            image = self._image = self._image or self._read_image(context, unmetered)[1]
            if descriptor.digest == image.config_digest:
                return self._archive.open_reader(self._find(context, image.config), image.config, offset)
            member = dict(image.layers).get(descriptor.digest)
            if member is None:
                raise UnknownBlobError(f"{self._place} has no layer {descriptor.digest}")
            return self._archive.open_reader(self._unpack(context, member), member, offset)

    def close(self) -> None:
        """Release the archive."""
        self._archive.close()

    def _read_image(self, context: Context, take: Callable[[int], object]) -> tuple[bytes, _Image]:
        """The manifest, and the members that its blobs are. Raises :class:`Error` for an archive that has none."""
        # A compressed layer is unpacked here already, because the manifest has the size of its tar.
        with naming(self._place):
            images = parse_images(self._read(context, MANIFEST, MAX_MANIFEST_SIZE, take))
            chosen = choose_image(images, self._wanted)
            config = self._read(context, chosen.config, MAX_CONFIG_SIZE, take)
            layers = layers_of(chosen, config)
        raw = make_manifest(config, [(digest, self._unpack(context, member).size) for digest, member in layers])
        return raw, _Image(chosen.config, digest_of(config), digest_of(raw), layers)

    def _read(self, context: Context, name: str, limit: int, take: Callable[[int], object]) -> bytes:
        region = self._find(context, name)
        if region.size > limit:
            raise InvalidManifestError(f"the member {shown(name.encode())} is larger than {limit} bytes")
        take(region.size)
        return self._archive.read(region)

    def _find(self, context: Context, name: str) -> Region:
        return self._found(context, name, self._archive.find(context, name))

    def _unpack(self, context: Context, name: str) -> Region:
        return self._found(context, name, self._archive.unpack(context, name))

    def _found(self, context: Context, name: str, region: Region | None) -> Region:
        if region is not None:
            return region
        hint = ""
        if name == MANIFEST and self._archive.find(context, "oci-layout") is not None:
            hint = "; it has an OCI layout, which oci-archive: reads"
        raise SourceError(f"{self._place} has no member {shown(name.encode(errors='backslashreplace'))}{hint}")
