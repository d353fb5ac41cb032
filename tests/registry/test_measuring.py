"""How large a blob is, asked of a registry that says so in one of the ways that there are."""

from __future__ import annotations

import pytest

from container_image_proxy.errors import RegistryError, UnknownBlobError
from container_image_proxy.image.digest import digest_of
from container_image_proxy.image.reference import parse_reference
from tests.support.contexts import CONTEXT
from tests.support.registry_client import FakeClock, registry_client
from tests.support.upstream import Handler, Upstream, answering, sending

DIGEST = digest_of(b"layer")


def measure(handler: Handler) -> tuple[int, str]:
    """The size, and the range that was asked for."""
    with Upstream(handler) as upstream, registry_client(clock=FakeClock()) as client:
        size = client.measure_blob(CONTEXT, parse_reference(f"{upstream.authority}/some/image:1"), DIGEST)
        (request,) = [one for one in upstream.requests if f"/blobs/{DIGEST}" in one.path]
        return size, request.headers["range"]


@pytest.mark.parametrize(
    "handler",
    [
        answering(206, b"l", {"Content-Range": "bytes 0-0/12345"}),
        answering(200, b"x" * 12345),
    ],
    ids=["part", "whole"],
)
def test_the_size_is_read_of_one_byte_or_of_the_whole_answers_head(handler: Handler) -> None:
    assert measure(handler) == (12345, "bytes=0-0")


@pytest.mark.parametrize(
    "handler",
    [
        answering(206, b"l", {"Content-Range": "bytes 0-0/*"}),
        answering(206, b"l", {"Content-Range": "nonsense"}),
        answering(206, b"l"),
        sending(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nlayer\r\n0\r\n\r\n"),
    ],
    ids=["unknown", "nonsense", "missing", "chunked"],
)
def test_a_registry_that_does_not_say_it_is_told(handler: Handler) -> None:
    with pytest.raises(RegistryError):
        measure(handler)


def test_a_blob_that_is_not_there_is_none() -> None:
    with pytest.raises(UnknownBlobError):
        measure(answering(404, b""))
