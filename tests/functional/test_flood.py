"""A local user whom nothing allows connects and closes as fast as two processes can: others are answered, the log stays
short, and every connection is accounted for.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from container_image_proxy.service.turned_away import PERIOD_SECONDS
from tests.support.daemon import RunningDaemon
from tests.support.host import Host
from tests.support.layouts import single_image
from tests.support.privilege import needs_root, public_directory

STRANGER = 61234
REQUESTS = 200
_FLOOD = """
import select, socket, sys
count = 0
while not (count % 100 == 0 and select.select([sys.stdin], [], [], 0)[0]):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(sys.argv[1])
    count += 1
print(count)
"""


class Patient(http.client.HTTPConnection):
    """A client that waits for its place in the backlog."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


@pytest.fixture
def daemon() -> Iterator[RunningDaemon]:
    """A daemon that has an image for root alone, and whose socket everybody can reach."""
    with public_directory() as place:
        single_image(place / "layout", name="1")
        with Host(place / "host").daemon({"os": f"oci:{place}/layout:1"}) as daemon:
            daemon.socket.parent.chmod(0o755)
            yield daemon


@contextmanager
def flood(path: Path, processes: int) -> Iterator[list[int]]:
    """Processes of the stranger's until the end of the block; then the list has how often each of them connected."""
    counts: list[int] = []
    command = [os.path.realpath(sys.executable), "-I", "-S", "-c", _FLOOD, str(path)]
    with ExitStack() as stack:
        floods = [
            stack.enter_context(
                subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    cwd="/",
                    user=STRANGER,
                    group=STRANGER,
                    extra_groups=[],
                )
            )
            for _ in range(processes)
        ]
        yield counts
        counts.extend(int(process.communicate()[0]) for process in floods)


def turned_away(log: str) -> int:
    """How many connections of the stranger the log tells of: a line for the first, and one for all of a period."""
    alone = len(re.findall(rf"turned away uid {STRANGER} ", log))
    counts = [int(count) for count in re.findall(rf"turned away (\d+) connections of uid {STRANGER} in", log)]
    return sum(counts) + alone - len(counts)


@needs_root
@pytest.mark.demand("PEER-uid")
@pytest.mark.demand("LOG-injection")
def test_who_connects_in_a_loop_keeps_nobody_out_and_does_not_fill_the_log(daemon: RunningDaemon) -> None:
    began = time.monotonic()
    with flood(daemon.socket, 2) as counts:
        statuses = [ask(daemon) for _ in range(REQUESTS)]
    ask(daemon)  # whoever was in the backlog before has been accepted then
    daemon.stop()
    periods = (time.monotonic() - began) // PERIOD_SECONDS + 1
    log = daemon.log_text()
    assert statuses == [200] * REQUESTS
    assert sum(counts) > REQUESTS
    assert turned_away(log) == sum(counts)
    assert log.count("turned away") <= 2 * periods


@needs_root
@pytest.mark.long("its figures are those of a machine that has nothing else to do")
def test_the_flood_costs_others_less_than_a_second_and_the_log_less_than_10_kb_in_one(daemon: RunningDaemon) -> None:
    assert ask(daemon) == 200
    before, began, seconds = daemon.log.stat().st_size, time.monotonic(), []
    with flood(daemon.socket, 2):
        for _ in range(REQUESTS):
            asked = time.monotonic()
            assert daemon.curl("--fail", "--output", "/dev/null", "http://localhost/manifest").returncode == 0
            seconds.append(time.monotonic() - asked)
    growth = (daemon.log.stat().st_size - before) / (time.monotonic() - began)
    assert sorted(seconds)[REQUESTS * 99 // 100] < 1
    assert growth < 10_000


def ask(daemon: RunningDaemon) -> int:
    with closing(Patient(daemon.socket)) as connection:
        connection.request("GET", "/manifest")
        return connection.getresponse().status
