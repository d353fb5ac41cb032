"""gpg for tests: keys and signatures made on the spot, and no agent that outlives them."""

from __future__ import annotations

import functools
import itertools
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.support.leaks import end_children
from tests.support.requirements import require_program


def run_gpg(home: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    command = ["gpg", "--homedir", str(home), "--no-options", "--batch", "--quiet", "--no-tty", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, check=True).stdout


class Signer:
    """A key pair in a home of its own, made at ``made_at`` (like 20240101T000000, default now); a context manager."""

    def __init__(self, name: str = "tester@example.com", *, made_at: str = "", expires: str = "never") -> None:
        require_program("gpg")
        self._folder = tempfile.TemporaryDirectory(prefix="gpg-")  # short: the agent's socket lies in it
        self.home = Path(self._folder.name)
        when = ["--faked-system-time", made_at] if made_at else []
        self.gpg(*when, "--passphrase", "", "--quick-generate-key", name, "ed25519", "sign", expires)
        (self.fingerprint,) = list_fingerprints(self.home)
        self.public_key = self.gpg("--export")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["gpgconf", "--homedir", str(self.home), "--kill", "all"], check=True, capture_output=True)
        self._folder.cleanup()

    def gpg(self, *arguments: str, stdin: bytes = b"") -> bytes:
        return run_gpg(self.home, *arguments, stdin=stdin)

    def sign(self, content: bytes, *options: str) -> bytes:
        """A message as simple signing has it: the content inside the signature."""
        return self.gpg(*options, "--sign", stdin=content)

    def sign_image(self, reference: str, digest: str) -> bytes:
        """A simple signing signature: this reference is the image with this digest."""
        critical = {
            "type": "atomic container signature",
            "image": {"docker-manifest-digest": digest},
            "identity": {"docker-reference": reference},
        }
        return self.sign(json.dumps({"critical": critical, "optional": {}}).encode())


@pytest.fixture(scope="module")
def signer() -> Iterator[Signer]:
    """Whom the tests of a module trust."""
    with Signer() as made:
        yield made


@pytest.fixture(scope="module")
def stranger() -> Iterator[Signer]:
    """Whom nobody trusts."""
    with Signer("stranger@example.com") as made:
        yield made


@pytest.fixture
def no_agent_of_skopeo() -> Iterator[None]:
    """End the agents that containers/image leaves: GnuPG 2.4 starts one in each of its homes. Some stay a minute.

    An agent of our own gpg, which must start none, is still found.
    """
    yield
    end_children("gpg-agent --homedir /tmp/containers-ephemeral-gpg-")


def list_fingerprints(home: Path) -> list[str]:
    """The fingerprints of the primary keys in a home."""
    lines = run_gpg(home, "--no-autostart", "--list-keys", "--with-colons").decode().splitlines()
    heads = [following for line, following in itertools.pairwise(lines) if line.startswith("pub:")]
    return [head.split(":")[9] for head in heads]


@functools.cache
def _export_keys(folder: Path) -> dict[str, bytes]:
    """Every public key in the ``*.gpg`` files of a folder, by its fingerprint."""
    files = [str(path) for path in folder.glob("*.gpg") if path.name != "trustdb.gpg"]
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        run_gpg(home, "--no-autostart", "--import", *files)
        return {key: run_gpg(home, "--no-autostart", "--export", key) for key in list_fingerprints(home)}


def select_keys(folder: Path, fingerprints: list[str]) -> tuple[bytes, ...]:
    """The keys of these fingerprints, as far as the folder has them."""
    keys = _export_keys(folder)
    return tuple(keys[name] for name in fingerprints if name in keys)
