"""skopeo's image proxy protocol over the real process: what clients do, well-meant and not."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from container_image_proxy.faces.image_proxy.limits import PIPE_SIZE, STAND_ALONE
from container_image_proxy.faces.image_proxy.messages import MAX_MESSAGE
from tests.support import image_proxy
from tests.support.daemon import activated, write_instance, write_policy
from tests.support.image_proxy import Client, Proxy, initialized, read_to_end, start
from tests.support.layouts import Layout, StoredImage, zstd_frame
from tests.support.privilege import needs_root, open_the_way, public_directory
from tests.support.upstream import Connection, ReceivedRequest, Upstream, breaking, by_path, image, in_order
from tests.support.waiting import await_true

LARGE = 3 << 20  # more than is verified before the first byte leaves, and than pipes hold


@pytest.fixture(scope="module")
def large() -> bytes:
    return secrets.token_bytes(LARGE)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


@pytest.fixture
def stored(layout: Layout, large: bytes) -> StoredImage:
    return layout.image([large, b"small"], name="latest", compression="")


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    with initialized(["--policy", write_policy(tmp_path)]) as one:
        yield one


def opened(proxy: Client, layout: Layout) -> int:
    return int(proxy.value("OpenImage", f"oci:{layout.path}:latest"))


def ask_for_blob(proxy: Client, image_id: int, digest: str, blob: bytes) -> image_proxy.Reply:
    reply = proxy.call("GetBlob", image_id, digest, len(blob))
    assert (reply.success, reply.value) == (True, len(blob)), reply.error
    return reply


# --- what clients do --------------------------------------------------------------------------------------------------


def test_a_blob_is_read_while_its_pipe_is_being_finished(
    proxy: Proxy, layout: Layout, stored: StoredImage, large: bytes
) -> None:
    """As containers-image-proxy-rs does it: the driver asks FinishPipe at once, a worker reads."""
    reply = ask_for_blob(proxy, opened(proxy, layout), stored.layer_digests[0], large)
    data, finish = proxy.drain(reply)
    assert (data == large, finish.success, finish.value, finish.error_code) == (True, True, None, "")


def test_several_pipes_are_read_in_any_order(proxy: Proxy, layout: Layout, stored: StoredImage, large: bytes) -> None:
    one = opened(proxy, layout)
    replies = [ask_for_blob(proxy, one, stored.layer_digests[0], large) for _ in range(3)]
    manifest = proxy.call("GetManifest", one)
    for reply in reversed(replies):
        assert hashlib.sha256(b"".join(read_to_end(reply.descriptor))).digest() == hashlib.sha256(large).digest()
    assert b"".join(read_to_end(manifest.descriptor)) == stored.manifest
    assert all(proxy.call("FinishPipe", reply.pipeid).success for reply in (*replies, manifest))


def test_a_pipe_ends_without_being_finished(proxy: Proxy, layout: Layout, stored: StoredImage, large: bytes) -> None:
    """With skopeo it does not, and a client that forgets FinishPipe waits for ever."""
    reply = ask_for_blob(proxy, opened(proxy, layout), stored.layer_digests[0], large)
    assert b"".join(read_to_end(reply.descriptor)) == large


def test_a_raw_blob_comes_with_a_second_pipe_for_what_goes_wrong(
    proxy: Proxy, layout: Layout, stored: StoredImage, large: bytes
) -> None:
    reply = proxy.call("GetRawBlob", opened(proxy, layout), stored.layer_digests[0])
    assert (reply.success, reply.value, reply.pipeid, len(reply.descriptors)) == (True, LARGE, 0, 2)
    data, errors = (b"".join(read_to_end(descriptor)) for descriptor in reply.descriptors)
    assert (data == large, errors) == (True, b"")


def test_transfers_go_on_when_their_image_is_closed(
    proxy: Proxy, layout: Layout, stored: StoredImage, large: bytes
) -> None:
    one = opened(proxy, layout)
    reply = ask_for_blob(proxy, one, stored.layer_digests[0], large)
    proxy.value("CloseImage", one)
    data, finish = proxy.drain(reply)
    assert (data == large, finish.success) == (True, True)
    assert not proxy.call("GetManifest", one).success


def test_the_layout_may_share_its_blobs_with_others(tmp_path: Path, layout: Layout, stored: StoredImage) -> None:
    (layout.path / "blobs").rename(tmp_path / "shared")
    options = ["--policy", write_policy(tmp_path), "--shared-blob-dir", tmp_path / "shared"]
    with initialized(options) as proxy:
        assert proxy.content("GetManifest", opened(proxy, layout)) == stored.manifest
        assert proxy.content("GetBlob", 1, stored.layer_digests[1], 5) == b"small"


def test_an_image_that_is_not_there_is_none_if_it_need_not_be(
    proxy: Proxy, layout: Layout, stored: StoredImage
) -> None:
    assert proxy.value("OpenImageOptional", f"oci:{layout.path}:absent") == 0
    assert proxy.value("OpenImageOptional", f"oci:{layout.path}:latest") == 1
    assert not proxy.call("OpenImage", f"oci:{layout.path}:absent").success
    assert not proxy.call("OpenImageOptional", f"oci:{layout.path}/nowhere:latest").success
    assert proxy.close() == 0


def test_it_ends_when_told_to(proxy: Proxy) -> None:
    proxy.send("Shutdown")
    assert proxy.receive() is None
    assert proxy.process.wait(60) == 0


# --- wrong content ----------------------------------------------------------------------------------------------------


def test_the_pipe_of_a_wrong_blob_ends_short_and_its_end_says_why(
    proxy: Proxy, layout: Layout, stored: StoredImage, large: bytes
) -> None:
    one, digest = opened(proxy, layout), stored.layer_digests[0]
    layout.blob_path(digest).write_bytes(large[:-1] + bytes([large[-1] ^ 1]))
    data, finish = proxy.drain(ask_for_blob(proxy, one, digest, large))
    assert len(data) < len(large)
    assert not finish.success
    assert (finish.error_code, digest in finish.error) == ("other", True)
    raw = proxy.call("GetRawBlob", one, digest)
    data, errors = (b"".join(read_to_end(descriptor)) for descriptor in raw.descriptors)
    assert len(data) < len(large)
    assert json.loads(errors) == {"code": "other", "message": finish.error}


@pytest.mark.parametrize("wrong", [b"smell", b"smal", b"small and more", b""])
def test_nothing_comes_of_a_small_wrong_blob(proxy: Proxy, layout: Layout, stored: StoredImage, wrong: bytes) -> None:
    one, digest = opened(proxy, layout), stored.layer_digests[1]
    layout.blob_path(digest).write_bytes(wrong)
    data, finish = proxy.drain(ask_for_blob(proxy, one, digest, b"small"))
    assert (data, finish.success, finish.error_code) == (b"", False, "other")
    raw = proxy.call("GetRawBlob", one, digest)
    data, errors = (b"".join(read_to_end(descriptor)) for descriptor in raw.descriptors)
    assert (data, json.loads(errors)) == (b"", {"code": "other", "message": finish.error})


# --- a registry that misbehaves ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def remote(tmp_path: Path, stored: StoredImage, **blobs: object) -> Iterator[tuple[Proxy, int, Upstream]]:
    """A proxy that has opened the image in a registry, whose ``layer`` may behave."""
    routes = image(stored)
    if "layer" in blobs:
        routes[f"/blobs/{stored.layer_digests[0]}"] = blobs["layer"]  # type: ignore[assignment]
    options = ["--policy", write_policy(tmp_path), "--tls-verify=false"]
    with Upstream(by_path(routes)) as upstream, initialized(options) as proxy:
        yield proxy, proxy.value("OpenImage", f"docker://{upstream.authority}/os:latest"), upstream


def test_a_broken_connection_is_resumed(tmp_path: Path, stored: StoredImage, large: bytes) -> None:
    with remote(tmp_path, stored, layer=breaking(large, LARGE // 2, times=1)) as (proxy, one, _):
        data, finish = proxy.drain(ask_for_blob(proxy, one, stored.layer_digests[0], large))
    assert (data == large, finish.success) == (True, True)


@pytest.mark.long("all attempts to resume take their time")
@pytest.mark.demand("PROXY-stall")
@pytest.mark.timeout(500)
def test_a_registry_that_stops_in_the_middle_for_good_can_be_tried_again_later(
    tmp_path: Path, stored: StoredImage, large: bytes
) -> None:
    requests: list[ReceivedRequest] = []

    def stop(request: ReceivedRequest, connection: Connection) -> None:
        requests.append(request)
        breaking(large, LARGE // 2, then=Connection.wait_for_end)(request, connection)

    first = in_order(stop, *[lambda request, connection: (requests.append(request), connection.wait_for_end())] * 40)
    with remote(tmp_path, stored, layer=first) as (proxy, one, _):
        proxy.socket.settimeout(450)
        data, finish = proxy.drain(ask_for_blob(proxy, one, stored.layer_digests[0], large))
        assert len(data) < len(large)
        assert (finish.success, finish.error_code) == (False, "retryable")
        assert len(requests) > 1
        assert proxy.value("CloseImage", one) is None


@pytest.mark.demand("PROXY-stall")
def test_a_registry_that_stalls_holds_up_nothing_but_its_own_pipe(
    tmp_path: Path, stored: StoredImage, large: bytes
) -> None:
    with remote(tmp_path, stored, layer=breaking(large, LARGE // 2, then=Connection.wait_for_end)) as (proxy, one, _):
        stalled = ask_for_blob(proxy, one, stored.layer_digests[0], large)
        os.read(stalled.descriptor, 1)
        assert proxy.content("GetManifest", one) == stored.manifest
        assert proxy.content("GetBlob", one, stored.layer_digests[1], 5) == b"small"
        os.close(stalled.descriptor)


def test_a_registry_that_does_not_answer_for_a_blob_holds_up_nothing(tmp_path: Path, stored: StoredImage) -> None:
    def wait(_: ReceivedRequest, connection: Connection) -> None:
        connection.wait_for_end()

    with remote(tmp_path, stored, layer=wait) as (proxy, one, _):
        waiting = proxy.call("GetBlob", one, stored.layer_digests[0], LARGE)
        assert waiting.success
        os.close(waiting.descriptor)
        assert proxy.content("GetBlob", one, stored.layer_digests[1], 5) == b"small"


def test_an_absent_blob_is_told_at_once(tmp_path: Path, stored: StoredImage) -> None:
    def absent(_: ReceivedRequest, connection: Connection) -> None:
        connection.answer(404)

    with remote(tmp_path, stored, layer=absent) as (proxy, one, _):
        reply = proxy.call("GetBlob", one, stored.layer_digests[0], LARGE)
        assert (reply.success, reply.error_code) == (False, "other")


# --- clients that leave pipes alone -----------------------------------------------------------------------------------


def test_a_closed_pipe_is_told_when_it_is_finished(
    proxy: Proxy, layout: Layout, stored: StoredImage, large: bytes
) -> None:
    reply = ask_for_blob(proxy, opened(proxy, layout), stored.layer_digests[0], large)
    os.read(reply.descriptor, 1)
    os.close(reply.descriptor)
    finish = proxy.call("FinishPipe", reply.pipeid)
    assert (finish.success, finish.error_code) == (False, "EPIPE")
    assert finish.error.endswith("broken pipe")  # by which ostree-rs-ext knows to report its own error instead
    again = proxy.call("FinishPipe", reply.pipeid)
    assert (again.success, again.error_code) == (False, "other")


def test_a_closed_pipe_of_a_raw_blob_is_told_by_the_other_one(
    proxy: Proxy, layout: Layout, stored: StoredImage, large: bytes
) -> None:
    reply = proxy.call("GetRawBlob", opened(proxy, layout), stored.layer_digests[0])
    data, errors = reply.descriptors
    os.close(data)
    assert json.loads(b"".join(read_to_end(errors)))["code"] == "EPIPE"


def test_who_leaves_what_fits_into_a_pipe_gets_the_verdict(tmp_path: Path, layout: Layout) -> None:
    """A reader of zstd:chunked is content with the layer, and leaves the frames behind it, which only describe it."""
    frames = zstd_frame(secrets.token_bytes(LARGE))
    skippable = b"\x50\x2a\x4d\x18" + (PIPE_SIZE // 2).to_bytes(4, "little") + bytes(PIPE_SIZE // 2)
    layer = frames + skippable
    stored = layout.image([layer], name="latest", compression="")
    with initialized(["--policy", write_policy(tmp_path)]) as proxy:
        reply = ask_for_blob(proxy, opened(proxy, layout), stored.layer_digests[0], layer)
        left = len(frames)
        while left:
            left -= len(os.read(reply.descriptor, left))
        os.close(reply.descriptor)
        finish = proxy.call("FinishPipe", reply.pipeid)
        assert (finish.success, finish.error) == (True, "")


@pytest.mark.demand("PROXY-fd-leak")
def test_ten_thousand_pipes_that_are_never_finished(
    proxy: Proxy, layout: Layout, stored: StoredImage, large: bytes
) -> None:
    one, digest = opened(proxy, layout), stored.layer_digests[0]
    before, most = proxy.descriptors(), 0
    last = None
    for number in range(10_000):
        reply = proxy.call("GetBlob", one, digest, LARGE)
        for descriptor in reply.descriptors:
            os.close(descriptor)
        assert reply.success or reply.error_code == "retryable", reply.error
        last = reply if reply.success else last
        if number % 500 == 0:
            most = max(most, proxy.descriptors())
    assert most < before + 4 * STAND_ALONE.transfers_per_client
    assert last is not None
    finish = proxy.call("FinishPipe", last.pipeid)
    assert (finish.success, finish.error_code) == (False, "EPIPE")
    await_true(lambda: proxy.descriptors() <= before, "all pipes are closed")


@pytest.mark.demand("PROXY-fd-leak")
def test_a_client_that_never_reads_is_told_to_when_it_has_enough_pipes(
    proxy: Proxy, layout: Layout, stored: StoredImage, large: bytes
) -> None:
    one, digest = opened(proxy, layout), stored.layer_digests[0]
    replies = []
    while (reply := proxy.call("GetBlob", one, digest, LARGE)).success:
        replies.append(reply)
    assert reply.error_code == "retryable"
    assert len(replies) == STAND_ALONE.transfers_per_client
    assert proxy.value("GetLayerInfo", one)
    assert proxy.content("GetManifest", one) == stored.manifest
    for one_reply in replies:
        os.close(one_reply.descriptor)
    assert proxy.call("FinishPipe", replies[0].pipeid).error_code == "EPIPE"
    await_true(lambda: proxy.content("GetBlob", one, stored.layer_digests[1], 5), "there is room again")


def test_when_the_client_is_gone_so_is_everything(
    proxy: Proxy, layout: Layout, stored: StoredImage, large: bytes
) -> None:
    replies = [ask_for_blob(proxy, opened(proxy, layout), stored.layer_digests[0], large) for _ in range(3)]
    assert proxy.close() == 0
    for reply in replies:
        assert len(b"".join(read_to_end(reply.descriptor))) < LARGE


# --- messages that are none -------------------------------------------------------------------------------------------


@pytest.mark.demand("PROXY-finishpipe-noargs")
@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\0",
        b"{",
        b"null",
        b"17",
        b"[]",
        b"\xff\xfe",
        b'"Initialize"',
        b'{"method":5,"args":[]}',
        b'{"method":"Initialize","args":{}}',
        b'{"method":"Initialize","args":[]} trailing',
        b'{"method":"FinishPipe","args":[]}',
        b'{"method":"FinishPipe","args":[1.5]}',
        b'{"method":"FinishPipe","args":[true]}',
        b'{"method":"FinishPipe","args":[null]}',
        b'{"method":"FinishPipe","args":[-1]}',
        b'{"method":"FinishPipe","args":[1e999]}',
        b'{"method":"FinishPipe","args":[123456789012345678901234567890]}',
        b'{"method":"GetBlob","args":[1,2,3]}',
        b'{"method":"OpenImage","args":["a\\u0000b"]}',
        b'{"method":"OpenImage","args":["docker://"]}',
        b'{"method":"Nothing"}',
        b"[" * 30_000,
    ],
    ids=lambda message: message[:40].decode("ascii", "replace").replace("\0", "NUL"),
)
def test_garbage_is_answered_with_an_error(proxy: Proxy, message: bytes) -> None:
    proxy.send_raw(message)
    reply = proxy.receive()
    assert reply is not None
    assert (reply.success, reply.value, reply.pipeid, reply.descriptors) == (False, None, 0, [])
    assert reply.error
    assert reply.error_code == "other"
    assert not proxy.call("Initialize").success  # it is the same process still, and knows that it was greeted


@pytest.mark.demand("PROXY-bigmsg")
def test_a_message_of_the_largest_size_is_read_and_a_larger_one_refused(proxy: Proxy) -> None:
    for size, word in ((MAX_MESSAGE, "unknown method"), (MAX_MESSAGE + 1, "larger than")):
        frame = b'{"method":""}'
        proxy.send_raw(frame.replace(b'""', b'"' + b"A" * (size - len(frame)) + b'"'))
        reply = proxy.receive()
        assert reply is not None
        assert word in reply.error


@pytest.mark.demand("PROXY-bigmsg")
def test_an_answer_that_is_too_large_comes_by_a_pipe_alone(tmp_path: Path, layout: Layout) -> None:
    stored = layout.image([b"%d" % number for number in range(500)], name="latest", compression="")
    with initialized(["--policy", write_policy(tmp_path)]) as proxy:
        one = opened(proxy, layout)
        reply = proxy.call("GetLayerInfo", one)
        assert not reply.success
        assert "larger than" in reply.error
        layers = json.loads(proxy.content("GetLayerInfoPiped", one))
        assert [layer["digest"] for layer in layers] == list(stored.layer_digests)


def test_descriptors_that_a_client_sends_are_not_kept(proxy: Proxy) -> None:
    before = proxy.descriptors()
    for _ in range(10):
        socket.send_fds(proxy.socket, [b'{"method":"Nothing","args":[]}'], [0, 1, 2])
        assert proxy.receive() is not None
    assert proxy.descriptors() == before


# --- how clients start it ---------------------------------------------------------------------------------------------


def test_a_configuration_that_cannot_be_used_is_the_answer_to_the_first_message(tmp_path: Path) -> None:
    with start(["--policy", tmp_path / "absent.json"]) as proxy:
        reply = proxy.call("Initialize")
        assert not reply.success
        assert "absent.json" in reply.error
        assert not proxy.call("OpenImage", "oci:/srv:latest").success


def test_the_socket_may_be_another_descriptor_and_options_stand_before_the_word(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [
        *image_proxy.OURS,
        *("--debug", "--override-arch", "arm64", f"--policy={write_policy(tmp_path)}", "--insecure-policy=false"),
        *("experimental-image-proxy", "--tls-verify", "--sockfd", str(theirs.fileno())),
    ]
    with subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        theirs.close()
        with ours:
            assert Client(ours).value("Initialize") == "0.2.8"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--decryption-key", "/key"], "--decryption-key"),
        (["--require-signed"], "policy.json"),
        (["--tls-verify=perhaps"], "neither true nor false"),
        (["--creds", "a:b", "--no-creds"], "cannot both"),
        (["--username", "a"], "--password"),
        (["--user-agent-prefix", "a\r\nb"], "header"),
        (["--authfile", "/proc/self/fd/99"], "/proc/self/fd/99"),
        (["--nothing"], "--nothing"),
    ],
)
def test_options_that_mean_nothing_here_are_refused(options: list[str], word: str) -> None:
    proxy = start(options)
    assert proxy.process.wait(60) != 0
    proxy.close()
    assert word in proxy.errors
    assert proxy.errors.count("\n") == 1


def test_a_socket_of_another_kind_is_refused() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        run = subprocess.run(
            [*image_proxy.OURS, "experimental-image-proxy"], stdin=theirs, capture_output=True, text=True, check=False
        )
    assert run.returncode == 78
    assert "SOCK_SEQPACKET" in run.stderr


def test_credentials_and_name_reach_the_registries_that_are_named(tmp_path: Path, stored: StoredImage) -> None:
    seen: list[dict[str, str]] = []
    routes = by_path(image(stored))

    def guarded(request: ReceivedRequest, connection: Connection) -> None:
        seen.append(dict(request.headers))
        if "authorization" in request.headers:
            routes(request, connection)
        else:
            connection.answer(401, headers={"WWW-Authenticate": 'Basic realm="here"'})

    options = ["--policy", write_policy(tmp_path), "--tls-verify=false", "--user-agent-prefix", "bootc/1.2"]
    with Upstream(guarded) as upstream, initialized([*options, "--creds", "me:secret"]) as proxy:
        proxy.value("OpenImage", f"docker://{upstream.authority}/os:latest")
    assert {one["authorization"] for one in seen if "authorization" in one} == {"Basic bWU6c2VjcmV0"}
    assert all(one["user-agent"].startswith("bootc/1.2 container-image-proxy/") for one in seen)
    with Upstream(guarded) as upstream, initialized([*options, "--no-creds"]) as proxy:
        assert not proxy.call("OpenImage", f"docker://{upstream.authority}/os:latest").success


def test_a_token_of_the_command_line_is_sent_as_it_is(tmp_path: Path, stored: StoredImage) -> None:
    seen: list[str] = []
    routes = by_path(image(stored))

    def guarded(request: ReceivedRequest, connection: Connection) -> None:
        if request.headers.get("authorization"):
            seen.append(request.headers["authorization"])
            routes(request, connection)
        else:
            connection.answer(401, headers={"WWW-Authenticate": f'Bearer realm="http://{upstream.authority}/token"'})

    options = ["--policy", write_policy(tmp_path), "--tls-verify=false", "--registry-token", "abc"]
    with Upstream(guarded) as upstream, initialized(options) as proxy:
        proxy.value("OpenImage", f"docker://{upstream.authority}/os:latest")
    assert set(seen) == {"Bearer abc"}


@contextlib.contextmanager
def credentials_in(descriptor: int, authority: str) -> Iterator[int]:
    document = {"auths": {authority: {"auth": "bWU6c2VjcmV0"}}}
    os.write(descriptor, json.dumps(document).encode())
    yield descriptor


@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_credentials_come_as_an_open_file(tmp_path: Path, stored: StoredImage, kind: str) -> None:
    """An unlinked file, written and not rewound, or a pipe, which can be read but once; and the image twice."""
    routes = by_path(image(stored))

    def guarded(request: ReceivedRequest, connection: Connection) -> None:
        if request.headers.get("authorization") == "Basic bWU6c2VjcmV0":
            routes(request, connection)
        else:
            connection.answer(401, headers={"WWW-Authenticate": 'Basic realm="here"'})

    with Upstream(guarded) as upstream:
        if kind == "file":
            reader = writer = os.open(tmp_path, os.O_TMPFILE | os.O_RDWR, 0o600)
        else:
            reader, writer = os.pipe()
        os.write(writer, json.dumps({"auths": {upstream.authority: {"auth": "bWU6c2VjcmV0"}}}).encode())
        if kind == "pipe":
            os.close(writer)
        options = ["--policy", write_policy(tmp_path), "--tls-verify=false", "--authfile", f"/proc/self/fd/{reader}"]
        with initialized(options, pass_fds=[reader]) as proxy:
            os.close(reader)
            for _ in range(2):
                one = proxy.value("OpenImage", f"docker://{upstream.authority}/os:latest")
                assert proxy.content("GetBlob", one, stored.layer_digests[1], 5) == b"small"


@needs_root
@pytest.mark.parametrize("home", [{}, {"HOME": "/root"}, {"HOME": "/nowhere"}], ids=["none", "of-root", "absent"])
def test_it_starts_as_nobody_without_a_home(large: bytes, home: dict[str, str]) -> None:
    """As ostree-rs-ext isolates it; credentials are in a file that only root may open by its name."""
    with public_directory() as directory:
        layout = Layout(directory / "layout")
        layout.image([large], name="latest", compression="")
        policy = write_policy(directory)
        policy.chmod(0o644)
        auth = os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o600)
        os.write(auth, b'{"auths": {}}')
        before = ["setpriv", "--no-new-privs", "--init-groups", "--reuid", "nobody", "--bounding-set", "-all"]
        options = ["--policy", policy, "--authfile", f"/proc/self/fd/{auth}"]
        environ = {"PATH": os.environ["PATH"], **home}
        program = [*before, "--pdeathsig", "SIGTERM", "--", *image_proxy.OURS]
        with initialized(options, program=program, environ=environ, pass_fds=[auth]) as proxy:
            os.close(auth)
            one = opened(proxy, layout)
            digest = json.loads(proxy.content("GetManifest", one))["layers"][0]["digest"]
            assert proxy.content("GetBlob", one, digest, LARGE) == large
        assert proxy.errors == ""


_PARENT = """
import ctypes, os, signal, socket, subprocess, sys
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
libc = ctypes.CDLL(None)
child = subprocess.Popen(sys.argv[1:], stdin=theirs, preexec_fn=lambda: libc.prctl(1, signal.SIGTERM))
theirs.close()
ours.send(b'{"method":"Initialize","args":[]}')
ours.recv(1000)
os.set_inheritable(ours.fileno(), True)
holder = subprocess.Popen(["sleep", "infinity"], close_fds=False)  # the socket outlives the parent
print(child.pid, holder.pid, flush=True)
sys.stdin.read()
"""


def test_it_ends_with_its_parent_though_somebody_still_has_the_socket(tmp_path: Path) -> None:
    command = [*image_proxy.OURS, "experimental-image-proxy", "--policy", str(write_policy(tmp_path))]
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child, holder = map(int, parent.stdout.readline().split())
        try:
            parent.kill()
            await_true(lambda: not Path(f"/proc/{child}").exists() or _is_zombie(child), "it has ended")
        finally:
            os.kill(holder, signal.SIGKILL)


def _is_zombie(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    return True


# --- an instance ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def instance(tmp_path: Path, text: str, *, idle: str = "0") -> Iterator[tuple[Path, object]]:
    """One with a socket of either kind, as systemd passes both to one service."""
    config = tmp_path / "etc"
    write_instance(config, "test", text)
    path = tmp_path / "packets"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen(100)
        arguments = ["--instance", "test", "--config-dir", str(config), "--policy", str(write_policy(tmp_path))]
        with activated(tmp_path / "run", arguments, more=[listener]) as daemon:
            yield path, daemon


@contextlib.contextmanager
def client_of(path: Path) -> Iterator[Client]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(str(path))
        yield Client(sock)


def test_an_instance_speaks_both_and_opens_what_it_names(tmp_path: Path, layout: Layout, stored: StoredImage) -> None:
    reference = f"oci:{layout.path}:latest"
    layout.image(name="other")
    text = f'[images.os]\nreference = "{reference}"\n'
    with instance(tmp_path, text) as (path, daemon), client_of(path) as one, client_of(path) as another:
        assert daemon.get("/manifest").body == stored.manifest  # type: ignore[attr-defined]
        for client in (one, another):
            assert client.value("Initialize") == "0.2.8"
            for name in ("os", reference):
                image_id = client.value("OpenImage", name)
                assert client.content("GetManifest", image_id) == stored.manifest
                assert client.content("GetBlob", image_id, stored.layer_digests[1], 5) == b"small"
        for name in (f"oci:{layout.path}:other", f"oci:{layout.path}", "latest", "docker://quay.io/os:latest", ""):
            for method in ("OpenImage", "OpenImageOptional"):
                reply = one.call(method, name)
                assert not reply.success
                assert "you may open os" in reply.error
        one.send("Shutdown")
        assert one.receive() is None
        assert another.value("GetLayerInfo", 1)


@needs_root
def test_peers_are_checked_as_for_http(tmp_path: Path, layout: Layout, stored: StoredImage) -> None:
    """A stranger is told so and turned away; who may have one image of two cannot open the other."""
    text = (
        f'[images.os]\nreference = "oci:{layout.path}:latest"\n'
        f'[images.mine]\nreference = "oci:{layout.path}:latest"\naccess = {{ users = ["4242"] }}\n'
    )
    with instance(tmp_path, text) as (path, daemon):
        open_the_way(daemon)  # type: ignore[arg-type]
        for parent in path.parents:
            if str(parent).startswith("/tmp/"):
                parent.chmod(parent.stat().st_mode | 0o011)
        stranger, guest = (_ask_as(uid, path) for uid in (4243, 4242))
    assert [reply["error"] for reply in stranger] == ["this user may not connect"]
    assert [reply["success"] for reply in guest] == [True, False, True, True]
    assert "is not allowed to have image 'os'" in guest[1]["error"]


_ASK = """
import json, socket, sys
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect(sys.argv[1])
replies = []
for method, *args in (["Initialize"], ["OpenImage", "os"], ["OpenImage", "mine"], ["OpenImage", sys.argv[2]]):
    try:
        sock.send(json.dumps({"method": method, "args": args}).encode())
    except OSError:
        break
    message = sock.recv(1 << 16)
    if not message:
        break
    replies.append(json.loads(message))
