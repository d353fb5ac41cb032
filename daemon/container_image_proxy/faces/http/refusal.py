"""Answers that the server gives itself, before or instead of the application."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from container_image_proxy.faces.http.problem import problem
from container_image_proxy.faces.http.response_head import response_head, serialise

if TYPE_CHECKING:
    from container_image_proxy.faces.http.request_head import RefusedRequestError

_RETRYABLE: Final = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.SERVICE_UNAVAILABLE}


def refusal(error: RefusedRequestError, *, head_only: bool = False) -> tuple[bytes, bytes]:
    """Head and body of an answer with a problem document, after which the connection closes. The body is empty for
    ``head_only``.
    """
    status = error.status
    headers = () if error.retry_after is None else (("Retry-After", str(error.retry_after)),)
    members = {"retryable": status in _RETRYABLE}
    answer = problem(status, error.code, str(error), members=members, headers=headers)
    head = response_head(f"{status:d} {status.phrase}", answer.headers, last=True)
    return serialise(head), b"" if head_only or not isinstance(answer.body, bytes) else answer.body
