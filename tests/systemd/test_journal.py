"""What the journal says: why a request failed, who was cut, and everything under one identifier."""

from __future__ import annotations

import http.client
import signal
import socket
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from tests.support.instance import Instance
from tests.support.layouts import layer_tar
from tests.support.machine import Machine

MakeInstance = Callable[[str], Instance]
IDENTIFIER = "container-image-proxy"

# For the program: less time to finish its transfers.
_HASTE = """\
import functools, container_image_proxy.__main__ as program
program.ServerLimits = functools.partial(program.ServerLimits, drain_seconds=0.1)
"""


def _answers(instance: Instance, status: int) -> list[dict[str, Any]]:
    instance.machine.wait_until(lambda: any(one["STATUS"] == str(status) for one in instance.requests()), "the record")
    return [record for record in instance.requests() if record["STATUS"] == str(status)]


def test_a_broken_source_is_a_warning_that_says_what_is_wrong(machine: Machine, make_instance: MakeInstance) -> None:
    instance = make_instance("broken-source")
    instance.add_image()
    instance.configure()
    (machine.root / "srv/broken-source/image/index.json").unlink()
    instance.start()
    detail = instance.get("/manifest").json()["detail"]
    (record,) = _answers(instance, 502)
    assert "/srv/broken-source/image/index.json" in detail
    assert record["MESSAGE"].endswith(f": {detail}")
    assert (record["PRIORITY"], record["ERROR"]) == ("4", detail)
    assert {one["SYSLOG_IDENTIFIER"] for one in _own(machine, instance)} == {IDENTIFIER}


def test_a_file_that_cannot_be_used_any_more_is_an_error_that_says_which(
    machine: Machine, make_instance: MakeInstance
) -> None:
    instance = make_instance("rotated-away")
    machine.write("/etc/rotated-away.json", '{"auths": {}}')
    image = '[images.image]\nreference = "docker://registry.invalid/image"\n'
    machine.write(instance.file, f'{image}[registry]\nauthfile = "/etc/rotated-away.json"\n')
    instance.start()
    assert instance.get("/images").status == 200
    (machine.root / "etc/rotated-away.json").unlink()
    answer = instance.get("/manifest")
    assert (answer.status, answer.json()["code"]) == (500, "CONFIGURATION")
    (record,) = _answers(instance, 500)
    assert record["MESSAGE"].endswith(f": {answer.json()['detail']}")
    assert "/etc/rotated-away.json: cannot be read" in record["MESSAGE"]
    assert record["PRIORITY"] == "3"


def test_a_transfer_that_the_end_of_the_service_cuts_is_cut(machine: Machine, make_instance: MakeInstance) -> None:
    instance = make_instance("hasty")
    image = instance.add_image(layers=[layer_tar({"big": bytes(32 << 20)})], compression="")
    instance.configure()
    *start, end = (machine.root / "usr/bin/container-image-proxy").read_text().splitlines(keepends=True)
    machine.write("/usr/local/bin/hasty", "".join([*start, _HASTE, end]), mode=0o755)
    instance.drop_in("[Service]\nExecStart=\nExecStart=/usr/local/bin/hasty --instance %i\n")
    instance.start()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(machine.socket_path(instance.name)))
        client.settimeout(60)
        client.sendall(f"GET /blobs/{image.layer_digests[0]} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        with closing(http.client.HTTPResponse(client)) as response:
            response.begin()
            instance.signal(signal.SIGTERM)
            machine.wait_until(lambda: instance.show("ActiveState") == "inactive", "the end")
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                response.read()
    (record,) = _answers(instance, 200)
    assert record["OUTCOME"] == "cut"
    assert record["PRIORITY"] == "4"
    assert record["SYSLOG_IDENTIFIER"] == IDENTIFIER


@pytest.mark.parametrize(
    "start",
    [
        "/usr/bin/container-image-proxy --check --instance %i",
        "/usr/bin/container-image-proxy --check --instance no-such-instance",
        "/usr/bin/container-image-proxy --no-such-option",
        "/usr/bin/env python3 -c 'raise SystemExit(\"a traceback, say\")'",
    ],
    ids=["check", "failed-check", "wrong-usage", "another-program"],
)
def test_everything_is_found_under_one_identifier(
    machine: Machine, make_instance: MakeInstance, request: pytest.FixtureRequest, start: str
) -> None:
    instance = make_instance(f"id-{request.node.callspec.id}")
    instance.add_image()
    instance.configure()
    instance.drop_in(f"[Service]\nType=exec\nRestart=no\nExecStart=\nExecStart={start}\n")
    instance.start()
    machine.run("systemctl", "start", instance.service, check=False)
    machine.wait_until(lambda: bool(_own(machine, instance)), "what it says")
    assert {record["SYSLOG_IDENTIFIER"] for record in _own(machine, instance)} == {IDENTIFIER}


def _own(machine: Machine, instance: Instance) -> list[dict[str, Any]]:
    """The records of the instance that are not systemd's own; its helpers before the start have names in brackets."""
    records = [record for record in machine.journal(instance.service) if record["_PID"] != "1"]
    return [record for record in records if not record["SYSLOG_IDENTIFIER"].startswith("(")]
