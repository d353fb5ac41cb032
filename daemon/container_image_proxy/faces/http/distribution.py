"""The images as a read-only registry under ``/v2/``, for the tools of this host that pull (contrib/adr/0033).

A repository is an image, under its name in the instance. The default image is one under its repository path, too.
Errors are in the specification's own format, from the same table as all others.
Must not decide which documents an image has, which ``core/distribution.py`` does. Spec: OCI distribution-spec 1.1.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, quote

from container_image_proxy.config.instances import is_image_name
from container_image_proxy.core.distribution import tag_of
from container_image_proxy.errors import InvalidInputError, InvalidQueryError, UnknownImageError, shown
from container_image_proxy.faces.http import router
from container_image_proxy.faces.http.problem import Answer
from container_image_proxy.faces.http.representation import OCTETS, blob_answer, document_answer
from container_image_proxy.faces.http.request import choose_image
from container_image_proxy.faces.http.router import MethodNotAllowedError, Route
from container_image_proxy.image.digest import parse_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from container_image_proxy.core.distribution import Document
    from container_image_proxy.core.serving import Serving
    from container_image_proxy.faces.http.request import ClientRequest

ROOT: Final = "/v2"
_JSON: Final = "application/json"
_VERSION: Final = ("Docker-Distribution-API-Version", "registry/2.0")
_OWN_CODES: Final = {"POLICY_REJECTED": "DENIED", "NOT_FOUND": "NAME_UNKNOWN", "QUERY_INVALID": "UNSUPPORTED"}
"""Our codes for which the specification has another one."""
_READING: Final = ("GET", "HEAD")
_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_FROM_PROBLEM: Final = frozenset({"type", "title", "status", "detail", "code"})


def get_root(request: ClientRequest, serving: Serving) -> Answer:  # noqa: ARG001 - a handler's
    """``GET /v2/``: 200 says that the API is spoken here, and that no login is wanted."""
    return document_answer(request, b"{}", _JSON, (_VERSION,))


def list_repositories(request: ClientRequest, serving: Serving) -> Answer:
    """``GET /v2/_catalog``: the images that the peer may have."""
    names = sorted(name for name in serving.images if serving.permits(request.peer, name))
    return _listing(request, "repositories", names, {}, f"{ROOT}/_catalog")


def list_tags(request: ClientRequest, serving: Serving, name: str) -> Answer:
    """``GET /v2/NAME/tags/list``: the one tag that the image has."""
    chosen = _choose(request, serving, name)
    tags = [tag_of(serving.images[chosen])]
    return _listing(request, "tags", tags, {"name": name}, f"{ROOT}/{quote(name)}/tags/list")


def get_manifest(request: ClientRequest, serving: Serving, name: str, reference: str) -> Answer:
    """``GET /v2/NAME/manifests/TAG`` or ``DIGEST``: a manifest or index, byte for byte."""
    chosen = _choose(request, serving, name)
    find = serving.distribution()
    by_digest = ":" in reference  # a tag has no colon
    document = (
        find.find_manifest(request.context, chosen, parse_digest(reference))
        if by_digest
        else find.find_tagged(request.context, chosen, reference)
    )
    return _document(request, serving, document)


def get_blob(request: ClientRequest, serving: Serving, name: str, digest: str) -> Answer:
    """``GET /v2/NAME/blobs/DIGEST``: a blob, or a part of it, verified while it flows."""
    chosen = _choose(request, serving, name)
    snapshot, descriptor = serving.distribution().find_blob(request.context, chosen, parse_digest(digest))
    request.log["DIGEST"] = str(descriptor.digest)
    headers = (_VERSION, ("Docker-Content-Digest", str(descriptor.digest)), ("Content-Type", OCTETS))
    return blob_answer(request, serving, snapshot, descriptor, headers)


def list_referrers(request: ClientRequest, serving: Serving, name: str, digest: str) -> Answer:
    """``GET /v2/NAME/referrers/DIGEST``: an index of the manifests that say that they are about that one."""
    chosen = _choose(request, serving, name)
    artifact_type = _query(request).get("artifactType", "")
    document = serving.distribution().list_referrers(request.context, chosen, parse_digest(digest), artifact_type)
    applied = (("OCI-Filters-Applied", "artifactType"),) if artifact_type else ()
    return document_answer(request, document.raw, document.media_type, (_VERSION, *applied), digest=document.digest)


ROUTES: Final[tuple[Route[Callable[..., Answer]], ...]] = (
    Route("GET", ROOT, get_root),
    Route("GET", f"{ROOT}/", get_root),
    Route("GET", f"{ROOT}/_catalog", list_repositories),
    Route("GET", f"{ROOT}/{{name...}}/tags/list", list_tags),
    Route("GET", f"{ROOT}/{{name...}}/manifests/{{reference}}", get_manifest),
    Route("GET", f"{ROOT}/{{name...}}/blobs/{{digest}}", get_blob),
    Route("GET", f"{ROOT}/{{name...}}/referrers/{{digest}}", list_referrers),
)


def find_route(method: str, path: str) -> tuple[Callable[..., Answer], dict[str, str]]:
    """The handler, and the values of its pattern. Who wants to push learns by the status that nobody can, not that the
    repository is unknown.
    """
    if method not in _READING:
        raise MethodNotAllowedError(method[:20], path[:200], _READING)
    return router.find_route(ROUTES, method, path)


def retell(answer: Answer) -> Answer:
    """A problem document in the specification's own format ("Error Codes"). All other headers stay."""
    problem: dict[str, Any] = json.loads(answer.body if isinstance(answer.body, bytes) else b"{}")
    code = problem["code"]
    error = {
        "code": _OWN_CODES.get(code, code),
        "message": problem["detail"],
        "detail": {name: value for name, value in problem.items() if name not in _FROM_PROBLEM},
    }
    body = json.dumps({"errors": [error]}).encode()
    described = (("Content-Type", _JSON), ("Content-Length", str(len(body))), _VERSION)
    kept = (pair for pair in answer.headers if pair[0] not in {"Content-Type", "Content-Length"})
    return Answer(answer.status, (*described, *kept), body)


