"""Scripted senders, over which each layer of the way to a registry is tested, and the answers that they give."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from urllib3 import HTTPHeaderDict, HTTPResponse

from container_image_proxy.concurrency.context import Context
from container_image_proxy.config.limits import Limits
from container_image_proxy.errors import Error
from container_image_proxy.registry.endpoints import Endpoint
from container_image_proxy.registry.http.reply import Reply
from container_image_proxy.registry.http.request import Request
from container_image_proxy.registry.http.response import FramedResponse
from container_image_proxy.registry.http.sockets import PunctualSocket
from container_image_proxy.registry.http.target import parse_target
from tests.support.contexts import CONTEXT

REGISTRY = Endpoint(domain="registry.example")
Answer = tuple[int, Mapping[str, str], bytes] | Error


def request_for(url: str, endpoint: Endpoint = REGISTRY, **fields: Any) -> Request:
    """A request of a manifest."""
    return Request(target=parse_target(url), endpoint=endpoint, phase="manifest", **fields)


def answer(status: int = 200, body: bytes = b"", **headers: str) -> Answer:
    """An answer; ``www_authenticate=`` is its ``Www-Authenticate``."""
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, body


class ScriptedSender:
    """Answers each request as ``script`` says, and remembers it with the context it was sent under."""

    def __init__(self, script: Callable[[Request], Answer]) -> None:
        self._script = script
        self.sent: list[Request] = []
        self.contexts: list[Context] = []
        self.replies: list[Reply] = []

    @property
    def urls(self) -> list[str]:
        """What was asked for."""
        return [request.target.url for request in self.sent]

    def send(self, request: Request, context: Context) -> Reply:
        """See ``Sender``."""
        self.sent.append(request)
        self.contexts.append(context)
        answer = self._script(request)
        if isinstance(answer, Error):
            raise answer
        self.replies.append(_reply(request, *answer))
        return self.replies[-1]


@contextmanager
def scripted(*answers: Answer) -> Iterator[ScriptedSender]:
    """A sender that gives these answers in their order. All that were given must be used up and closed at the end."""
    waiting = list(answers)
    sender = ScriptedSender(lambda _: waiting.pop(0))
    yield sender
    assert not waiting
    assert all(reply._framed.isclosed() for reply in sender.replies)


def _reply(request: Request, status: int, headers: Mapping[str, str], body: bytes) -> Reply:
    """A reply as it comes from a socket."""
    lines = [f"HTTP/1.1 {status} Some Reason", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    ours, theirs = socket.socketpair()
    with theirs, PunctualSocket(fileno=ours.detach()) as receiving:
        theirs.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        receiving.wait_under(CONTEXT, idle=60)
        framed = FramedResponse(receiving)
        framed.socket = receiving
        framed.begin()
    raw = HTTPResponse(
        framed,  # type: ignore[arg-type]  # as urllib3's connection does it
        headers=HTTPHeaderDict(framed.headers.items()),
        status=status,
        preload_content=False,
        decode_content=False,
        original_response=framed,
        request_method="GET",
    )
    return Reply(raw, framed, request, Limits())
