"""The methods of the protocol for one client: which arguments they take, and what they answer.

Owns the numbers by which the client knows open images. Must not decide who may have which image, which ``core`` does.
Spec: skopeo-experimental-image-proxy(1).
"""

from __future__ import annotations

import functools
import json
import logging
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from container_image_proxy.errors import (
    Error,
    ImageNotFoundError,
    IntegrityError,
    OverloadedError,
    UpstreamError,
    shown,
)
from container_image_proxy.faces.image_proxy import messages
from container_image_proxy.faces.image_proxy.limits import SMALL_PIPE
from container_image_proxy.faces.image_proxy.messages import (
    InvalidRequestError,
    ReaderGoneError,
    read_integer,
    read_text,
)
from container_image_proxy.faces.image_proxy.pipes import Pipe, Pipes, Transfer

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.core.opening import Images, OpenImage
    from container_image_proxy.core.peer import Peer
    from container_image_proxy.faces.image_proxy.limits import ImageProxyLimits, Room
    from container_image_proxy.image.descriptor import Descriptor

NOT_FOUND: Final = 0
"""The number that stands for an image that does not exist."""
_log = logging.getLogger(__name__)


class Shared(Struct, frozen=True):
    """What all clients share. ``images`` returns what can be opened now, or raises the reason why nothing can.

    ``places`` are for transfers under way, ``room`` is for the bytes that clients hold open.
    """

    images: Callable[[], Images]
    limits: ImageProxyLimits
    places: threading.Semaphore
    room: Room


class Answer(Struct, frozen=True):
    """A value, and pipes whose readers are sent along. ``number`` is for ``FinishPipe``, 0 without one to finish."""

    value: object = None
    number: int = 0
    pipes: tuple[Pipe, ...] = ()


