"""What goes wrong under systemd: crashes, wrong configuration, signals. The socket stays and no request is lost."""

from __future__ import annotations

import hashlib
import http.client
import itertools
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from threading import Event

import pytest

from tests.support.instance import Instance
from tests.support.layouts import layer_tar
from tests.support.machine import Answer, Machine, curl_command

MakeInstance = Callable[[str], Instance]
BIG = layer_tar({"big": bytes(32 << 20)})  # more than all buffers on the way

_NUMBERS = itertools.count()


@contextmanager
def waiting_client(instance: Instance, path: str = "/manifest") -> Iterator[Callable[[], int]]:
    """A curl that asks while the daemon is away; the function waits for its exit status."""
    command = instance.machine.command(*curl_command(instance.name, path, "--fail"))
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as client:
        yield client.wait


@contextmanager
def begun_transfer(instance: Instance, digest: str) -> Iterator[http.client.HTTPResponse]:
    """A response whose body nobody reads yet."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(instance.machine.socket_path(instance.name)))
        sock.settimeout(60)
        sock.sendall(f"GET /blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        with closing(http.client.HTTPResponse(sock)) as response:
            response.begin()
            yield response


@pytest.fixture
def served(make_instance: MakeInstance) -> Instance:
    """A started instance with one image."""
    instance = make_instance(f"fault-{next(_NUMBERS)}")
    instance.add_image()
    instance.configure()
    instance.start()
    return instance


@pytest.mark.demand("sigkill")
def test_after_a_kill_the_next_request_is_answered(machine: Machine, served: Instance) -> None:
    served.drop_in("[Service]\nRestartSec=50ms\n")
    assert served.get("/manifest").status == 200
    served.signal(signal.SIGKILL)
    assert served.get("/manifest").status == 200
    machine.wait_until(lambda: served.show("NRestarts") == "1", "the restart")


@pytest.mark.demand("watchdog")
def test_a_daemon_that_stands_still_is_replaced_and_who_waited_is_answered(machine: Machine, served: Instance) -> None:
    served.drop_in("[Service]\nWatchdogSec=1s\nTimeoutAbortSec=50ms\nRestartSec=50ms\n")
    assert served.get("/manifest").status == 200
    pid = served.show("MainPID")
    served.signal(signal.SIGSTOP)
    with waiting_client(served) as status:
        machine.wait_until(lambda: served.show("NRestarts") == "1", "the restart")
        assert status() == 0
    assert served.show("MainPID") != pid


@pytest.mark.demand("watchdog")
def test_a_busy_daemon_gives_its_signs_of_life(machine: Machine, served: Instance) -> None:
    served.drop_in("[Service]\nWatchdogSec=1s\n")
    image = served.add_image(layers=[BIG], compression="")
    pid = served.show("MainPID") if served.get("/manifest").status == 200 else ""
    periods = Event()
    with ThreadPoolExecutor(8) as clients:
        transfers = [clients.submit(_transfer_until, periods, served, image.layer_digests[0]) for _ in range(8)]
        began = float(served.show("WatchdogTimestampMonotonic"))
        machine.wait_until(lambda: float(served.show("WatchdogTimestampMonotonic")) > began + 3e6, "signs of life")
        periods.set()
        assert all(transfer.result() for transfer in transfers)
    assert (served.show("MainPID"), served.show("NRestarts")) == (pid, "0")


def _transfer_until(enough: Event, instance: Instance, digest: str) -> int:
    """How many whole transfers of the blob it took."""
    count = 0
    while not enough.is_set():
        with begun_transfer(instance, digest) as response:
            assert sum(map(len, iter(lambda: response.read(1 << 20), b""))) == len(BIG)
        count += 1
    return count


@pytest.mark.demand("sigkill")
def test_a_transfer_that_is_killed_does_not_look_complete(served: Instance) -> None:
    served.drop_in("[Service]\nRestartSec=50ms\n")
    image = served.add_image(layers=[BIG], compression="")
    with begun_transfer(served, image.layer_digests[0]) as response:
        assert response.status == 200
        served.signal(signal.SIGKILL)
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            response.read()


@pytest.mark.demand("restart-storm")
def test_a_service_that_cannot_start_keeps_its_socket(machine: Machine, served: Instance) -> None:
    served.drop_in("[Service]\nRestartSec=20ms\nExecStart=\nExecStart=/bin/false\n")
    with waiting_client(served) as status:
        machine.wait_until(lambda: int(served.show("NRestarts")) > 25, "more failures than any default limit allows")
        assert machine.show(served.socket, "ActiveState") == "active"
        served.drop_in("")
        assert status() == 0


def test_failing_starts_are_paced(served: Instance) -> None:
    assert served.show("Restart") == "on-failure"
    assert served.show("RestartUSec") == "10s"


@pytest.mark.demand("sighup")
def test_reload_brings_a_whole_new_configuration(machine: Machine, served: Instance) -> None:
    served.get("/manifest")
    other = served.add_image("other")
    assert served.get("/images/other/manifest").status == 404
    served.configure('default = "image"', "image", "other")
    machine.systemctl("reload", served.service)
    assert served.get("/images/other/manifest").body == other.manifest
    assert served.starts() == 1


@pytest.mark.demand("sighup")
def test_a_transfer_survives_reload(machine: Machine, served: Instance) -> None:
    image = served.add_image(layers=[BIG], compression="")
    with begun_transfer(served, image.layer_digests[0]) as response:
        machine.systemctl("reload", served.service)
        body = response.read()
    assert f"sha256:{hashlib.sha256(body).hexdigest()}" == image.layer_digests[0]


@pytest.mark.demand("sigterm-drain")
def test_a_stopping_service_finishes_its_transfers(machine: Machine, served: Instance) -> None:
    image = served.add_image(layers=[BIG], compression="")
    with begun_transfer(served, image.layer_digests[0]) as response:
        served.signal(signal.SIGTERM)
        machine.wait_until(lambda: "Finishing" in served.show("StatusText"), "STOPPING=1")
        with waiting_client(served) as status:
            body = response.read()
            assert status() == 0
    assert f"sha256:{hashlib.sha256(body).hexdigest()}" == image.layer_digests[0]
    assert served.show("Result") == "success"


def test_a_daemon_that_has_no_descriptor_left_still_tells_systemd_and_finishes(
    machine: Machine, served: Instance
) -> None:
    image = served.add_image(layers=[BIG], compression="")
    with begun_transfer(served, image.layer_digests[0]) as response:
        pid = served.show("MainPID")
        uid, gid = machine.run("stat", "--format=%u %g", f"/proc/{pid}").stdout.split()
        as_daemon = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
        machine.run(*as_daemon, "prlimit", f"--pid={pid}", "--nofile=3:3")
        served.signal(signal.SIGHUP)
        machine.wait_until(lambda: "too many" in served.show("StatusText").lower(), "what came of the reload")
        served.signal(signal.SIGTERM)
        machine.wait_until(lambda: "Finishing" in served.show("StatusText"), "STOPPING=1")
        body = response.read()
    assert f"sha256:{hashlib.sha256(body).hexdigest()}" == image.layer_digests[0]
    machine.wait_until(lambda: served.show("ActiveState") == "inactive", "the end")
    assert served.show("Result") == "success"


def test_a_broken_layout_is_named_and_the_daemon_lives_on(machine: Machine, served: Instance) -> None:
    image = served.add_image()
    assert served.get("/manifest").status == 200
    pid = served.show("MainPID")
    machine.write(f"/srv/{served.name}/image/blobs/{image.layer_digests[0].replace(':', '/')}", "something else")
    with ThreadPoolExecutor(4) as clients:
        answers: list[Answer] = list(clients.map(served.get, [f"/blobs/{image.layer_digests[0]}"] * 4))
    assert {answer.status for answer in answers} == {502}
    assert served.get("/config").body == image.config
    assert served.show("MainPID") == pid


@pytest.mark.demand("entropy/ipv6/nolo")
def test_without_any_network_local_images_are_served(served: Instance) -> None:
    image = served.add_image()
    served.drop_in("[Service]\nPrivateNetwork=yes\nRestrictAddressFamilies=\nRestrictAddressFamilies=AF_UNIX\n")
    assert served.get("/manifest").body == image.manifest
    assert [served.get(f"/blobs/{digest}").body for digest in image.blobs] == list(image.blobs.values())
