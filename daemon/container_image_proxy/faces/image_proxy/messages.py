"""The messages of the protocol: from bytes to requests, and from answers to bytes. Pure.

A request is ``{"method": name, "args": [...]}``, an answer ``{"success", "value", "pipeid", "error_code", "error"}``.
Each is one packet. As in skopeo, the case of member names does not matter, unknown members are ignored, and the last of
equal members counts. Must not know what a method does.
Spec: skopeo-experimental-image-proxy(1) and the code behind it, protocol 0.2.8.
"""

from __future__ import annotations

import json
from typing import Any, Final

from msgspec import Struct, field

from container_image_proxy import errors
from container_image_proxy.image.documents import convert, fold_keys
from container_image_proxy.image.strict_json import parse_json

PROTOCOL_VERSION: Final = "0.2.8"
MAX_MESSAGE: Final = 32 * 1024
"""Bytes of a request or an answer. Clients have the same limit."""
_MAX_INTEGER: Final = 2**53 - 1  # the largest that every reader of JSON has exactly (RFC 8259 section 6)
_LONGEST_ERROR: Final = 2000  # characters; escaped they still fit into a message


class InvalidRequestError(errors.InvalidInputError):
    """A message that is no request, or a request with arguments that its method does not take."""


class ReaderGoneError(errors.Error):
    """The client closed its end of a pipe before it had everything."""


class ReaderStalledError(errors.Error):
    """The client did not read its pipe within its time."""


class Call(Struct, frozen=True):
    """A request: the method's name, and its arguments as JSON values."""

    method: str = ""
    arguments: tuple[Any, ...] = field(name="args", default=())


def parse_request(message: bytes) -> Call:
    """Read a message. Raises :class:`InvalidRequestError` if it is no request."""
    if len(message) > MAX_MESSAGE:
        raise InvalidRequestError(f"the request is larger than {MAX_MESSAGE} bytes")
    try:
        return convert(fold_keys(parse_json(message, "the message"), Call), Call)
    except errors.MalformedDocumentError as error:
        raise InvalidRequestError(f"the request is malformed: {error}") from error


def read_integer(value: object, what: str) -> int:
    """An argument that is a whole number from 0 to 2**53 - 1. Raises :class:`InvalidRequestError`, which names it
    ``what``.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON has one kind of number: 1.0 is 1
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidRequestError(f"{what} is not a whole number")
    if not 0 <= value <= _MAX_INTEGER:
        raise InvalidRequestError(f"{what} is out of range")
    return value


def read_text(value: object, what: str) -> str:
    """An argument that is text. Raises :class:`InvalidRequestError`, which names it ``what``."""
    if not isinstance(value, str):
        raise InvalidRequestError(f"{what} is not text")
    return value


def success(value: object = None, pipe: int = 0) -> bytes:
    """The answer to a request that succeeded; ``pipe`` is the number of its first pipe, 0 if there is none to finish.

    Raises :class:`InvalidRequestError` if it does not fit into a message.
    """
    answer = _encode({"success": True, "value": value, "pipeid": pipe, "error_code": "", "error": ""})
    if len(answer) > MAX_MESSAGE:
        raise InvalidRequestError(
            f"the answer is larger than {MAX_MESSAGE} bytes: use the method that sends it by a pipe"
        )
    return answer


def failure(error: BaseException) -> bytes:
    """The answer to a request that failed."""
    code, text = error_code(error), error_text(error)
    return _encode({"success": False, "value": None, "pipeid": 0, "error_code": code, "error": text})


def error_record(error: BaseException) -> bytes:
    """The content of the second pipe of ``GetRawBlob`` for a transfer that failed."""
    return _encode({"code": error_code(error), "message": error_text(error)})


def error_code(error: BaseException) -> str:
    """The protocol's code for an error: "EPIPE" if the client closed its pipe, "retryable" if it may pass, "other"."""
    if isinstance(error, ReaderGoneError):
        return "EPIPE"
    if isinstance(error, errors.OverloadedError) or getattr(error, "retryable", False):
        return "retryable"
    # A client that the server turned away may come back, if the server says when.
    return "other" if getattr(error, "retry_after", None) is None else "retryable"


def error_text(error: BaseException) -> str:
    """Why a request failed. The text of a foreign exception is only in the log."""
    return str(error)[:_LONGEST_ERROR] if isinstance(error, errors.Error) else "a defect; the log says more"


def _encode(members: dict[str, object]) -> bytes:
    return json.dumps(members, separators=(",", ":")).encode("ascii")
