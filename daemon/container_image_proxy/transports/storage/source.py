"""An image of a store: its manifests and configuration as they were pulled, and its layers put together again.

The source gives the original manifest, which policy judges. It names compressed layers, which a store unpacks and does
not keep. The manifest that is served names the tars instead. It is made of the source's state: see :mod:`tar_layers`.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import msgspec

from container_image_proxy.concurrency.memory import unmetered
from container_image_proxy.errors import (
    IntegrityError,
    InvalidDigestError,
    SourceError,
    UnknownBlobError,
    UnknownManifestError,
)
from container_image_proxy.image.diff_ids import parse_diff_ids
from container_image_proxy.image.digest import parse_digest
from container_image_proxy.image.manifest import MAX_CONFIG_SIZE, MAX_MANIFEST_SIZE, UntrustedManifest
from container_image_proxy.image.media_types import OCI_LAYER_TAR
from container_image_proxy.image.schema1 import without_signatures
from container_image_proxy.image.schema1_conversion import UnpackedLayer
from container_image_proxy.image.signature import MAX_SIGNATURES, Findings, SignatureFailure, parse_signature_blob
from container_image_proxy.transports.readers import BytesReader
from container_image_proxy.transports.storage.lookup import find_former, find_images
from container_image_proxy.transports.storage.tar_layers import (
    MAX_IMAGES,
    MAX_LAYERS,
    TarLayers,
    decode_state,
    encode_state,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.manifest import Descriptor
    from container_image_proxy.image.schema1 import Schema1Manifest
    from container_image_proxy.image.signature import SignatureKind, UntrustedSignature
    from container_image_proxy.transports.source import BlobReader
    from container_image_proxy.transports.storage.lookup import Image
    from container_image_proxy.transports.storage.records import LayerRecord
    from container_image_proxy.transports.storage.reference import StorageReference
    from container_image_proxy.transports.storage.store import Store

_ID_LENGTH: Final = 64
_KINDS: Final[frozenset[SignatureKind]] = frozenset({"simple", "sigstore"})


class _ConfigDescriptor(msgspec.Struct, frozen=True):
    digest: str = ""


class _Shape(msgspec.Struct, frozen=True):
    """As much of a manifest as is needed to find its configuration. An index has none, nor has Docker schema 1."""

    config: _ConfigDescriptor = _ConfigDescriptor()
    fs_layers: list[Any] | None = msgspec.field(default=None, name="fsLayers")


class _Metadata(msgspec.Struct, frozen=True):
    """What containers/image notes with an image: the sizes of signatures in bytes, of which a file has several.

    ``sizes`` are for the manifest that the image was stored by, ``sizes_of`` for each manifest by its digest.
    """

    sizes: tuple[int, ...] | None = msgspec.field(default=None, name="signature-sizes")
    sizes_of: dict[str, tuple[int, ...]] | None = msgspec.field(default=None, name="signatures-sizes")


class StorageSource:
    """An :class:`ImageSource` over a store, in which it holds nothing open.

    ``layers`` are those of the image that was asked for last, by the digests of their tars. They are taken over from
    ``earlier``, so that their blobs are opened without reading a list, or taking its lock.
    """

    def __init__(
        self, store: Store, reference: StorageReference, state: bytes = b"", earlier: StorageSource | None = None
    ) -> None:
        self._store = store
        self._reference = reference
        self._lock = threading.Lock()
        self._known = decode_state(state)
        self._images: tuple[Image, ...] = ()
        self._has_schema1 = False
        self.layers: dict[str, LayerRecord] = earlier.layers if earlier is not None else {}

    @property
    def state(self) -> bytes:
        """What is needed to make the manifests that are served for those that were fetched."""
        with self._lock:
            return encode_state(self._known)

    def fetch_manifest(
        self,
        context: Context,
        digest: Digest | None = None,
        *,
        unless: Digest | None = None,
        take: Callable[[int], object] = unmetered,
    ) -> UntrustedManifest | None:
        """See :class:`ImageSource`. A store has no media types but a manifest's own."""
        is_top = digest in (None, self._reference.pinned_digest)
        digest = digest or self._reference.pinned_digest
        image, raw = self._find_manifest(context, digest, take, is_top=is_top)
        if is_top and unless is not None and unless.matches(raw):
            return None
        self._learn_layers(context, image, raw, take)
        return UntrustedManifest(raw, "")

    def open_blob(self, context: Context, descriptor: Descriptor, offset: int = 0) -> BlobReader:
        """See :class:`ImageSource`."""
        wanted = str(descriptor.digest)
        if known := self._known.get(wanted):
            return BytesReader(known.config, offset)
        if layer := self.layers.get(wanted):
            with suppress(UnknownBlobError):  # pulling the image again gives it another layer with the same tar
                return self._store.open_layer(layer, offset)
        for layer in chain.from_iterable(self._store.layers(context)):
            if layer.diff_digest == wanted and not layer.is_incomplete:
                return self._store.open_layer(layer, offset)
        raise UnknownBlobError(f"{self._reference}: the store has no layer with the digest {wanted} any more")

    def find_tars(self, context: Context, manifest: Schema1Manifest) -> dict[Digest, UnpackedLayer]:
        """See :class:`UnpackedSource`. Only the store's list says which tar is which layer of the manifest."""
        image, _ = self._find_manifest(context, manifest.digest, unmetered, is_top=True)
        layers = self._find_layers(context, image)
        if len(layers) != len(manifest.layers):
            raise self._other_layers(image, len(layers), f"{len(manifest.layers)} that its manifest names")
        tars = [(parse_digest(layer.diff_digest or ""), self._store.measure(layer)) for layer in layers]
        with self._lock:
            self.layers = {str(digest): layer for (digest, _), layer in zip(tars, layers, strict=True)}
        return {
            named: UnpackedLayer(digest, size, digest, OCI_LAYER_TAR)
            for named, (digest, size) in zip(manifest.layers, tars, strict=True)
        }

    def fetch_signatures(
        self,
        context: Context,
        digest: Digest,
        kinds: Collection[SignatureKind],
        *,
        take: Callable[[int], object] = unmetered,
    ) -> Iterator[Findings]:
        """See :class:`ImageSource`. The signatures are those that were pulled with the image.

        None counts for a manifest of schema 1. It names the compressed layers alone, so that a signature of it says
        nothing about the tars (contrib/adr/0045).
        """
        if self._has_schema1:
            error = SourceError(
                f"{self._reference}: the image was pulled as Docker schema 1, whose signatures say nothing of the "
                "unpacked layers that a store has: serve it by docker://"
            )
            yield Findings(failures=(SignatureFailure(error, _KINDS),))
            return
        for image in self._resolve(context):
            try:
                signatures = tuple(self._read_signatures(image, digest, take))
            except (SourceError, IntegrityError) as error:
                yield Findings(failures=(SignatureFailure(error, _KINDS),))
            else:
                yield Findings(tuple(one for one in signatures if one.kind in kinds))

    def close(self) -> None:
        """Nothing is held."""

    def _resolve(self, context: Context) -> tuple[Image, ...]:
        """The images that the reference names, found once. There is at least one."""
        if self._images:
            return self._images
        reference = self._reference
        if 0 < len(reference.image_id) < _ID_LENGTH:
            raise UnknownManifestError(
                f"{reference}: the store had no image, or several, whose id begins so when the configuration was read: "
                "reload, or write the whole id"
            )
        stores = self._store.images(context)
        found = find_images(stores, reference.named, reference.image_id)
        if not found:
            former = find_former(stores, reference.named) if reference.named is not None else None
            hint = f": {former.record.id} had that name before" if former is not None else ""
            raise UnknownManifestError(f"{reference}: the store has no such image{hint}")
        self._images = found
        return found

    def _find_manifest(
        self, context: Context, digest: Digest | None, take: Callable[[int], object], *, is_top: bool
    ) -> tuple[Image, bytes]:
        """A manifest or index, and the image that has it. ``is_top`` says that the reference itself names it."""
        images = self._resolve(context)
        # The keys of containers/image, of which older programs wrote "manifest" alone.
        keys = [] if digest is None else [f"manifest-{digest}"]
        if is_top:
            keys.append("manifest")
        for key in keys:
            for image in images:
                raw = self._store.read_data(image, key, MAX_MANIFEST_SIZE, take)
                # Several images fit the digest of an index; one of them has the manifest of the platform.
                if raw is not None and (digest is None or digest.matches(without_signatures(raw))):
                    return image, raw
        remedy = "" if is_top else ": an image is stored for the platforms that were pulled (podman pull --platform)"
        raise UnknownManifestError(f"{self._reference}: the store has no manifest {digest or ''}{remedy}")

    def _learn_layers(self, context: Context, image: Image, raw: bytes, take: Callable[[int], object]) -> None:
        """Find out which tars the layers are, if ``raw`` is a manifest of ``image``, and not an index."""
        try:
            shape = msgspec.json.decode(raw, type=_Shape)
            if shape.fs_layers is not None:
                self._has_schema1 = True
                return
            digest = str(parse_digest(shape.config.digest))
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, InvalidDigestError):
            return  # an index, or malformed, which its parser will say
        config = self._store.read_data(image, digest, MAX_CONFIG_SIZE, take)
        if config is None or len(config) > MAX_CONFIG_SIZE:
            raise self._fault(image, f"the store has no configuration {digest}")
        diff_ids = parse_diff_ids(config)
        layers = self._find_layers(context, image)
        if [layer.diff_digest for layer in layers] != [str(one) for one in diff_ids]:
            raise self._other_layers(image, len(layers), f"{len(diff_ids)} that its configuration names")
        found = TarLayers(config, tuple(self._store.measure(layer) for layer in layers))
        # Without its state the manifest that is served could not be made.
        if not decode_state(encode_state({digest: found})):
            raise self._fault(image, "its configuration is too large to be kept")
        with self._lock:
            self._known = dict([*self._known.items(), (digest, found)][-MAX_IMAGES:])
            self.layers = dict(zip(map(str, diff_ids), layers, strict=True))

    def _other_layers(self, image: Image, count: int, wanted: str) -> SourceError:
        return self._fault(image, f"the {count} layers that the store has for the image are not the {wanted}")

    def _find_layers(self, context: Context, image: Image) -> list[LayerRecord]:
        """The image's layers from the lowest up. Raises :class:`SourceError` if one of them cannot be served."""
        lists = iter(self._store.layers(context))
        known: dict[str, LayerRecord] = {}
        layers: list[LayerRecord] = []
        following = image.record.top_layer
        while following:
            while following not in known and (more := next(lists, None)) is not None:
                known = {one.id: one for one in reversed(more)} | known  # the first that is recorded counts
            layer = known.get(following)
            refusal = "is not in the store" if layer is None else self._store.find_refusal(layer)
            # A chain of parents that goes in a circle ends at MAX_LAYERS.
            if layer is None or refusal or len(layers) == MAX_LAYERS:
                raise self._fault(image, f"layer {following[:_ID_LENGTH]} {refusal or 'has too many below it'}")
            layers.append(layer)
            following = layer.parent
        return layers[::-1]

    def _read_signatures(
        self, image: Image, digest: Digest, take: Callable[[int], object]
    ) -> Iterator[UntrustedSignature]:
        what = f"the signatures of {digest}"
        try:
            metadata = msgspec.json.decode(image.record.metadata or "{}", type=_Metadata)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise self._fault(image, f"{what}: {error}") from error
        key, sizes = f"signature-{digest.hex}", (metadata.sizes_of or {}).get(str(digest))
        if sizes is None and (image.record.big_data or {}).get("manifest") == str(digest):
            key, sizes = "signatures", metadata.sizes
        if not sizes:
            return
        data = self._store.read_data(image, key, MAX_MANIFEST_SIZE, take) or b""
        if len(sizes) > MAX_SIGNATURES or min(sizes) < 0 or sum(sizes) != len(data):
            raise self._fault(image, f"{what} are not of the sizes that the store recorded")
        begin = 0
        for position, size in enumerate(sizes, 1):
            yield parse_signature_blob(data[begin : begin + size], f"signature {position} in the store")
            begin += size

    def _fault(self, image: Image, reason: str) -> SourceError:
        """The error for an image that cannot be served as the store has it."""
        return SourceError(f"{self._reference}: {reason}", endpoint=str(image.root))