print(json.dumps(replies))
"""


def _ask_as(uid: int, path: Path) -> list[dict[str, object]]:
    reference = f"oci:{path.parent / 'layout'}:latest"
    command = [sys.executable, "-c", _ASK, str(path), reference]
    run = subprocess.run(command, user=uid, group=uid, extra_groups=[], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)  # type: ignore[no-any-return]


def test_a_configuration_that_cannot_be_used_is_told_in_this_protocol_too(tmp_path: Path, layout: Layout) -> None:
    with instance(tmp_path, "[images.os]\nreference = 5\n") as (path, _), client_of(path) as client:
        reply = client.call("Initialize")
        assert not reply.success
        assert "images.os.reference" in reply.error


def test_a_stop_lets_clients_finish_what_they_have_begun(
    tmp_path: Path, layout: Layout, stored: StoredImage, large: bytes
) -> None:
    with (
        instance(tmp_path, f'[images.os]\nreference = "oci:{layout.path}:latest"\n') as (path, daemon),
        client_of(path) as busy,
        client_of(path) as idle,
    ):
        for client in (busy, idle):
            client.value("Initialize")
            client.value("OpenImage", "os")
        reply = ask_for_blob(busy, 1, stored.layer_digests[0], large)
        os.read(reply.descriptor, 1)
        daemon.signal(signal.SIGTERM)  # type: ignore[attr-defined]
        assert idle.receive() is None
        data, finish = busy.drain(reply)
        assert (len(data), finish.success) == (LARGE - 1, True)
        assert busy.receive() is None
        assert daemon.process.wait(60) == 0  # type: ignore[attr-defined]


def test_an_open_image_outlives_a_reload_which_decides_about_others(
    tmp_path: Path, layout: Layout, stored: StoredImage, large: bytes
) -> None:
    layout.image(name="other")
    before, after = (f'[images.os]\nreference = "oci:{layout.path}:{name}"\n' for name in ("latest", "other"))
    with instance(tmp_path, before) as (path, daemon), client_of(path) as client:
        client.value("Initialize")
        one = client.value("OpenImage", f"oci:{layout.path}:latest")
        write_instance(tmp_path / "etc", "test", after)
        daemon.signal(signal.SIGHUP)  # type: ignore[attr-defined]
        daemon.wait_for_notification("READY=1")  # type: ignore[attr-defined]
        await_true(
            lambda: not client.call("OpenImage", f"oci:{layout.path}:latest").success,
            "the new configuration is in force",
        )
        assert client.content("GetManifest", one) == stored.manifest
        assert client.content("GetBlob", one, stored.layer_digests[0], LARGE) == large
        assert client.value("OpenImage", "os")


def test_many_clients_at_once(tmp_path: Path, layout: Layout, stored: StoredImage, large: bytes) -> None:
    results: list[bool] = []

    def work() -> None:
        with client_of(path) as client:
            client.value("Initialize")
            one = client.value("OpenImage", "os")
            results.extend(client.content("GetBlob", one, stored.layer_digests[0], LARGE) == large for _ in range(3))

    with instance(tmp_path, f'[images.os]\nreference = "oci:{layout.path}:latest"\n') as (path, _):
        threads = [threading.Thread(target=work) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [True] * 48
