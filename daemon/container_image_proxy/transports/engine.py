"""The API of a Docker daemon, as far as an image is found and exported by it. Podman's service speaks the same API.

Must not know what an exported image looks like. Spec: Docker Engine API, "Ping", "Inspect an image", "Export an image".
"""

from __future__ import annotations

import re
from contextlib import closing, contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import msgspec
from msgspec import Struct

from container_image_proxy.errors import EngineError, MalformedDocumentError, UnknownManifestError
from container_image_proxy.image.documents import convert
from container_image_proxy.image.strict_json import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from container_image_proxy.concurrency.context import Context
    from container_image_proxy.config.engine import EngineAddress
    from container_image_proxy.registry.http.service import Answer

IMAGE_ID: Final = re.compile(r"sha256:[0-9a-f]{64}")
_API_VERSION: Final = re.compile(r"[0-9]{1,3}\.[0-9]{1,3}")
_MAX_INSPECTION: Final = 4 << 20
"""Bytes of what the daemon says of an image: its configuration, names and layers."""
_CONNECT_TIMEOUT: Final = 10.0
_PATIENCE: Final = 60.0
"""Seconds that the daemon may take for an answer, and between two pieces of an export."""
_EXPORT_PATIENCE: Final = 900.0
"""Seconds until an export begins: podman writes all of it into a file before it sends the first byte."""


class _Inspection(Struct, frozen=True):
    id: str = msgspec.field(name="Id")


class Engine:
    """The daemon at ``address``. Each request has a connection of its own. Thread-safe."""

    def __init__(self, address: EngineAddress) -> None:
        self.name = f"the Docker daemon at {address.name}"
        self._address = address

    def find(self, context: Context, name: str) -> str:
        """The ID of the image with that name.

        Raises :class:`UnknownManifestError` if there is none, and :class:`EngineError`.
        """
        with self._get(context, f"{self._version(context)}/images/{name}/json", name) as answer:
            raw = answer.read_all(_MAX_INSPECTION)
        try:
            found = convert(parse_json(raw, "the image"), _Inspection).id
        except MalformedDocumentError as error:
            raise self._fault(f"{self.name} describes an image in a way that is not understood: {error}") from error
        if not IMAGE_ID.fullmatch(found):
            raise self._fault(f"{self.name} describes an image without an ID")
        return found

    @contextmanager
    def export(self, context: Context, image_id: str) -> Iterator[Answer]:
        """The image as ``docker save`` writes it, to be read as it arrives.

        Raises :class:`UnknownManifestError` if there is none, and :class:`EngineError`.
        """
        target = f"{self._version(context)}/images/{image_id}/get"
        with self._get(context, target, image_id, patience=_EXPORT_PATIENCE) as answer:
            yield answer

    def _version(self, context: Context) -> str:
        """The beginning of all paths, with the daemon's own API version: paths without one are deprecated."""
        with self._get(context, "/_ping") as answer:
            version = answer.header("Api-Version") or ""
        return f"/v{version}" if _API_VERSION.fullmatch(version) else ""

    @contextmanager
    def _get(self, context: Context, target: str, name: str = "", patience: float = _PATIENCE) -> Iterator[Answer]:
        """The answer to a GET, whose status is 200. 404 means that there is no image ``name``, if that is given."""
        from container_image_proxy.registry.http.service import Service, ServiceFailure, get  # noqa: PLC0415 - loads much

        address = self._address
        service = Service(address.path, address.host, address.port, address.tls, address.verify)
        target = quote(target, safe="/:@")
        try:
            with closing(get(service, target, context, patience=patience, connect_timeout=_CONNECT_TIMEOUT)) as answer:
                status = answer.status
                if status == HTTPStatus.NOT_FOUND and name:
                    raise UnknownManifestError(f"{self.name} has no image {name}")
                if status != HTTPStatus.OK:
                    may_pass = status >= HTTPStatus.INTERNAL_SERVER_ERROR
                    raise self._fault(f"{self.name} answered {status}", upstream_status=status, retryable=may_pass)
                yield answer
        except ServiceFailure as error:
            raise self._fault(f"{self.name}: {error}", retryable=error.retryable) from error

    def _fault(self, reason: str, **more: Any) -> EngineError:
        return EngineError(reason, endpoint=self._address.name, **more)