class Session:
    """What one client has open. One thread uses it."""

    def __init__(self, peer: Peer, shared: Shared, context: Context) -> None:
        self._peer = peer
        self._shared = shared
        self._limits = shared.limits
        self._context = context
        self._is_initialized = False
        self._last = 0
        self._images: dict[int, OpenImage] = {}
        self._pipes = Pipes(shared.places, shared.limits, context)

    @property
    def is_busy(self) -> bool:
        """Whether the client has transfers to read or to finish."""
        return self._pipes.is_busy

    def call(self, request: messages.Call) -> Answer:
        """Do what is asked for. Raises :class:`Error`, and :class:`CancelledError` if the client has left."""
        method = _METHODS.get(request.method)
        if method is None:
            raise InvalidRequestError(f"unknown method: {shown(request.method)}")
        if request.method not in _BEFORE_INITIALIZE and not self._is_initialized:
            raise InvalidRequestError("client error: must invoke Initialize")
        return method(self, request.arguments)

    def close(self) -> None:
        """Close all images. The transfers have been cancelled before."""
        self._pipes.close()
        while self._images:
            self._close(self._images.popitem()[1])

    # --- images -------------------------------------------------------------------------------------------------------

    def initialize(self, arguments: tuple[object, ...]) -> Answer:
        """``Initialize``: returns the version of the protocol. Fails as long as there is no usable configuration."""
        _expect(arguments)
        if self._is_initialized:
            raise InvalidRequestError("already initialized")
        self._shared.images()
        self._is_initialized = True
        return Answer(messages.PROTOCOL_VERSION)

    def open_image(self, arguments: tuple[object, ...]) -> Answer:
        """``OpenImage``: returns the number of an image, which is resolved and verified now, and stays the same."""
        (name,) = _expect(arguments, "reference")
        if len(self._images) >= self._limits.images_per_client:
            raise OverloadedError(f"{len(self._images)} images are open: close some")
        image = self._shared.images().open(self._context, read_text(name, "the reference"), self._peer)
        try:
            self._shared.room.take(image.size)
        except OverloadedError:
            image.close()
            raise
        self._last += 1
        self._images[self._last] = image
        return Answer(self._last)

    def open_image_optional(self, arguments: tuple[object, ...]) -> Answer:
        """``OpenImageOptional``: as ``OpenImage``, but returns 0 if the source says that it has no such image."""
        try:
            return self.open_image(arguments)
        except ImageNotFoundError:
            return Answer(NOT_FOUND)

    def close_image(self, arguments: tuple[object, ...]) -> Answer:
        """``CloseImage``: closes an image. Transfers of its blobs go on."""
        (number,) = _expect(arguments, "image")
        image = self._image(number)
        del self._images[read_integer(number, "the image")]
        self._close(image)
        return Answer()

    def _close(self, image: OpenImage) -> None:
        self._shared.room.give_back(image.size)
        image.close()

    def _image(self, number: object) -> OpenImage:
        wanted = read_integer(number, "the image")
        image = self._images.get(wanted)
        if image is None:
            raise InvalidRequestError(f"no image {wanted} is open")
        return image

    # --- documents ----------------------------------------------------------------------------------------------------

    def get_manifest(self, arguments: tuple[object, ...]) -> Answer:
        """``GetManifest``: sends the manifest in OCI form, and returns the digest of the one that the source has."""
        image = self._only_image(arguments)
        return self._document(image.manifest, str(image.digest))

    def get_full_config(self, arguments: tuple[object, ...]) -> Answer:
        """``GetFullConfig``: sends the image configuration, byte for byte."""
        return self._document(self._only_image(arguments).read_config(self._context))

    def get_config(self, arguments: tuple[object, ...]) -> Answer:
        """``GetConfig``: sends the configuration's part for running the image. It is older than ``GetFullConfig``."""
        return self._document(_encode(self._only_image(arguments).read_runtime_config(self._context)))

    def get_layer_info(self, arguments: tuple[object, ...]) -> Answer:
        """``GetLayerInfo``: returns digest, size and media type of each blob of a layer, from the lowest layer up."""
        return Answer([_layer_info(layer) for layer in self._only_image(arguments).layers])

    def get_layer_info_piped(self, arguments: tuple[object, ...]) -> Answer:
        """``GetLayerInfoPiped``: sends the same, for images with more layers than an answer has room for."""
        return self._document(_encode([_layer_info(layer) for layer in self._only_image(arguments).layers]))

    def _only_image(self, arguments: tuple[object, ...]) -> OpenImage:
        return self._image(*_expect(arguments, "image"))

    def _document(self, content: bytes, value: object = None) -> Answer:
        """Send ``content`` through a pipe, and return ``value``."""
        transfer = Transfer(self._pipes.make(), len(content))
        # Most documents fit into the pipe, and need no thread. The rest of any other is held until the client reads it.
        if not transfer.try_at_once(content):
            room = self._shared.room
            try:
                room.take(len(content))
                rest = _Held(memoryview(content)[transfer.pipe.written :], room, len(content))
                try:
                    self._pipes.start(transfer, lambda: rest)
                except Error:
                    rest.close()
                    raise
            except Error as error:
                transfer.fail(error)
                raise
        return Answer(value, self._pipes.keep(transfer), (transfer.pipe,))

    # --- blobs --------------------------------------------------------------------------------------------------------

    def get_blob(self, arguments: tuple[object, ...]) -> Answer:
        """``GetBlob``: returns the size and sends the blob. ``FinishPipe`` tells whether it was right."""
        number, digest, size = _expect(arguments, "image", "digest", "size")
        image, wanted = self._image(number), read_text(digest, "the digest")
        descriptor = image.find_blob(wanted, read_integer(size, "the size"))
        transfer = self._start_blob(image, descriptor)
        return Answer(descriptor.size, self._pipes.keep(transfer), (transfer.pipe,))

    def get_raw_blob(self, arguments: tuple[object, ...]) -> Answer:
        """``GetRawBlob``: returns the size, sends the blob through one pipe, and an error through another."""
        number, digest = _expect(arguments, "image", "digest")
        image = self._image(number)
        descriptor = image.find_blob(read_text(digest, "the digest"))
        errors = self._pipes.make()

        def tell(error: BaseException | None) -> None:
            with closing(errors), suppress(ReaderGoneError):  # a client need not keep the second pipe
                if error is not None:
                    errors.write(messages.error_record(error))  # never waits: it is smaller than an empty pipe

        try:
            transfer = self._start_blob(image, descriptor, tell)
        except BaseException as error:
            errors.close_reader()
            # After anything else (the client left) the transfer is still under way, and closes the pipe at its end.
            if isinstance(error, Error):
                errors.close()
            raise
        self._pipes.keep_apart(transfer)
        return Answer(descriptor.size, 0, (transfer.pipe, errors))

    def _start_blob(
        self, image: OpenImage, descriptor: Descriptor, tell: Callable[[BaseException | None], None] = lambda _: None
    ) -> Transfer:
        """Start the transfer of a blob; ``tell`` is called at its end, with the error if there was one.

        Raises what goes wrong at once, or soon (``opening_seconds``).
        """
        began = time.monotonic()
        pipe = self._pipes.make(wide=descriptor.size > SMALL_PIPE)

        def end(error: BaseException | None) -> None:
            _log_transfer(self._peer, image, descriptor, error, pipe.written, time.monotonic() - began)
            tell(error)

        transfer = Transfer(pipe, descriptor.size, end)
        try:
            self._pipes.start(transfer, functools.partial(image.open_blob, self._context, descriptor))
        except Error as error:
            transfer.fail(error)
            raise
        try:
            self._pipes.wait_opened(transfer)
        except BaseException:
            pipe.close_reader()
            raise
        return transfer

    def finish_pipe(self, arguments: tuple[object, ...]) -> Answer:
        """``FinishPipe``: waits for the end of a transfer. Fails if its content was not complete and right."""
        (number,) = _expect(arguments, "pipe")
        self._pipes.finish(read_integer(number, "the pipe"))
        return Answer()


