"""What this package relies on in urllib3, requests, http.client and ssl beyond their documentation.

A failure here means that a new version works in another way inside: its message says what to look at.
"""

from __future__ import annotations

import http.client
import inspect
import io
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator

import pytest
import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.response import HTTPResponse

from container_image_proxy.registry.http.pools import Adapter, PlainConnection, RoundTrip
from container_image_proxy.registry.http.response import FramedResponse
from tests.support.contexts import CONTEXT
from tests.support.upstream import Upstream, answering

HERE = "see registry/http/pools.py"


@pytest.fixture
def trip() -> RoundTrip:
    return RoundTrip(CONTEXT, idle=10.0, request_target="/as%2Fit%20is?x=%7e")


@pytest.fixture
def adapter() -> Iterator[Adapter]:
    adapter = Adapter(ssl.create_default_context(), 1)
    yield adapter
    adapter.close()


def send(adapter: Adapter, url: str, trip: RoundTrip) -> HTTPResponse:
    return adapter.ask(trip, "GET", url, {}, None, connect_seconds=10.0, proxy=None)


def test_requests_is_imported_without_its_detectors_of_encodings() -> None:
    code = (
        "import sys; import container_image_proxy.registry.http.pools as _;"
        "print(*(m for m in sys.modules if 'charset_normalizer' in m or 'chardet' in m));"
        "import charset_normalizer"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    seen = (done.returncode, done.stdout.split(), done.stderr)
    assert seen == (0, [], ""), f"requests {requests.__version__}: see registry/http/library.py"


def test_the_time_out_that_brings_the_exchange_along_arrives_at_the_connection(
    trip: RoundTrip, adapter: Adapter
) -> None:
    with Upstream(answering(200, b"x")) as upstream:
        send(adapter, upstream.url, trip).release_conn()
        seen = (trip.has_connected, trip.answer is not None)
        assert seen == (True, True), f"urllib3 {urllib3.__version__} does not hand time-outs on as they are: {HERE}"


def test_the_request_target_is_the_exchanges_byte_for_byte(trip: RoundTrip, adapter: Adapter) -> None:
    with Upstream(answering(200)) as upstream:
        send(adapter, upstream.url, trip).close()
        assert upstream.requests[0].target == trip.request_target, f"urllib3 asks for another target: {HERE}"


def test_a_connection_without_an_exchange_does_nothing() -> None:
    connection = PlainConnection("127.0.0.1", 1, timeout=1.0)
    with pytest.raises(TypeError, match="did not hand on"):
        connection.connect()


@pytest.mark.parametrize("kind", [HTTPConnection, HTTPSConnection])
def test_connections_open_their_sockets_by_the_method_that_is_replaced(
    kind: type[HTTPConnection], monkeypatch: pytest.MonkeyPatch
) -> None:
    class OpenedError(Exception):
        pass

    def opened(_: object) -> socket.socket:
        raise OpenedError

    monkeypatch.setattr(kind, "_new_conn", opened)
    try:
        kind("127.0.0.1", 1).connect()
    except OpenedError:
        return
    except OSError:
        pass
    pytest.fail(f"urllib3's {kind.__name__}.connect() opens its socket by itself, not by _new_conn(): {HERE}")


def test_a_connection_has_a_proxy_open_the_way_by_the_method_that_is_extended() -> None:
    source = inspect.getsource(HTTPConnection.connect) + inspect.getsource(HTTPSConnection.connect)
    assert source.count("self._tunnel()") == 2, f"urllib3's connections do not call _tunnel() any more: {HERE}"


def test_pools_make_the_connections_that_they_are_told_to() -> None:
    pool = HTTPConnectionPool("127.0.0.1", 1)
    assert pool.ConnectionCls is HTTPConnection, f"urllib3's pools know no ConnectionCls any more: {HERE}"
    manager = urllib3.PoolManager()
    assert set(manager.pool_classes_by_scheme) == {"http", "https"}, f"pool_classes_by_scheme has changed: {HERE}"


def test_a_pool_calls_the_method_that_would_warn_before_each_request() -> None:
    source = inspect.getsource(HTTPConnectionPool)
    assert "self._validate_conn(conn)" in source, f"urllib3's pools do not call _validate_conn() any more: {HERE}"
    source = inspect.getsource(HTTPSConnectionPool._validate_conn)
    assert "conn.connect()" in source, f"urllib3's _validate_conn() does not connect any more: {HERE}"
    assert "InsecureRequestWarning" in source, f"_validate_conn() warns no more, and may stay: {HERE}"


def test_what_is_replaced_of_the_adapter_is_what_it_calls() -> None:
    for name in ("init_poolmanager", "proxy_manager_for", "build_response", "cert_verify"):
        assert f"self.{name}(" in inspect.getsource(HTTPAdapter), f"requests' adapter does not call {name}(): {HERE}"
    assert isinstance(HTTPAdapter().poolmanager, urllib3.PoolManager), f"requests keeps its pools elsewhere: {HERE}"


def test_the_body_reader_below_has_the_parts_that_are_used() -> None:
    """Private names of http.client that ``FramedResponse`` calls or replaces."""
    for name in ("_close_conn", "_get_chunk_left", "_read_next_chunk_size"):
        assert callable(getattr(http.client.HTTPResponse, name, None)), (
            f"http.client.HTTPResponse.{name}() is gone: see registry/http/response.py"
        )
    reads = inspect.getsource(http.client.HTTPResponse._get_chunk_left)
    assert "self._read_next_chunk_size()" in reads, "http.client reads the sizes of chunks by another way"
    assert issubclass(FramedResponse, io.BufferedIOBase)


def test_a_tls_socket_reads_records_by_the_object_that_is_used() -> None:
    ours, theirs = socket.socketpair()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with theirs, context.wrap_socket(ours, do_handshake_on_connect=False, server_hostname="x") as wrapped:
        assert hasattr(wrapped, "_sslobj"), "ssl.SSLSocket has no _sslobj any more: see registry/http/sockets.py"
