"""One host's configuration below a directory: registries.conf, auth.json, certs.d, a policy, an instance; and the
daemon or skopeo under it, so that both read the very same files.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.authority import Issued
from tests.support.daemon import RunningDaemon, activated, write_instance, write_policy


@dataclass(frozen=True, slots=True)
class Host:
    """The files; each can be written anew at any time, whole versions only."""

    directory: Path

    def __post_init__(self) -> None:
        self.registries_conf.parent.mkdir(parents=True, exist_ok=True)
        write_policy(self.directory)
        self.write_registries("")
        self.write_credentials({})

    @property
    def _own(self) -> Path:
        return self.directory / "home/.config/containers"

    @property
    def registries_conf(self) -> Path:
        return self._own / "registries.conf"

    @property
    def authfile(self) -> Path:
        return self.directory / "auth.json"

    @property
    def environ(self) -> dict[str, str]:
        """A home of its own, in which all these tools look for certs.d and registries.conf."""
        return {"HOME": str(self.directory / "home")}

    def write_registries(self, text: str) -> None:
        replace_file(self.registries_conf, text)

    def write_credentials(self, logins: Mapping[str, tuple[str, str]]) -> None:
        """See :func:`write_auth_file`."""
        write_auth_file(self.authfile, logins)

    def trust(self, domain: str, authority: Path, client: Issued | None = None) -> None:
        """Enter the registry ``host[:port]`` into certs.d."""
        place = self._own / "certs.d" / domain
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(authority, place / "ca.crt")
        if client:
            shutil.copy(client.certificate, place / "client.cert")
            shutil.copy(client.key, place / "client.key")

    def write_instance(self, images: Mapping[str, str], keys: str = "") -> None:
        """The instance "test" with these images, name -> reference; ``keys`` are added to each."""
        text = "".join(f'[images.{name}]\nreference = "{reference}"\n{keys}\n' for name, reference in images.items())
        text += f'[registry]\nregistries-conf = "{self.registries_conf}"\nauthfile = "{self.authfile}"\n'
        text += f'[trust]\npolicy = "{self.directory}/policy.json"\n'
        write_instance(self.directory / "config", "test", text)

    @contextlib.contextmanager
    def daemon(
        self,
        images: Mapping[str, str],
        *options: str,
        environ: Mapping[str, str] | None = None,
        keys: str = "",
        prefix: Sequence[str] = (),
    ) -> Iterator[RunningDaemon]:
        """The daemon with the instance "test"; its command comes after ``prefix``."""
        self.write_instance(images, keys)
        arguments = ["--instance", "test", "--config-dir", str(self.directory / "config"), *options]
        environ = {**self.environ, **(environ or {})}
        with activated(self.directory / "run", arguments, environ=environ, prefix=prefix) as daemon:
            yield daemon

    def skopeo(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """skopeo under the same files, as the same user."""
        command = ["skopeo", "--policy", str(self.directory / "policy.json"), *arguments]
        environ = {**os.environ, **self.environ, "REGISTRY_AUTH_FILE": str(self.authfile)}
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)


def write_auth_file(path: Path, logins: Mapping[str, tuple[str, str]]) -> None:
    """An auth.json; the keys are as in containers-auth.json(5)."""
    auths = {key: {"auth": b64encode(":".join(login).encode()).decode()} for key, login in logins.items()}
    replace_file(path, json.dumps({"auths": auths}))


def replace_file(path: Path, text: str) -> None:
    """Put a whole new version in place of the old one, in one step."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    new.chmod(0o600)
    new.rename(path)


def fetch_image(daemon: RunningDaemon, name: str) -> dict[str, bytes]:
    """Digest -> bytes of all blobs of an image, each of which has to arrive whole."""
    manifest = daemon.get(f"/images/{name}/manifest")
    assert manifest.status == 200, manifest.body
    blobs = {}
    for descriptor in (manifest.json["config"], *manifest.json["layers"]):
        blob = daemon.get(f"/images/{name}/blobs/{descriptor['digest']}")
        assert (blob.status, len(blob.body)) == (200, descriptor["size"]), blob.body[:1000]
        blobs[descriptor["digest"]] = blob.body
    return blobs
