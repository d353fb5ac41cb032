"""The images as repositories of a registry: documents by tag and digest in their original bytes, and blobs.

An image has one tag. A digest names a document of its kept snapshots, another manifest that one of their indexes names
(if policy allows it), or something attached to any of these: a signature under a tag, or a referrer. Policy is not
evaluated for attachments, because a client that pulls them has a policy of its own (contrib/adr/0033).
Must not know HTTP. Spec: OCI distribution-spec 1.1, "Pull", "Listing Referrers".
"""

from __future__ import annotations

import json
import re
import threading
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Generic, TypeGuard, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from container_image_proxy.concurrency.single_flight import SingleFlight
from container_image_proxy.errors import (
    DigestMismatchError,
    InvalidManifestError,
    MalformedDocumentError,
    UnknownBlobError,
    UnknownManifestError,
)
from container_image_proxy.image.descriptor import Descriptor, parse_descriptor
from container_image_proxy.image.digest import Digest, digest_of, parse_digest
from container_image_proxy.image.manifest import Manifest, list_entries, parse_manifest
from container_image_proxy.image.media_types import OCI_INDEX
from container_image_proxy.image.reference import DEFAULT_TAG, MAX_TAG_LENGTH
from container_image_proxy.transports.source import AttachmentSource

if TYPE_CHECKING:
    from collections.abc import Iterable

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.core.proxy import Proxy, ServedImage
    from container_image_proxy.core.snapshots import Snapshot
    from container_image_proxy.image.manifest import Index, IndexEntry, UntrustedManifest

_T = TypeVar("_T")

MAX_REFERRERS: Final = 1024
"""Of one document, in an answer that is held in memory."""
_MAX_SIZE: Final = 4 << 20
"""Bytes of manifests that are remembered of other platforms, and the same again of attachments. A client that fetches
the blobs of one that was forgotten meanwhile has to begin anew.
"""
_MAX_COUNT: Final = 1024
_ATTACHMENT_TAG: Final = re.compile(r"(sha256|sha512)-([0-9a-f]{64}|[0-9a-f]{128})(?:\.(?:sig|att|sbom))?")
"""Tags by which cosign attaches signatures, attestations and SBOMs, and those of the referrers tag schema."""
_DESCRIPTOR_KEYS: Final = ("mediaType", "digest", "size", "artifactType", "annotations")


class Document(Struct, frozen=True):
    """A manifest or index as it is handed out. ``digest`` is that of ``raw``, ``snapshot`` the image it belongs to."""

    raw: bytes
    media_type: str
    digest: Digest
    snapshot: Snapshot


class Attachment(Struct, frozen=True):
    """A document that is attached to an image, and the blobs that it names. Policy has not judged it."""

    document: Document
    blobs: tuple[Descriptor, ...]


def tag_of(image: ServedImage) -> str:
    """The one tag of an image: its reference's own, or ``latest`` if that names none."""
    reference = image.reference.docker_reference
    return reference.tag if reference is not None and reference.tag is not None else DEFAULT_TAG


