"""A local user whom nothing allows connects and closes as fast as two processes can: others are answered, the log stays
short, and every connection is accounted for.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest

from container_image_proxy.service.turned_away import PERIOD_SECONDS
from tests.support.daemon import RunningDaemon
from tests.support.flood import ask_patiently, flood, flood_command
from tests.support.host import Host
from tests.support.layouts import single_image
from tests.support.privilege import needs_root, public_directory

STRANGER = 61234
REQUESTS = 200
GET = ("--fail", "--retry", "2", "--retry-all-errors", "--output", "/dev/null", "http://localhost/manifest")


@pytest.fixture
def daemon() -> Iterator[RunningDaemon]:
    """A daemon that has an image for root alone, and whose socket everybody can reach."""
    with public_directory() as place:
        single_image(place / "layout", name="1")
        with Host(place / "host").daemon({"os": f"oci:{place}/layout:1"}) as daemon:
            daemon.socket.parent.chmod(0o755)
            yield daemon


def strangers(daemon: RunningDaemon) -> AbstractContextManager[list[int]]:
    return flood(flood_command(daemon.socket), user=STRANGER, group=STRANGER, extra_groups=[])


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
    with strangers(daemon) as counts:
        statuses = [ask_patiently(daemon.socket) for _ in range(REQUESTS)]
    ask_patiently(daemon.socket)  # whoever was in the backlog before has been accepted then
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
    assert ask_patiently(daemon.socket) == 200
    before, began, seconds = daemon.log.stat().st_size, time.monotonic(), []
    with strangers(daemon):
        for _ in range(REQUESTS):
            asked = time.monotonic()
            assert daemon.curl(*GET).returncode == 0
            seconds.append(time.monotonic() - asked)
    growth = (daemon.log.stat().st_size - before) / (time.monotonic() - began)
    assert sorted(seconds)[REQUESTS * 99 // 100] < 1
    assert growth < 10_000
