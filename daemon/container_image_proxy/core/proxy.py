"""The use case: resolve a configured image, verify it, serve its own blobs.

Manifest and signatures are fetched, digests checked, policy is evaluated on the reference that the configuration names,
and only a :class:`VerifiedImage` becomes a snapshot. Whatever is served comes from a snapshot (contrib/adr/0005), and a
blob only if the snapshot's manifest names it (contrib/adr/0006).
Must not know protocols or files: transports bring the bytes, ``policy`` decides.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from container_image_proxy.concurrency.memory import Memory
from container_image_proxy.concurrency.single_flight import SingleFlight
from container_image_proxy.config.instances import DEFAULT_VERIFICATION_TIMEOUT
from container_image_proxy.core.chain import fetch_chain, fetch_instance, verify_chain
from container_image_proxy.core.checkpoints import Checkpoints
from container_image_proxy.core.lease import Lease
from container_image_proxy.core.snapshots import Snapshot, Snapshots
from container_image_proxy.core.stored_image import StoredImage
from container_image_proxy.core.verification import Verifier
from container_image_proxy.core.verified_part import VerifiedPart, open_part
from container_image_proxy.core.verified_stream import VerifiedBlob
from container_image_proxy.errors import (
    AmbiguousDigestError,
    UnknownBlobError,
    UnknownImageError,
    UnknownManifestError,
)
from container_image_proxy.image.digest import parse_digest_prefix
from container_image_proxy.image.manifest import Index
from container_image_proxy.transports.source import MAX_STATE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.core.snapshot_store import SnapshotStore
    from container_image_proxy.image.manifest import Descriptor, IndexEntry
    from container_image_proxy.image.platform import Platform
    from container_image_proxy.policy.model import Policy
    from container_image_proxy.transports.source import ImageSource, SourceReference


class ServedImage(Struct, frozen=True):
    """An image that the instance serves. A tag is not asked for again within ``fresh_for`` seconds."""

    name: str
    reference: SourceReference
    platform: Platform
    fresh_for: float


class Proxy:
    """The images of one configuration. Thread-safe: nothing in it changes but its snapshots.

    ``open_source`` takes a reference, an earlier source of it or None, and that source's state, as
    :meth:`SourceReference.open_source`. ``store`` keeps the snapshots, also over a reload.
    """

    def __init__(
        self,
        images: Mapping[str, ServedImage],
        policy: Policy,
        open_source: Callable[[SourceReference, ImageSource | None, bytes], ImageSource],
        store: SnapshotStore,
        memory: Memory = Memory(),  # noqa: B008 - that of the process, over all configurations
        checkpoints: Checkpoints = Checkpoints(),  # noqa: B008 - as above
        *,
        require_instance_signature: bool = False,
        accept_unnamed_bundles: bool = False,
        verification_timeout: float = DEFAULT_VERIFICATION_TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._images = images
        self._open_source = open_source
        self._snapshots = Snapshots(store, self._restore)
        self._verifier = Verifier(
            policy,
            require_instance_signature=require_instance_signature,
            accept_unnamed_bundles=accept_unnamed_bundles,
            timeout=verification_timeout,
            clock=clock,
        )
        self._memory = memory
        self._checkpoints = checkpoints
        self._clock = clock
        self._resolutions: SingleFlight[Snapshot] = SingleFlight()

    def image(self, name: str) -> ServedImage:
        """The image with that name. Raises :class:`UnknownImageError` if the instance serves none."""
        try:
            return self._images[name]
        except KeyError as error:
            raise UnknownImageError(
                f"this instance serves no image {name!r}; GET /images lists those it serves"
            ) from error

    def resolve(self, context: Context, name: str, platform: Platform | None = None) -> Snapshot:
        """What the reference names now, verified: a new snapshot, or the last one if it is fresh or still the same.

        ``platform`` is by default the image's own. Concurrent calls for one image and platform share one look at the
        source, and its outcome. Raises :class:`UnknownImageError`, :class:`PolicyRejectedError`, and what
        :meth:`ImageSource.fetch_manifest` raises.
        """
        image = self.image(name)
        platform = platform or image.platform
        last = self._newest(context, image, platform)
        if last is not None:
            # A digest always names the same. A restored snapshot was never checked under this configuration.
            is_recent = last.checked_at is not None and self._clock() - last.checked_at < image.fresh_for
            if is_recent or image.reference.pinned_digest is not None:
                return last
        return self._resolutions.run(
            context, (name, platform), lambda context: self._resolve(context, image, platform, last)
        )

    def current(self, context: Context, name: str, platform: Platform | None = None) -> Snapshot:
        """The newest snapshot, however old. Resolves only if there is none, and raises as :meth:`resolve` then."""
        image = self.image(name)
        newest = self._newest(context, image, platform or image.platform)
        return newest or self.resolve(context, name, platform)

    def find_blob(
        self, context: Context, name: str, platform: Platform | None, wanted: str
    ) -> tuple[Snapshot, Descriptor]:
        """The image's own blob with the digest ``wanted``, or with that unambiguous prefix of 7 or more hex digits.

        Looks through the kept snapshots of the image (of ``platform``, if given), newest first, so that the blobs of a
        manifest stay reachable after its tag has moved. Resolves only if there is none. Raises
        :class:`InvalidDigestError`, :class:`AmbiguousDigestError` or :class:`UnknownBlobError`.
        """
        prefix = parse_digest_prefix(wanted)
        for snapshot in self.kept_or_resolved(context, name, platform):
            found = {blob.digest: blob for blob in snapshot.manifest.blobs if str(blob.digest).startswith(prefix)}
            if len(found) > 1:
                candidates = tuple(sorted(map(str, found)))
                raise AmbiguousDigestError(f"{prefix} could be {', '.join(candidates)}", candidates)
            for descriptor in found.values():
                return snapshot, descriptor
        raise UnknownBlobError(f"{prefix} is no blob of image {name!r}; its manifest lists those that are")

    def open_blob(self, context: Context, snapshot: Snapshot, descriptor: Descriptor) -> VerifiedBlob:
        """The verified stream of one of the snapshot's blobs, which the caller closes.

        Raises what reading the first piece raises.
        """
        known = self._checkpoints.record(snapshot.name, descriptor)
        return VerifiedBlob(snapshot.open_blob(context, descriptor), descriptor, known.hash_at(0))

    def open_part(
        self, context: Context, snapshot: Snapshot, descriptor: Descriptor, span: range
    ) -> VerifiedPart | None:
        """The bytes of the blob in ``span``, verified, which the caller closes; None if the whole is to be sent."""
        known = self._checkpoints.record(snapshot.name, descriptor)
        return open_part(context, partial(snapshot.open_part, context, descriptor), descriptor, known, span)

    def verify_instance(self, context: Context, snapshot: Snapshot, index: Index, entry: IndexEntry) -> Snapshot:
        """The manifest that one of the snapshot's indexes names, if policy allows it, too. The caller keeps it.

        Raises :class:`PolicyRejectedError`, and what :meth:`ImageSource.fetch_manifest` raises.
        """
        began = self._clock()
        indexes = snapshot.stored.indexes[: snapshot.stored.indexes.index(index) + 1]
        with self.reaching(context, snapshot) as (source, take):
            place = f"{snapshot.stored.reference}, manifest {entry.digest}"
            manifest = fetch_instance(context, source, entry, place, take)
            if isinstance(manifest, Index):
                raise UnknownManifestError(f"{place}: it is an index that is not on the way to the configured platform")
            signatures = {one.digest: snapshot.stored.signatures.get(one.digest, ()) for one in indexes}
            unsigned = replace(
                snapshot.stored, indexes=indexes, manifest=manifest, signatures=signatures, state=source.state
            )
            reference = self.image(snapshot.name).reference
            return self._verifier.verify(context, reference, unsigned, snapshot.lease, take, checked_at=began)

    @contextmanager
    def reaching(self, context: Context, snapshot: Snapshot) -> Iterator[tuple[ImageSource, Callable[[int], object]]]:
        """The snapshot's source, open meanwhile, and the function that is called with the size of what is fetched."""
        with self._memory.share(context, snapshot.name) as share, snapshot.lease.held():
            yield snapshot.lease.source, share.take

    def close(self) -> None:
        """Close the sources of all snapshots, but for those from which blobs are being read."""
        self._snapshots.close()

    def kept_or_resolved(self, context: Context, name: str, platform: Platform | None = None) -> Iterator[Snapshot]:
        """The kept snapshots of the image (of ``platform``, if given), newest first; if there is none, a new one.

        Those of the image's own platform come before those of others.
        """
        image, is_empty = self.image(name), True
        for shelf in (image.name, _side_shelf(image)):
            for snapshot in self._snapshots.of(context, shelf, platform):
                is_empty = False
                yield snapshot
        if is_empty:
            yield self.resolve(context, name, platform)

    def _newest(self, context: Context, image: ServedImage, platform: Platform) -> Snapshot | None:
        return next(self._snapshots.of(context, _shelf(image, platform), platform), None)

    def _restore(self, context: Context, stored: StoredImage) -> Snapshot | None:
        """A kept image, verified anew (contrib/adr/0013); None if it is not what the configuration names now."""
        image = self._images.get(stored.name)
        if image is None or (stored.reference, stored.place) != _names(image):
            return None
        verify_chain(stored.indexes, stored.manifest, image.reference, stored.platform)
        lease = self._new_lease(image, stored.state)
        return self._verifier.verify_kept(context, image.reference, stored, lease)

    def _resolve(self, context: Context, image: ServedImage, platform: Platform, last: Snapshot | None) -> Snapshot:
        began = self._clock()
        with self._memory.share(context, image.name) as share, self._renewed(image, last) as lease:
            source = lease.source
            known = last.top_digest if last else None
            chain = fetch_chain(context, source, image.reference, platform, known, share.take)
            if chain is not None:
                state = source.state if len(source.state) <= MAX_STATE_SIZE else b""
                unsigned = StoredImage(image.name, platform, *_names(image), *chain, signatures={}, state=state)
                verify = self._verifier.verify
                snapshot = verify(context, image.reference, unsigned, lease, share.take, checked_at=began)
            elif last is not None:
                snapshot = replace(last, checked_at=began, lease=lease)
            else:
                raise UnknownManifestError(f"{image.reference}: the source says 'not modified' to a first request")
            self._snapshots.add(_shelf(image, platform), snapshot)
        return snapshot

    @contextmanager
    def _renewed(self, image: ServedImage, last: Snapshot | None) -> Iterator[Lease]:
        """A lease of what the reference names now, held meanwhile.

        It is that of ``last`` if the transport says that its open source still is what the reference names.
        """
        if last is None:
            lease = self._new_lease(image)
            with lease.held():
                yield lease
            return
        with last.lease.held():
            earlier = last.lease.opened
            source = self._open_source(image.reference, earlier, last.stored.state)
            lease = last.lease if source is earlier else self._new_lease(image, last.stored.state, source)
            with lease.held():
                yield lease

    def _new_lease(self, image: ServedImage, state: bytes = b"", opened: ImageSource | None = None) -> Lease:
        return Lease(lambda: self._open_source(image.reference, None, state), opened)


def _names(image: ServedImage) -> tuple[str, str]:
    """What an image is resolved by: its reference, and the place that this means."""
    return str(image.reference), image.reference.policy_identity


def _shelf(image: ServedImage, platform: Platform) -> str:
    """The shelf for snapshots of a platform. Those that clients ask for push none of the image's own off its shelf."""
    return image.name if platform == image.platform else _side_shelf(image)


def _side_shelf(image: ServedImage) -> str:
    return f"{image.name}+platforms"  # no image can have that name