class Distribution:
    """The images of one configuration as repositories. Thread-safe."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._instances: _Recent[Snapshot] = _Recent()
        self._attachments: _Recent[Attachment] = _Recent()
        self._referrers: _Recent[Snapshot] = _Recent()  # by a referrer's digest: the image that it was listed for
        self._judgements: SingleFlight[Snapshot] = SingleFlight()

    def find_tagged(self, context: Context, name: str, tag: str) -> Document:
        """The document that the tag names: the image as its reference names it now, or an attachment.

        Raises :class:`UnknownManifestError`, and what :meth:`Proxy.resolve` raises.
        """
        image = self._proxy.image(name)
        if tag == tag_of(image):
            return self._documents(self._proxy.resolve(context, name))[0]
        if match := _ATTACHMENT_TAG.fullmatch(tag):
            return self._fetch_tagged(context, name, tag, parse_digest(f"{match[1]}:{match[2]}"))
        raise UnknownManifestError(f"image {name!r} has the tag {tag_of(image)}, and no tag {tag[:MAX_TAG_LENGTH]!r}")

    def find_manifest(self, context: Context, name: str, digest: Digest) -> Document:
        """The document with that digest: of the image, of another platform of it, or attached to any of these.

        Raises :class:`UnknownManifestError`, and what :meth:`Proxy.resolve` raises.
        """
        kept = tuple(self._proxy.kept_or_resolved(context, name))
        if found := self._find_among(context, kept, name, digest):
            return found
        newest = self._proxy.resolve(context, name)  # the tag may have moved to what is asked for
        if newest not in kept and (found := self._find_among(context, (newest,), name, digest)):
            return found
        raise UnknownManifestError(f"image {name!r} has no manifest {digest}")

    def find_blob(self, context: Context, name: str, digest: Digest) -> tuple[Snapshot, Descriptor]:
        """A blob of one of the image's documents that were asked for, and the snapshot to open it by.

        Raises :class:`UnknownBlobError`.
        """
        for snapshot in (*self._proxy.kept_or_resolved(context, name), *self._instances.of(name)):
            for blob in snapshot.manifest.blobs:
                if blob.digest == digest:
                    return snapshot, blob
        for attachment in self._attachments.of(name):
            for blob in attachment.blobs:
                if blob.digest == digest:
                    return attachment.document.snapshot, blob
        raise UnknownBlobError(f"{digest} is a blob of no manifest of image {name!r} that was asked for")

    def list_referrers(self, context: Context, name: str, digest: Digest, artifact_type: str = "") -> Document:
        """An index of the manifests that say that they are about ``digest``, of ``artifact_type`` if that is not empty.

        It is empty if ``digest`` does not belong to the image.
        """
        try:
            snapshot = self.find_manifest(context, name, digest).snapshot
            found = self._list_referrers(context, snapshot, digest)
        except UnknownManifestError:  # 404 would tell clients that this registry has no such API
            snapshot, found = self._proxy.current(context, name), []
        for entry in found:
            self._referrers.add(name, entry["digest"], snapshot, 0)
        chosen = [entry for entry in found if artifact_type in ("", entry.get("artifactType"))]
        raw = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": chosen}).encode()
        return Document(raw, OCI_INDEX, digest_of(raw), snapshot)

    # --- documents ----------------------------------------------------------------------------------------------------

    def _documents(self, snapshot: Snapshot) -> tuple[Document, ...]:
        """The documents of a snapshot, from the one that the reference names to the manifest.

        They are the original ones. If the source has none that a registry could have had (see
        :attr:`Snapshot.original`), there is only the manifest that is served over ``/manifest``.
        """
        documents: tuple[Index | Manifest, ...] = (snapshot.manifest,)
        if snapshot.original is not None:
            documents = (*snapshot.stored.indexes, snapshot.original)
        return tuple(Document(one.raw, one.media_type, one.digest, snapshot) for one in documents)

    def _find_among(
        self, context: Context, snapshots: Iterable[Snapshot], name: str, digest: Digest
    ) -> Document | None:
        # What is at hand comes first, what has to be fetched and judged last.
        for snapshot in snapshots:
            if found := self._find_in(snapshot, digest):
                return found
        if attachment := self._attachments.get(name, digest):
            return attachment.document
        if subject := self._referrers.get(name, digest):
            with self._proxy.reaching(context, subject) as (source, take):
                return self._attach(name, subject, source.fetch_manifest(context, digest, take=take), digest)
        for snapshot in snapshots:
            for index in snapshot.stored.indexes:
                for entry in index.manifests:
                    if entry.untrusted_digest == str(digest):
                        return self._documents(self._judge(context, snapshot, index, entry))[-1]
        return None

    def _find_in(self, snapshot: Snapshot, digest: Digest) -> Document | None:
        """The snapshot's document with that digest, which may be of another algorithm than the one in its index."""
        for document in self._documents(snapshot):
            if digest == document.digest:
                return document
            if digest.algorithm != document.digest.algorithm and digest.matches(document.raw):
                return replace(document, digest=digest)
        return None

    def _judge(self, context: Context, snapshot: Snapshot, index: Index, entry: IndexEntry) -> Snapshot:
        """The manifest that an index names, as a snapshot. Raises :class:`PolicyRejectedError` if it may not be had."""

        def judge(context: Context) -> Snapshot:
            judged = self._proxy.verify_instance(context, snapshot, index, entry)
            self._instances.add(snapshot.name, str(entry.digest), judged, judged.stored.size)
            return judged

        known = self._instances.get(snapshot.name, entry.digest)
        return known or self._judgements.run(context, (snapshot.name, entry.digest), judge)

    # --- attachments --------------------------------------------------------------------------------------------------

    def _fetch_tagged(self, context: Context, name: str, tag: str, digest: Digest) -> Document:
        snapshot = self.find_manifest(context, name, digest).snapshot
        with self._proxy.reaching(context, snapshot) as (source, take):
            if not isinstance(source, AttachmentSource):
                raise UnknownManifestError(f"image {name!r} comes from where nothing can be attached to it")
            untrusted = source.fetch_tagged(context, tag, take)
        return self._attach(name, snapshot, untrusted)

    def _attach(
        self, name: str, snapshot: Snapshot, untrusted: UntrustedManifest | None, digest: Digest | None = None
    ) -> Document:
        """The document of an attachment, which is remembered, because its blobs may be asked for from now on."""
        if untrusted is None:
            raise UnknownManifestError(f"image {name!r}: the source says 'not modified' to a first request")
        if digest is not None and not digest.matches(untrusted.raw):
            raise DigestMismatchError(f"image {name!r}: the source sent a manifest with another digest than {digest}")
        manifest = parse_manifest(untrusted)
        document = Document(manifest.raw, manifest.media_type, digest or manifest.digest, snapshot)
        blobs = manifest.blobs if isinstance(manifest, Manifest) else ()
        self._attachments.add(name, str(document.digest), Attachment(document, blobs), len(document.raw))
        return document

    def _list_referrers(self, context: Context, snapshot: Snapshot, digest: Digest) -> list[dict[str, Any]]:
        """The descriptors that the source lists. What is no descriptor is left out."""
        with self._proxy.reaching(context, snapshot) as (source, take):
            lists = source.list_referrers(context, digest, take) if isinstance(source, AttachmentSource) else ()
        entries = chain.from_iterable(map(list_entries, lists))
        found: dict[str, dict[str, Any]] = {
            entry["digest"]: {key: entry[key] for key in _DESCRIPTOR_KEYS if key in entry}
            for entry in entries
            if _is_descriptor(entry)
        }
        if len(found) > MAX_REFERRERS:
            raise InvalidManifestError(f"{digest} has more than {MAX_REFERRERS} referrers")
        return list(found.values())


