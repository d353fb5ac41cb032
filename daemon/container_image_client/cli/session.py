"""One run of ``cip``: which daemon is meant, and where progress and results are shown."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from container_image_client.cli.bars import progress_on
from container_image_client.client import Client
from container_image_client.errors import DaemonUnreachableError
from container_image_client.transport import INSTANCES

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping

    from container_image_client.progress import Progress


class Session:
    """One run: where the daemon is, what was asked for, and where to print."""

    def __init__(self, options: Namespace, environ: Mapping[str, str]) -> None:
        self.options = options
        self.environ = environ

    def client(self) -> Client:
        """The client for the daemon that the options name, or for the only instance of this host."""
        options = self.options
        socket = options.socket
        if options.instance is not None:
            socket = f"{INSTANCES}{options.instance}.sock"
        elif socket is None and options.url is None:
            socket = _only_instance()
        return Client(socket, url=options.url, image=options.image, platform=options.platform, timeout=options.timeout)

    def progress(self) -> Progress:
        """Bars, lines or nothing."""
        return progress_on(sys.stderr, quiet=self.options.quiet or self.options.json)

    def note(self, text: str) -> None:
        """Something beside the result, for a person."""
        if text and not self.options.json:
            print(text, file=sys.stderr, flush=True)

    def result(self, document: object, in_words: str) -> None:
        """The result."""
        print(json.dumps(document, indent=2) if self.options.json else in_words, flush=True)


def _only_instance() -> str:
    names = sorted(path.stem for path in Path(INSTANCES).glob("*.sock"))
    if len(names) == 1:
        return f"{INSTANCES}{names[0]}.sock"
    found = f"it has {', '.join(names)}" if names else "it has none"
    raise DaemonUnreachableError(
        f"which daemon is meant is not clear: this host does not have exactly one instance, {found}",
        remedy="name one: --instance NAME, --socket PATH or --url URL",
    )
