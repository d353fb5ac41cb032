"""The HTTP API as a WSGI application: which resources there are, who may have them, which headers they carry.

Each request is answered under one configuration, the one in force when it arrived. Must not know sockets or framing.
Spec: PEP 3333, container-image-proxy-http(7).
"""

from __future__ import annotations

import functools
import json
import logging
import re
from contextlib import closing
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from container_image_proxy.errors import PeerDeniedError
from container_image_proxy.faces.http.exchange import TAKES_VIEWS
from container_image_proxy.faces.http.large_answers import HeldBody, LargeAnswers
from container_image_proxy.faces.http.problem import Answer, is_expected, problem, problem_of, reason_of
from container_image_proxy.faces.http.representation import OCTETS, blob_answer, document_answer
from container_image_proxy.faces.http.request import ClientRequest, choose_image
from container_image_proxy.faces.http.router import MethodNotAllowedError, Route, find_route

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import ModuleType
    from wsgiref.types import StartResponse, WSGIEnvironment

    from container_image_proxy.core.serving import Serving
    from container_image_proxy.core.snapshots import Snapshot
    from container_image_proxy.core.verified_part import PartOfBlob
    from container_image_proxy.core.verified_stream import VerifiedBlob

# What a header value may hold as it is; a comma separates values, everything else is percent-encoded.
_HEADER_SAFE: Final = "/:@!$&'()*+;=~._-[]"
_LOCAL_HOST: Final = re.compile(r"(?i:127\.0\.0\.1|\[::1\]|localhost)(?::[0-9]+)?")
_log = logging.getLogger(__name__)


class Application:
    """The application. Thread-safe.

    ``serving`` returns the configuration in force, or raises the reason why there is none. ``stop`` ends a daemon that
    runs stand-alone, which only root and the uid ``owner`` may ask for; without it there is no ``/quit``.
    """

    def __init__(
        self, serving: Callable[[], Serving], *, stop: Callable[[], None] | None = None, owner: int = 0
    ) -> None:
        self._serving = serving
        self._stop = stop
        self._owner = owner
        self._large = LargeAnswers()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes | memoryview]:
        """Answer one request."""
        request = ClientRequest.of(environ)
        answer, body = self._answer(request)
        start_response(f"{answer.status.value} {answer.status.phrase}", list(answer.headers))
        if isinstance(body, bytes):
            return [body]
        if isinstance(body, HeldBody):
            return body
        return body if environ.get(TAKES_VIEWS) else _as_bytes(body)

    def _answer(self, request: ClientRequest) -> tuple[Answer, bytes | HeldBody | VerifiedBlob | PartOfBlob]:
        """The answer, and its body as it is sent. Never raises: every error has an answer."""
        distribution = _distribution_for(request.path)
        try:
            _refuse_web_pages(request)
            if request.path == "/quit" and self._stop is not None:
                answer = self._quit(request, self._stop)
                return answer, self._body(request, answer)
            serving = self._serving()
            find = _find_route if distribution is None else distribution.find_route
            handler, values = find(request.method, request.path)
            answer = handler(request, serving, **values)
            return answer, self._body(request, answer)
        except MethodNotAllowedError as error:
            allow = (("Allow", ", ".join(error.allowed)),)
            told = problem(HTTPStatus.METHOD_NOT_ALLOWED, "UNSUPPORTED", str(error), headers=allow)
        except Exception as error:  # noqa: BLE001 - a defect has an answer, too
            if not is_expected(error):
                _log.exception("a request failed for a reason that should not exist")
            request.log["ERROR"] = reason_of(error)
            told = problem_of(error)
        told = told if distribution is None else distribution.retell(told)
        return told, self._body(request, told)

    def _body(self, request: ClientRequest, answer: Answer) -> bytes | HeldBody | VerifiedBlob | PartOfBlob:
        """The body as it is sent: nothing for HEAD, a blob opened, a large document if there is room for it."""
        if request.method == "HEAD":  # handlers answer it as GET
            return b""
        if isinstance(answer.body, bytes):
            return self._large.hold(answer.body)
        return answer.body() if callable(answer.body) else answer.body

    def _quit(self, request: ClientRequest, stop: Callable[[], None]) -> Answer:
        """``POST /quit``: finish running requests, then end."""
        if request.method != "POST":
            raise MethodNotAllowedError(request.method, request.path, ("POST",))
        if request.peer.uid not in (0, self._owner):
            raise PeerDeniedError("only root and the user whom the daemon runs as may stop it")
        stop()
        return Answer(HTTPStatus.OK, (("Content-Type", "text/plain"), ("Content-Length", "0")), b"")


# --- handlers ---------------------------------------------------------------------------------------------------------


def list_images(request: ClientRequest, serving: Serving) -> Answer:
    """``GET /images``: the images that the peer may have, as JSON."""
    images = [
        {
            "name": name,
            # A path need not be UTF-8, and JSON must be.
            "reference": str(image.reference).encode(errors="surrogateescape").decode(errors="replace"),
            "platform": str(image.platform),
            "default": name == serving.default,
        }
        for name, image in serving.images.items()
        if serving.permits(request.peer, name)
    ]
    return document_answer(request, json.dumps(images, indent=2).encode() + b"\n", "application/json")


