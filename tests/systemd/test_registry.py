"""An instance as a registry on a port, by the command that contrib/examples/registries-mirror.conf tells."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

from tests.support.instance import Instance
from tests.support.machine import Machine

EXAMPLE = Path(__file__).resolve().parents[2] / "contrib/examples/registries-mirror.conf"
MANUAL = EXAMPLE.parents[1] / "man/container-image-proxy-http.7"
UNIT = "os-registry"


def command_of_the_example() -> list[str]:
    told = re.search(r"^#   (systemd-run .*?[^\\])$", EXAMPLE.read_text(), re.MULTILINE | re.DOTALL)
    assert told is not None
    return shlex.split(told[1].replace("\\\n#", " "))


def test_the_command_opens_a_port_to_an_instance(machine: Machine, make_instance: Callable[[str], Instance]) -> None:
    instance = make_instance("os")
    image = instance.add_image()
    instance.configure()
    instance.start()
    machine.run(*command_of_the_example())
    try:
        root = "http://127.0.0.1:5000/v2"
        assert json.loads(machine.run("curl", "-sS", f"{root}/_catalog").stdout) == {"repositories": ["image"]}
        manifest = machine.run("curl", "-sS", f"{root}/image/manifests/latest").stdout
        assert manifest.encode() == image.manifest
        assert instance.show("ActiveState") == "active"
    finally:
        machine.run("systemctl", "stop", f"{UNIT}.socket", f"{UNIT}.service", check=False)


def test_the_manual_page_tells_the_same_command() -> None:
    told = MANUAL.read_text().replace("\\e\n", " ")
    assert shlex.join(command_of_the_example()) in re.sub(r" +", " ", told)
