"""Generated cases: one random configuration for skopeo and for us, which have to come to the same.

A kind of case is a module in tests/interop/generated: it makes files and registries out of dice, asks both, and hands
what came of it to :func:`check`. Where the two differ, a rule for the table ``generated/<kind>`` in
tests/conformance/deviations.toml has to say why. The dice are seeded by the test's name, so that it is the same case
everywhere; ``--seed N`` makes others, ``--cases N`` more of each kind, and ``--skopeo PATH`` asks another skopeo.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

from container_image_proxy.cli.options import build_parser, load_settings
from container_image_proxy.config.limits import Limits
from container_image_proxy.core import assembly
from container_image_proxy.core.assembly import Surroundings, assemble
from container_image_proxy.core.snapshot_store import SnapshotStore
from container_image_proxy.errors import Error
from tests.support.conformance import deviation
from tests.support.contexts import CONTEXT
from tests.support.upstream import Connection, ReceivedRequest, Upstream

# Addresses, so that no name has to be resolved. At the last nobody listens, on any port.
HOSTS = {"a": "127.0.0.1", "b": "127.0.0.2", "c": "127.0.0.3"}
NOBODY = "127.0.0.5"
ACCEPT_ANYTHING: dict[str, Any] = {"default": [{"type": "insecureAcceptAnything"}]}
_PATIENCE = 60.0

Answer = Callable[[str, ReceivedRequest, Connection], None]


@dataclass(frozen=True)
class Skopeo:
    """A program and its version, such as 1.9.3."""

    path: str
    version: str


@dataclass(frozen=True)
class Result:
    """What came of a pull: whether it succeeded, and if not, why not."""

    ok: bool
    reason: str = ""

    def __str__(self) -> str:
        return "ok" if self.ok else "no"


@dataclass
class Bench:
    """A directory with one host's configuration, three registries, and both clients."""

    directory: Path
    skopeo: Skopeo
    authorities: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home = self.directory / "home"
        self.write("policy.json", json.dumps(ACCEPT_ANYTHING))
        self.write("registries.conf", "")
        self.write("registries.d/default.yaml", f"default-docker:\n  lookaside: file://{self.directory}/lookaside\n")
        self.write("auth.json", "{}")
        self.drop_ins.mkdir(parents=True)

    @property
    def drop_ins(self) -> Path:
        """Where skopeo, which has no option for it, looks for drop-ins of a user."""
        return self.home / ".config/containers/registries.conf.d"

    def fill_in(self, text: str) -> str:
        """``$a`` to ``$c`` become the registries' authorities."""
        return Template(text).safe_substitute(self.authorities)

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else self.fill_in(content).encode())
        path.chmod(0o600)
        return path

    @contextlib.contextmanager
    def registries(self, answer: Answer) -> Iterator[None]:
        """The registries, which answer by their letter, from here to the end of the block."""
        with contextlib.ExitStack() as stack:
            for letter, address in HOSTS.items():
                upstream = Upstream(lambda request, connection, at=letter: answer(at, request, connection), address)  # type: ignore[misc]
                self.authorities[letter] = stack.enter_context(upstream).authority
            yield

    def ask_skopeo(self, image: str) -> Result:
        command = [
            *(self.skopeo.path, "--policy", f"{self.directory}/policy.json"),
            *(
                "--registries-conf",
                f"{self.directory}/registries.conf",
                "--registries.d",
                f"{self.directory}/registries.d",
            ),
            *("copy", self.fill_in(f"docker://{image}"), f"dir:{self.directory}/copy"),
        ]
        environ = os.environ | {"HOME": str(self.home), "REGISTRY_AUTH_FILE": f"{self.directory}/auth.json"}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=_PATIENCE)
        return Result(done.returncode == 0, done.stderr.strip())

    def ask_us(self, image: str) -> Result:
        options = build_parser().parse_args(
            [
                *("--policy", f"{self.directory}/policy.json", "--authfile", f"{self.directory}/auth.json"),
                *("--registries-conf", f"{self.directory}/registries.conf"),
                *("--registries-conf-dir", str(self.drop_ins), "--registries.d", f"{self.directory}/registries.d"),
                self.fill_in(f"docker://{image}"),
            ]
        )
        try:
            settings = load_settings(options, os.geteuid())
            serving = assemble(settings, SnapshotStore(None), Surroundings({}, self.home, os.geteuid()))
            with contextlib.closing(serving.sources.registry()):
                snapshot = serving.proxy.resolve(CONTEXT, "image")
                for descriptor in snapshot.manifest.blobs:
                    with contextlib.closing(serving.proxy.open_blob(CONTEXT, snapshot, descriptor)) as blob:
                        blob.read_all()
        except Error as error:
            return Result(ok=False, reason=f"{type(error).__name__}: {error}")
        return Result(ok=True)


def one_try(patch: Any) -> None:
    """Let us ask each place once, as skopeo does: how often we try again is none of these tests' business."""
    patch.setattr(assembly, "Limits", lambda: Limits(attempts=1))


def answer_image(request: ReceivedRequest, connection: Connection, documents: Mapping[str, tuple[str, bytes]]) -> None:
    """Send the document that is asked for, by the last component of its path; 404 for any other."""
    media_type, content = documents.get(request.path.rpartition("/")[2], ("", None))
    if request.path == "/v2/":
        connection.answer(200, b"{}")
    elif content is None:
        connection.answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
    else:
        connection.answer(200, content, {"Content-Type": media_type} if media_type else {})


def check(kind: str, bench: Bench, case: Mapping[str, Any], theirs: str, ours: str, why: Sequence[Result]) -> None:
    """Both came to the same, or a deviation says why not. Columns of the row: the case's, theirs, ours, skopeo."""
    if theirs == ours:
        return
    row = {**case, "theirs": theirs, "ours": ours, "skopeo": bench.skopeo.version}
    told = {"skopeo says": why[0].reason[-400:], "we say": why[1].reason}
    assert deviation(f"generated/{kind}", row) is not None, json.dumps({**row, **told}, indent=1)


def some(dice: random.Random, *choices: tuple[float, Any]) -> Any:
    """One of the values, as often as its weight says."""
    return dice.choices([value for _, value in choices], [weight for weight, _ in choices])[0]
