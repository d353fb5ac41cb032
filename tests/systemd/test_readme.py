"""The README's four lines that add an instance, run as they are written but for the image's reference."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.instance import Instance
from tests.support.machine import Machine

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_lines_that_add_an_instance_serve_its_image(machine: Machine) -> None:
    instance = Instance(machine, "os")
    image = instance.add_image()
    section = README.read_text().partition("## Add an instance")[2]
    block = section.split("```")[1].strip()
    assert len(block.splitlines()) == 4
    lines = re.sub(r"docker://[\w./:-]+", instance.reference(), block).replace("sudo ", "")
    try:
        done = machine.run("sh", "-ec", lines)
    finally:
        machine.systemctl("disable", instance.socket)
        instance.stop()
    assert done.stdout.endswith(image.manifest.decode())
