"""An instance of the daemon in the machine: its file, its image as an OCI layout, its units."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass

from tests.support.layouts import Layout, StoredImage
from tests.support.machine import Answer, Machine


@dataclass(frozen=True, slots=True)
class Instance:
    """The instance ``name``; making one does nothing yet."""

    machine: Machine
    name: str

    @property
    def socket(self) -> str:
        return f"container-image-proxy@{self.name}.socket"

    @property
    def service(self) -> str:
        return f"container-image-proxy@{self.name}.service"

    @property
    def health(self) -> str:
        """The service that fails while the configuration cannot be used; a path unit of the same name starts it."""
        return f"container-image-proxy-health@{self.name}.service"

    @property
    def file(self) -> str:
        return f"/etc/container-image-proxy/{self.name}.toml"

    def add_image(
        self, name: str = "image", layers: list[bytes] | None = None, compression: str = "gzip"
    ) -> StoredImage:
        """Write an OCI layout that the machine has as ``/srv/<instance>/<name>``."""
        layout = Layout(self.machine.root / "srv" / self.name / name)
        return layout.image(layers, name="latest", compression=compression, config={"author": f"{self.name}/{name}"})

    def reference(self, image: str = "image") -> str:
        return f"oci:/srv/{self.name}/{image}:latest"

    def configure(self, settings: str = "", *images: str) -> None:
        """Write the instance file: ``settings`` as they are, then a table for each image."""
        tables = [f'[images.{image}]\nreference = "{self.reference(image)}"\n' for image in images or ("image",)]
        self.machine.write(self.file, "\n".join([settings, *tables]))

    def drop_in(self, text: str) -> None:
        """Change the service by a drop-in, as ``systemctl edit`` does."""
        self.machine.write(f"/etc/systemd/system/{self.service}.d/test.conf", text)
        self.machine.systemctl("daemon-reload")

    def start(self) -> None:
        """Open the socket; the first connection starts the service."""
        self.machine.systemctl("start", self.socket)

    def stop(self) -> None:
        """Stop socket and service and forget how they ended."""
        watch = self.health.replace(".service", ".path")
        self.machine.run("systemctl", "stop", self.socket, self.service, watch, check=False)
        self.machine.run("systemctl", "reset-failed", self.socket, self.service, self.health, check=False)

    def get(self, path: str, *options: str, user: str | None = None) -> Answer:
        """GET with curl, inside."""
        return self.machine.curl(self.name, path, *options, user=user)

    def show(self, name: str) -> str:
        """A property of the service."""
        return self.machine.show(self.service, name)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the daemon itself."""
        self.machine.systemctl("kill", "--kill-whom=main", f"--signal={number.name}", self.service)

    def requests(self) -> list[dict[str, str]]:
        """The journal's records of requests."""
        return [record for record in self.machine.journal(self.service) if "REQUEST_PATH" in record]

    def starts(self) -> int:
        """How often the service was started."""
        return len({record["_SYSTEMD_INVOCATION_ID"] for record in self.requests()})


def policy(requirement: str) -> str:
    """A policy.json of one requirement for everything."""
    return json.dumps({"default": [{"type": requirement}]})
