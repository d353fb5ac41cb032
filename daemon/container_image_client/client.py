"""The daemon's API as methods: images, manifest, configuration, verification, blobs.

Whatever a method returns, policy allowed, and its digest is right: the daemon answers nothing else, and an answer that
is shorter than announced is an error. It must not write files. Spec: container-image-proxy-http(7).
"""

from __future__ import annotations

import json
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

from container_image_client.blob import BlobReader
from container_image_client.documents import (
    Descriptor,
    Image,
    Layer,
    Manifest,
    is_digest,
    layers_of,
    parse_images,
    parse_manifest,
)
from container_image_client.errors import NotFoundError, RequestError, UnexpectedAnswerError
from container_image_client.transport import DEFAULT_TIMEOUT, Address, Answer, Transport

if TYPE_CHECKING:
    from collections.abc import Callable

_NOT_MODIFIED: Final = 304


class Client:
    """One image of one daemon: its default image, or the one that is named.

    ``socket`` is the path of the daemon's Unix socket, or ``url`` says where it listens on TCP. ``platform`` chooses
    from an index, as "linux/arm64". Any number of threads may use it; it holds no connection.
    """

    def __init__(
        self,
        socket: str | PathLike[str] | None = None,
        *,
        url: str | None = None,
        image: str | None = None,
        platform: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        if (socket is None) == (url is None):
            raise TypeError("a client needs either the path of a socket or a URL")
        address = Address.of_url(url) if url is not None else Address(socket=fspath(socket or ""))
        self.transport = Transport(address, timeout=timeout)
        self.image = image
        self._base = f"/images/{quote(image, safe='')}" if image is not None else ""
        self._query = f"?platform={quote(platform, safe='/')}" if platform is not None else ""

    def images(self) -> tuple[Image, ...]:
        """The images that this user may have."""
        with self.transport.get("/images") as answer:
            return parse_images(answer.read_document())

    def manifest(self) -> Manifest:
        """The manifest; the daemon asks the source for it, unless it has just done so."""
        with self._get("manifest") as answer:
            return _manifest(answer)

    def manifest_unless(self, digest: str) -> Manifest | None:
        """The manifest, or None if the image still has this one (its ``digest``)."""
        with self._get("manifest", {"If-None-Match": f'"{digest}"'}) as answer:
            return None if answer.status == _NOT_MODIFIED else _manifest(answer)

    def config(self, manifest: Manifest | None = None) -> bytes:
        """The configuration that belongs to this manifest, else to the newest, byte for byte."""
        with self.open((manifest or self.manifest()).config.digest) as blob:
            return blob.read()

    def verification(self) -> dict[str, Any]:
        """Why policy allowed the newest image that the daemon knows; container-image-proxy-http(7) has the members."""
        with self._get("verification") as answer:
            document = json.loads(answer.read_document())
        if not isinstance(document, dict):
            raise UnexpectedAnswerError("the verification document is no JSON object")
        return document

    def blobs(self) -> tuple[Descriptor, ...]:
        """Configuration and layers of the newest manifest."""
        return self.manifest().blobs

    def layers(self, manifest: Manifest) -> tuple[Layer, ...]:
        """The layers of the root file system, lowest first, with their DiffIDs."""
        return layers_of(manifest, self.config(manifest))

    def open(self, digest: str, *, offset: int = 0, digest_before: Callable[[int], bytes] | None = None) -> BlobReader:
        """A blob of the image, as a file to read. A context manager.

        It goes on by itself if the connection breaks. From an ``offset`` on only for a caller who has what comes
        before it, and can give its digest.
        """
        if not is_digest(digest):
            raise RequestError(400, {"detail": f"{digest[:100]!r} is no whole digest", "code": "DIGEST_INVALID"})
        target = f"{self._base}/blobs/{digest}{self._query}"
        return BlobReader(self.transport, target, digest, offset=offset, digest_before=digest_before)

    def original_manifest(self, reference: str) -> bytes:
        """A manifest as the source has it: by a digest that the daemon still knows, or by the tag of an attachment."""
        with self.transport.get(f"/v2/{self._name()}/manifests/{quote(reference, safe=':')}") as answer:
            return answer.read_document()

    def open_attached(self, digest: str) -> BlobReader:
        """A blob of an attachment whose manifest was asked for just now. Policy has not seen it."""
        return BlobReader(self.transport, f"/v2/{self._name()}/blobs/{digest}", digest)

    def _name(self) -> str:
        if self.image is not None:
            return quote(self.image, safe="")
        default = next((image.name for image in self.images() if image.is_default), None)
        if default is None:
            raise NotFoundError(
                404, {"detail": "this instance has several images and no default", "code": "NAME_UNKNOWN"}
            )
        return quote(default, safe="")

    def _get(self, what: str, headers: dict[str, str] | None = None) -> Answer:
        return self.transport.get(f"{self._base}/{what}{self._query}", headers)


def _manifest(answer: Answer) -> Manifest:
    raw, headers = answer.read_document(), answer.headers
    digest = headers.get("Manifest-Digest", "")
    if not is_digest(digest):
        raise UnexpectedAnswerError("the answer does not say the manifest's digest: this is not container-image-proxy")
    config, layers, media_type = parse_manifest(raw, headers.get("Content-Type", ""))
    signers = tuple(map(unquote, headers["Signed-By"].split(", "))) if "Signed-By" in headers else ()
    reference = unquote(headers.get("Image-Reference", ""))
    return Manifest(raw, media_type, digest, config, layers, reference, headers.get("Index-Digest", ""), signers)
