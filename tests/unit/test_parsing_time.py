"""What upstream or a client sends is read in a time that grows with its length, and no faster."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from container_image_proxy.errors import Error
from container_image_proxy.image.descriptor import parse_descriptor
from container_image_proxy.image.digest import parse_digest
from container_image_proxy.image.platform import parse_platform
from container_image_proxy.image.reference import parse_reference
from container_image_proxy.policy.pem import parse_pem
from container_image_proxy.registry.auth.challenge import parse_challenges
from container_image_proxy.registry.http.headers import (
    parse_content_range,
    parse_media_type,
    parse_next_link,
    parse_retry_after,
    parse_warning,
)
from container_image_proxy.registry.http.response import FramingError, parse_content_length, parse_head
from container_image_proxy.registry.http.target import parse_target
from container_image_proxy.transports.layout import check_image_name

_LENGTH = 64 * 1024  # a head may have sixteen times as much, which a quadratic reader would take 256 times as long for
_HEX = "0123456789abcdef" * 2


def _describe(text: str) -> object:
    return parse_descriptor({"mediaType": text, "digest": text, "size": 1, "urls": [text]}, ("it",))


def _parse_head(text: str) -> object:
    return parse_head(text.encode("latin-1").splitlines(keepends=True) or [b""])


def _pumped(specimen: str) -> Iterator[str]:
    """The specimen with something repeated at each of its places, whole, cut off there, and with a wrong end."""
    for place in range(len(specimen) + 1):
        before, after = specimen[:place], specimen[place:]
        for pump in {" ", "\\a", before[-1:], before[-2:], before} - {""}:
            for rest in (after, "", "\0"):
                yield before + pump * (_LENGTH // len(pump)) + rest


PEM_BLOCK = "-----BEGIN A-----\nMII=\n-----END A-----\n"


@pytest.mark.timeout(60)  # the quadratic way takes minutes
@pytest.mark.parametrize(
    "text",
    [
        pytest.param(PEM_BLOCK * 100_000, id="blocks"),
        pytest.param("-----BEGIN A-----\n" * 200_000, id="beginnings"),
        pytest.param("-----BEGIN A-----\n" + "AAAA" * 1_000_000, id="one-beginning"),
        pytest.param(PEM_BLOCK + "-" * 4_000_000, id="dashes"),
        pytest.param(PEM_BLOCK + " " * 4_000_000 + PEM_BLOCK, id="blanks"),
        pytest.param(PEM_BLOCK + "A" * 4_000_000, id="a-long-explanation"),
    ],
)
def test_megabytes_of_pem_are_read_in_no_time(text: str) -> None:
    with contextlib.suppress(Error):
        parse_pem(text.encode(), "it")


@pytest.mark.timeout(60)  # all shapes together take a second; a single quadratic one takes 15, and there are many
@pytest.mark.parametrize(
    ("parse", "specimen"),
    [
        pytest.param(parse_media_type, 'a/b; c=d ;e="f" ; ', id="media-type"),
        pytest.param(lambda text: parse_challenges([text]), ' Bearer realm="x" ,b=c , d', id="challenge"),
        pytest.param(parse_warning, '299 - "a"', id="warning"),
        pytest.param(parse_next_link, '<a>; rel="next" ;c=d, <b>', id="link"),
        pytest.param(parse_content_range, "bytes 1-2/3", id="content-range"),
        pytest.param(partial(parse_retry_after, now=0), " 12 ", id="retry-after"),
        pytest.param(partial(parse_retry_after, now=0), "Mon, 2 Jan 2006 15:04:05 GMT", id="retry-after-date"),
        pytest.param(_parse_head, "HTTP/1.1 200  OK\r\nA-b: c \r\n d\r\n", id="head"),
        pytest.param(lambda text: parse_content_length([text]), "1, 1 ,1", id="content-length"),
        pytest.param(parse_target, "https://u@[::1]:8/a/../b?c#d", id="url"),
        pytest.param(parse_digest, f"sha256:{_HEX}", id="digest"),
        pytest.param(parse_platform, "linux/arm64/v8", id="platform"),
        pytest.param(parse_reference, f"a-b.c:80/d--e/f__g:h@sha256:{_HEX}", id="reference"),
        pytest.param(check_image_name, "a-b--c/d+e@f", id="image-name"),
        pytest.param(_describe, "a.b/c+d", id="descriptor"),
    ],
)
def test_no_input_takes_more_time_than_its_length_explains(parse: Callable[[str], object], specimen: str) -> None:
    for text in _pumped(specimen):
        with contextlib.suppress(Error, FramingError):
            parse(text)
