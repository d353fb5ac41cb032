"""Hundreds of clients that send their request's head byte by byte: they are cut off, and nobody else notices them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.daemon import stand_alone
from tests.support.layouts import single_image
from tests.support.privilege import ORDINARY_UID, needs_root, open_the_way
from tests.support.waiting import await_true

CLIENTS = 500
PLACES = 64  # that one user has
DRIP = """
import collections, itertools, selectors, socket, sys
path, count = sys.argv[1], int(sys.argv[2])
ends, selector, slow = collections.Counter(), selectors.DefaultSelector(), set()
for _ in range(count):
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    client.setblocking(False)
    selector.register(client, selectors.EVENT_READ)
    slow.add(client)
print("connected", flush=True)
head = itertools.chain("GET /manifest HTTP/1.1\\r\\nHost: x\\r\\nX: ", itertools.repeat("x"))
while slow:
    byte = next(head).encode()
    for client in slow:
        try:
            client.send(byte)
        except OSError:
            pass
    for key, _ in selector.select(0.2):
        client = key.fileobj
        try:
            answer = client.recv(1000)
        except OSError:
            answer = b""
        ends[answer[9:12].decode()] += 1
        selector.unregister(client)
        slow.discard(client)
        client.close()
print(*(f"{status or 'closed'}={number}" for status, number in sorted(ends.items())))
"""


@needs_root
@pytest.mark.demand("client-slowloris")
def test_five_hundred_clients_that_drip_keep_nobody_out_and_are_cut_off(tmp_path: Path) -> None:
    single_image(tmp_path / "layout")
    options = ["--insecure-policy", "--socket-mode=0666", f"--allow-user={ORDINARY_UID}", f"oci:{tmp_path}/layout"]
    with stand_alone(tmp_path / "run", options) as daemon:
        open_the_way(daemon)
        command = [sys.executable, "-Sc", DRIP, str(daemon.socket), str(CLIENTS)]
        who = {"user": ORDINARY_UID, "group": ORDINARY_UID, "extra_groups": []}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **who) as slow:  # type: ignore[call-overload]
            assert slow.stdout is not None
            assert slow.stdout.readline() == "connected\n"
            answered = 0
            while slow.poll() is None:
                # On a machine that is busy, threads of connections that ended are in the way for a moment.
                await_true(lambda: daemon.get("/manifest").status == 200, "an answer")
                answered += 1
            ends = dict(part.split("=") for part in slow.stdout.read().split())
        assert int(ends.get("408", 0)) == PLACES
        assert sum(map(int, ends.values())) == CLIENTS
        assert answered > 10
        await_true(lambda: daemon.get("/manifest").status == 200, "an answer")