def get_manifest(request: ClientRequest, serving: Serving, name: str | None = None) -> Answer:
    """``GET /manifest``: the manifest in OCI form, resolved anew unless it is fresh."""
    chosen = choose_image(request, serving, name)
    snapshot = serving.proxy.resolve(request.context, chosen, request.platform())
    headers = (*_image_headers(request, serving, snapshot), ("ETag", f'"{snapshot.manifest_digest}"'))
    if signers := snapshot.verified.receipt.signed_by:  # nobody, if the policy asks for no signature
        headers += (("Signed-By", ", ".join(quote(signer, safe=_HEADER_SAFE + " ") for signer in signers)),)
    manifest = snapshot.manifest
    return document_answer(request, manifest.raw, manifest.media_type, headers, digest=manifest.digest)


def get_config(request: ClientRequest, serving: Serving, name: str | None = None) -> Answer:
    """``GET /config``: the image configuration, byte for byte. It is verified as all of the image's blobs are."""
    chosen = choose_image(request, serving, name)
    snapshot = serving.proxy.current(request.context, chosen, request.platform())
    config = snapshot.manifest.config
    headers = _image_headers(request, serving, snapshot)
    return blob_answer(request, serving, snapshot, config, (*headers, ("Content-Type", config.media_type)))


def get_verification(request: ClientRequest, serving: Serving, name: str | None = None) -> Answer:
    """``GET /verification``: why the image may be served: the receipt of the decision, as JSON."""
    chosen = choose_image(request, serving, name)
    snapshot = serving.proxy.current(request.context, chosen, request.platform())
    body = json.dumps(snapshot.verified.receipt.as_json(), indent=2).encode() + b"\n"
    return document_answer(request, body, "application/json", _image_headers(request, serving, snapshot))


def get_blob(request: ClientRequest, serving: Serving, digest: str, name: str | None = None) -> Answer:
    """``GET /blobs/DIGEST``: one of the image's own blobs.

    A small one is verified before the status line leaves, a large one while it is sent (contrib/adr/0004).
    """
    chosen = choose_image(request, serving, name)
    snapshot, descriptor = serving.proxy.find_blob(request.context, chosen, request.platform(), digest)
    request.log["DIGEST"] = str(descriptor.digest)
    headers = _image_headers(request, serving, snapshot)
    return blob_answer(request, serving, snapshot, descriptor, (*headers, ("Content-Type", OCTETS)))


ROUTES: Final[tuple[Route[Callable[..., Answer]], ...]] = (
    Route("GET", "/manifest", get_manifest),
    Route("GET", "/config", get_config),
    Route("GET", "/blobs/{digest...}", get_blob),
    Route("GET", "/verification", get_verification),
    Route("GET", "/images", list_images),
    Route("GET", "/images/{name}/manifest", get_manifest),
    Route("GET", "/images/{name}/config", get_config),
    Route("GET", "/images/{name}/blobs/{digest...}", get_blob),
    Route("GET", "/images/{name}/verification", get_verification),
)


def _find_route(method: str, path: str) -> tuple[Callable[..., Answer], dict[str, str]]:
    return find_route(ROUTES, method, path)


def _distribution_for(path: str) -> ModuleType | None:
    """The module of ``/v2/`` if the path is one of its own; None otherwise."""
    if path != "/v2" and not path.startswith("/v2/"):
        return None
    from container_image_proxy.faces.http import distribution  # noqa: PLC0415 - few pull as from a registry

    return distribution


def _as_bytes(blob: VerifiedBlob | PartOfBlob) -> Iterator[bytes]:
    """The pieces copied into bytes, for another server than ours: PEP 3333 knows no views."""
    with closing(blob):
        yield from map(bytes, blob)


# --- what they share --------------------------------------------------------------------------------------------------


def _refuse_web_pages(request: ClientRequest) -> None:
    """Raise :class:`PeerDeniedError` for a request over TCP that names another host than this one.

    A web page in a browser can reach 127.0.0.1 under a host name of its own (DNS rebinding), and read the answer.
    """
    if request.peer.over_tcp and not _LOCAL_HOST.fullmatch(request.host):
        raise PeerDeniedError("over TCP only requests for 127.0.0.1, [::1] or localhost are answered")


def _image_headers(request: ClientRequest, serving: Serving, snapshot: Snapshot) -> tuple[tuple[str, str], ...]:
    """The headers by which every answer names its image, which are logged as well."""
    reference = str(serving.images[snapshot.name].reference)
    request.log["REFERENCE"] = reference
    request.log.setdefault("DIGEST", str(snapshot.manifest_digest))
    index = (("Index-Digest", str(snapshot.index_digest)),) if snapshot.index_digest else ()
    return (
        ("Image-Reference", _header_text(reference)),
        ("Manifest-Digest", str(snapshot.manifest_digest)),
        *index,
    )


@functools.lru_cache(maxsize=64)
def _header_text(reference: str) -> str:
    return quote(reference, safe=_HEADER_SAFE, errors="surrogateescape")