# --- what they share --------------------------------------------------------------------------------------------------


def _choose(request: ClientRequest, serving: Serving, name: str) -> str:
    """The image that a repository's name means. Raises as :func:`choose_image`."""
    if name in serving.images:
        return choose_image(request, serving, name)
    default = serving.images[serving.default].reference.docker_reference if serving.default else None
    if default is not None and name == default.path:
        return choose_image(request, serving, serving.default)
    if not name or not all(map(is_image_name, name.split("/"))):
        raise InvalidInputError(f"{shown(name)} cannot be the name of a repository")
    raise UnknownImageError(f"there is no repository {shown(name)}; {ROOT}/_catalog lists those that there are")


def _document(request: ClientRequest, serving: Serving, document: Document) -> Answer:
    request.log["REFERENCE"] = str(serving.images[document.snapshot.name].reference)
    request.log["DIGEST"] = str(document.digest)
    headers = (_VERSION, ("Docker-Content-Digest", str(document.digest)), ("ETag", f'"{document.digest}"'))
    return document_answer(request, document.raw, document.media_type, headers, digest=document.digest)


def _listing(request: ClientRequest, key: str, values: list[str], members: dict[str, Any], path: str) -> Answer:
    """A list, or the page of it that ``n`` and ``last`` ask for, with a link to the next page ("Listing Tags")."""
    query = _query(request)
    values = [value for value in values if value > query.get("last", "")]
    wanted, link = query.get("n"), list[tuple[str, str]]()
    if wanted is not None:
        if not _NUMBER.fullmatch(wanted):
            raise InvalidQueryError("n is not a number")
        page = values[: int(wanted)]
        if page and len(page) < len(values):
            link.append(("Link", f'<{path}?n={wanted}&last={quote(page[-1])}>; rel="next"'))
        values = page
    body = json.dumps(members | {key: values}).encode()
    return document_answer(request, body, _JSON, (_VERSION, *link))


def _query(request: ClientRequest) -> dict[str, str]:
    """The parameters by name, the first of equal ones. Unknown ones are ignored, because some clients add their own."""
    try:
        parameters = parse_qs(request.query, keep_blank_values=True, max_num_fields=16)
    except ValueError as error:
        raise InvalidQueryError("the query has too many parameters") from error
    return {name: values[0] for name, values in parameters.items()}
