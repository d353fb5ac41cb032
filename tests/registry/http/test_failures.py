"""From statuses and exceptions to errors."""

from __future__ import annotations

import errno
import json
import os
import socket
import ssl

import pytest
import urllib3.exceptions

from container_image_proxy.errors import (
    ConfigurationError,
    RateLimitedError,
    RegistryAuthError,
    RegistryError,
    RegistryUnavailableError,
    UpstreamError,
    UpstreamTimeoutError,
)
from container_image_proxy.registry.http.failures import (
    ConnectionLostError,
    TlsRefusedError,
    error_for_exception,
    error_for_status,
    own_error,
    parse_error_codes,
)
from tests.support.senders import request_for

MANIFEST = request_for("https://r.example/v2/some/os/manifests/1")


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (400, RegistryError, False),
        (401, RegistryAuthError, False),
        (403, RegistryAuthError, False),
        (408, UpstreamTimeoutError, True),
        (418, RegistryError, False),
        (429, RateLimitedError, True),
        (500, RegistryUnavailableError, True),
        (501, RegistryError, False),
        (503, RegistryUnavailableError, True),
        (504, UpstreamTimeoutError, True),
        (333, RegistryError, False),
    ],
)
def test_every_status_has_its_class(status: int, kind: type[UpstreamError], *, retryable: bool) -> None:
    error = error_for_status(MANIFEST, status, retry_after=7.0)
    assert type(error) is kind
    assert (error.upstream_status, error.phase, error.endpoint) == (status, "manifest", "r.example")
    assert error.retryable is retryable
    assert error.retry_after == (7.0 if retryable else None)


def test_a_rate_limit_may_come_under_another_status() -> None:
    assert isinstance(error_for_status(MANIFEST, 403, ("TOOMANYREQUESTS",)), RateLimitedError)


def test_only_known_codes_get_into_a_message() -> None:
    document = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "<secret>"}, {"code": "Own-Code"}, {"code": 7}]}
    codes = parse_error_codes(json.dumps(document).encode())
    assert codes == ("MANIFEST_UNKNOWN",)
    assert "(MANIFEST_UNKNOWN)" in str(error_for_status(MANIFEST, 404, codes))


@pytest.mark.parametrize(
    "body",
    [
        b'{"errors":[{"code":"TOOMANYREQUESTS"}]}',
        b'{"errors":[{"code":"toomanyrequests","message":"x"}]}',
        b'{"errors":{"code":"TOOMANYREQUESTS"}}',
        b'{"code":"TOOMANYREQUESTS"}',
        b" toomanyrequests: Rate exceeded",
        b'{"errors":[{"code":"TOOMANYREQUESTS","message":"d\xe9pass\xe9"}]}',
        b'\xef\xbb\xbf{"errors":[{"code":"TOOMANYREQUESTS"}]}',
    ],
)
def test_forms_of_a_rate_limit(body: bytes) -> None:
    codes = parse_error_codes(body)
    assert isinstance(error_for_status(MANIFEST, 403, codes), RateLimitedError)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"errors":7}', b'{"errors":[7]}', b"[" * 100_000, b"\xff"]
)
def test_a_body_that_is_no_error_document_has_no_codes(body: bytes) -> None:
    assert parse_error_codes(body) == ()


def wrapped(cause: Exception) -> Exception:
    return urllib3.exceptions.ProtocolError("broken", cause)


@pytest.mark.parametrize(
    ("cause", "kind", "retryable"),
    [
        (ConnectionResetError(errno.ECONNRESET, "reset"), ConnectionLostError, True),
        (TimeoutError("timed out"), UpstreamTimeoutError, True),
        (ssl.SSLCertVerificationError(1, "secret detail"), TlsRefusedError, False),
        (ssl.SSLError(1, "secret detail"), ConnectionLostError, True),
        (ssl.SSLEOFError(8, "secret detail"), ConnectionLostError, True),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), RegistryUnavailableError, True),
        (urllib3.exceptions.ProxyError("secret detail", OSError("407")), RegistryUnavailableError, True),
    ],
)
def test_the_cause_of_an_exception_decides(cause: Exception, kind: type[UpstreamError], *, retryable: bool) -> None:
    if isinstance(cause, ssl.SSLCertVerificationError):
        cause.verify_message = "certificate has expired"
    error = error_for_exception(MANIFEST, wrapped(cause))
    assert type(error) is kind
    assert error.retryable is retryable
    assert str(error).startswith("r.example: ")
    assert "secret" not in str(error)


def test_a_ring_of_causes_ends() -> None:
    one, other = OSError("one"), OSError("other")
    one.__context__, other.__context__ = other, one
    assert isinstance(error_for_exception(MANIFEST, one), ConnectionLostError)


@pytest.mark.demand("fd-exhaustion")
@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
def test_no_more_files_for_whatever_it_be_is_a_failure_that_passes(code: int) -> None:
    unreadable = ConfigurationError("auth.json", "cannot be read")
    unreadable.__cause__ = OSError(code, os.strerror(code))
    error = own_error(unreadable, "r.e")
    assert str(error).startswith("r.e cannot be asked: this host has no more files")
    assert isinstance(error, RegistryUnavailableError)
    assert error.retryable


def test_our_own_error_pass_as_they_are() -> None:
    error = ConfigurationError("auth.json", "is no JSON")
    assert own_error(error, "r.example") is error