def _is_descriptor(entry: object) -> TypeGuard[dict[str, Any]]:
    if not isinstance(entry, dict) or not isinstance(entry.get("mediaType"), str):
        return False
    try:
        parse_descriptor(entry, ())
    except MalformedDocumentError:
        return False
    return True


class _Recent(Generic[_T]):
    """What was found lately, by image and digest, bounded in number and size (bytes). Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[tuple[str, str], tuple[_T, int]] = {}  # the least recently used first

    def add(self, name: str, digest: str, found: _T, size: int) -> None:
        """Keep ``found``, and as much of what was used before as there is room for."""
        with self._lock:
            self._found.pop((name, digest), None)
            self._found[name, digest] = found, size
            while len(self._found) > _MAX_COUNT or sum(size for _, size in self._found.values()) > _MAX_SIZE:
                del self._found[next(iter(self._found))]

    def get(self, name: str, digest: Digest) -> _T | None:
        """What is kept for that digest; None if nothing is."""
        with self._lock:
            known = self._found.pop((name, str(digest)), None)
            if known is not None:
                self._found[name, str(digest)] = known
        return known[0] if known is not None else None

    def of(self, name: str) -> list[_T]:
        """All that is kept for an image."""
        with self._lock:
            return [found for (image, _), (found, _) in self._found.items() if image == name]
