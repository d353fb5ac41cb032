"""An answer and its connection, which is somebody else's as soon as the body has come to its end."""

from __future__ import annotations

from container_image_proxy.concurrency.cancellation import Cancellation
from container_image_proxy.concurrency.context import Context
from tests.support.contexts import CONTEXT
from tests.support.senders import answer, request_for, scripted

URL = "https://registry.example/v2/some/os/manifests/1"
OTHERS = Context(Cancellation())


def test_a_body_that_has_ended_waits_for_nothing_on_its_connection() -> None:
    with scripted(answer(200, b"all")) as sender:
        reply = sender.send(request_for(URL), CONTEXT)
        body, buffer = reply.body(CONTEXT), memoryview(bytearray(10))
        assert body.readinto(buffer) == 3
        others = reply._framed.socket.wait_under(OTHERS, idle=1)
        assert body.readinto(buffer) == 0
        assert reply.read(CONTEXT, 10) == b""
        assert reply._framed.socket.wait is others


def test_the_error_that_an_answer_stands_for_names_its_request_and_who_answered() -> None:
    with scripted(answer(503)) as sender:
        error = sender.send(request_for(URL), CONTEXT).error(CONTEXT)
    assert (error.phase, error.endpoint, error.upstream_status) == ("manifest", "registry.example", 503)
