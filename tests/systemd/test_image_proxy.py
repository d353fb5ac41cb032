"""skopeo's protocol from systemd: a socket of its own, the same service, and peers as they are."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.image_proxy import Client
from tests.support.instance import Instance
from tests.support.machine import ROOT, Machine

_ASK = """
import json, socket, sys
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect(sys.argv[1])
replies = []
for method, *args in json.loads(sys.argv[2]):
    try:
        sock.send(json.dumps({"method": method, "args": args}).encode())
    except OSError:
        break
    replies.append(json.loads(sock.recv(1 << 16) or "null"))
print(json.dumps(replies))
"""


@pytest.fixture
def instance(machine: Machine, make_instance: Callable[[str], Instance]) -> Iterator[Instance]:
    """With both sockets open, and nothing started."""
    one = make_instance("packets")
    machine.systemctl("start", packets_of(one))
    yield one
    machine.run("systemctl", "stop", packets_of(one), check=False)


def packets_of(instance: Instance) -> str:
    return f"container-image-proxy-skopeo@{instance.name}.socket"


def path_of(instance: Instance) -> str:
    return f"/run/container-image-proxy/{instance.name}.skopeo"


def ask(machine: Machine, instance: Instance, user: str, *requests: list[str]) -> list[dict[str, Any]]:
    """The answers that a process of a user gets, inside."""
    command = ["python3", "-c", _ASK, path_of(instance), json.dumps(requests)]
    replies: list[dict[str, Any]] = json.loads(machine.run(*command, user=user).stdout)
    return replies


def test_either_socket_starts_the_service_which_serves_both(machine: Machine, instance: Instance) -> None:
    stored = instance.add_image()
    instance.configure()
    instance.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(str(machine.root / Path(path_of(instance)).relative_to("/")))
        client = Client(sock)
        assert client.value("Initialize") == "0.2.8"
        one = client.value("OpenImage", instance.reference())
        assert client.content("GetManifest", one) == stored.manifest
        assert client.content("GetBlob", one, stored.layer_digests[0], len(stored.layers[0])) == stored.layers[0]
        assert instance.get("/manifest").body == stored.manifest
    assert instance.show("NRestarts") == "0"


def test_peers_are_who_they_are(machine: Machine, instance: Instance) -> None:
    machine.add_user("packet-reader")
    machine.add_user("packet-stranger")
    instance.add_image("image")
    instance.add_image("private")
    instance.configure(
        '[access]\nusers = ["root", "packet-reader"]\n[images.private.access]\nusers = ["root"]', "image", "private"
    )
    requests = (["Initialize"], ["OpenImage", "image"], ["OpenImage", "private"], ["OpenImage", "oci:/etc:latest"])
    answers = {user: ask(machine, instance, user, *requests) for user in ("root", "packet-reader", "packet-stranger")}
    assert [one["success"] for one in answers["root"]] == [True, True, True, False]
    assert [one["success"] for one in answers["packet-reader"]] == [True, True, False, False]
    told = [one for one in answers["packet-stranger"] if one is not None]  # and then the end
    assert [(one["success"], one["error"]) for one in told] == [(False, "this user may not connect")]


def test_a_service_with_the_drop_in_runs_ours(machine: Machine) -> None:
    """Done as the drop-in's own comment says, for a service that runs skopeo by its name, as bootc does."""
    shim, drop_in = (ROOT / "contrib/skopeo-shim" / name for name in ("skopeo", "container-image-proxy.conf"))
    machine.write("/usr/libexec/container-image-proxy/skopeo", shim.read_text())
    machine.run("chmod", "755", "/usr/libexec/container-image-proxy/skopeo")
    machine.write(
        "/etc/systemd/system/bootc-fetch-apply-updates.service.d/container-image-proxy.conf", drop_in.read_text()
    )
    machine.write(
        "/etc/systemd/system/bootc-fetch-apply-updates.service",
        "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'command -v skopeo; skopeo experimental-image-proxy --help'\n",
    )
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "bootc-fetch-apply-updates.service")
    said = "\n".join(record["MESSAGE"] for record in machine.journal("bootc-fetch-apply-updates.service"))
    assert "/usr/libexec/container-image-proxy/skopeo" in said
    assert "usage: container-image-proxy experimental-image-proxy" in said