_METHODS: Final[dict[str, Callable[[Session, tuple[object, ...]], Answer]]] = {
    "Initialize": Session.initialize,
    "OpenImage": Session.open_image,
    "OpenImageOptional": Session.open_image_optional,
    "CloseImage": Session.close_image,
    "GetManifest": Session.get_manifest,
    "GetConfig": Session.get_config,
    "GetFullConfig": Session.get_full_config,
    "GetBlob": Session.get_blob,
    "GetRawBlob": Session.get_raw_blob,
    "GetLayerInfo": Session.get_layer_info,
    "GetLayerInfoPiped": Session.get_layer_info_piped,
    "FinishPipe": Session.finish_pipe,
}
_BEFORE_INITIALIZE: Final = frozenset({"Initialize"})


class _Held:
    """The rest of a document on its way, as content of a transfer. It holds the document's room until it is closed."""

    def __init__(self, rest: memoryview, room: Room, size: int) -> None:
        self._rest = rest
        self._room = room
        self._size = size

    def __iter__(self) -> Iterator[memoryview]:
        yield self._rest

    def close(self) -> None:
        """Give the room back: the document has been sent, or will not be."""
        self._room.give_back(self._size)


def _expect(arguments: tuple[object, ...], *names: str) -> tuple[object, ...]:
    """The arguments, if there are as many as ``names``. Raises :class:`InvalidRequestError`."""
    if len(arguments) != len(names):
        raise InvalidRequestError(f"found {len(arguments)} arguments, expecting ({', '.join(names)})")
    return arguments


def _layer_info(layer: Descriptor) -> dict[str, object]:
    return {"digest": str(layer.digest), "size": layer.size, "media_type": layer.media_type}


def _encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _log_transfer(
    peer: Peer, image: OpenImage, descriptor: Descriptor, error: BaseException | None, sent: int, seconds: float
) -> None:
    """Log a transfer that has ended, as a request for a blob over HTTP is logged."""
    reason = "" if error is None else f": {messages.error_text(error)}"
    fields: dict[str, object] = {
        "IMAGE": image.name,
        "DIGEST": str(descriptor.digest),
        "BYTES": sent,
        "DURATION_USEC": round(seconds * 1e6),
        "PEER_UID": peer.uid,
        "PEER_PID": peer.pid,
    }
    is_ours = isinstance(error, UpstreamError | IntegrityError)
    level = logging.WARNING if is_ours else logging.INFO
    text = "sent %s of %s, %d bytes in %.3f s%s"
    _log.log(level, text, descriptor.digest, image.name, sent, seconds, reason, extra={"fields": fields})
