"""What the unit's sandbox must let through: the libraries that make memory executable, and gpg as a subprocess."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.support.instance import Instance
from tests.support.machine import Machine

_PROBE = """\
import ctypes, json, os, socket, subprocess, sys
sys.path.insert(0, "/opt/tests/packages")
from cryptography.hazmat.primitives.asymmetric import ec

def refused(attempt):
    try:
        attempt()
    except OSError:
        return True
    return False

home = "/tmp/gpg"
os.mkdir(home, 0o700)
gpg = ["gpg", "--batch", "--homedir", home]
subprocess.run([*gpg, "--quick-generate-key", "--passphrase", "", "probe"], check=True, capture_output=True)
signed = subprocess.run([*gpg, "--sign"], input=b"x", check=True, capture_output=True).stdout
checked = subprocess.run([*gpg, "--status-fd=1", "--decrypt"], input=signed, capture_output=True).stdout
ec.generate_private_key(ec.SECP256R1())
print(json.dumps({
    "callback": ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 5)(),
    "signature": b"GOODSIG" in checked,
    "internet": not refused(socket.socket),
    "packets": refused(lambda: socket.socket(socket.AF_PACKET)),
    "etc": refused(lambda: open("/etc/x", "w")),
    "home": refused(lambda: os.listdir("/root")),
    "processes": refused(lambda: open("/proc/1/status")),
    "capabilities": next(line.split()[1] for line in open("/proc/self/status") if line.startswith("CapBnd")),
}))
"""


def test_the_sandbox_lets_through_what_the_daemon_needs_and_no_more(
    machine: Machine, make_instance: Callable[[str], Instance]
) -> None:
    instance = make_instance("probe")
    machine.write("/usr/local/bin/probe", f"#!/usr/bin/python3\n{_PROBE}", mode=0o755)
    instance.drop_in("[Service]\nType=oneshot\nRestart=no\nExecStart=\nExecStart=/usr/local/bin/probe\n")
    machine.systemctl("start", instance.service)
    (found,) = [
        json.loads(record["MESSAGE"])
        for record in machine.journal(instance.service)
        if record.get("_TRANSPORT") == "stdout"
    ]
    assert found == {
        "callback": 5,
        "signature": True,
        "internet": True,
        "packets": True,
        "etc": True,
        "home": True,
        "processes": True,
        "capabilities": "0000000000000000",
    }
