"""Progress as a person sees it: bars on a terminal, and one line a step elsewhere."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn, TextIO

from container_image_client.cli.words import size_in_words
from container_image_client.progress import SILENT, Progress, Step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tqdm import tqdm

_SHOWN = 19  # characters of a digest: the algorithm and 12 digits


def progress_on(stream: TextIO, *, quiet: bool) -> Progress:
    """What shows progress on this stream."""
    if quiet:
        return SILENT
    # A terminal that does not know its size, as a serial console, can show no bar.
    if stream.isatty() and os.get_terminal_size(stream.fileno()).columns:
        try:
            return _Bars(stream)
        except ImportError:
            pass  # the bars are a convenience; where tqdm is missing, lines do
    return _Lines(stream)


class _Lines:
    """A line when a step is done."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    @contextmanager
    def step(self, label: str, digest: str, size: int, *, done: int = 0) -> Iterator[Step]:
        yield SILENT
        self._say(label, digest, size, f", {size_in_words(done)} of it were there" if done else "")

    def skip(self, label: str, digest: str, size: int) -> None:
        self._say(label, digest, size, ", all of it was there")

    def _say(self, label: str, digest: str, size: int, more: str) -> None:
        with self._lock:
            print(f"{label}: {digest[:_SHOWN]}, {size_in_words(size)}{more}", file=self._stream, flush=True)


class _Bars:
    """A bar for each step, with rate and time left."""

    def __init__(self, stream: TextIO) -> None:
        from tqdm import tqdm  # noqa: PLC0415 - it takes 30 ms, and only a terminal needs it

        tqdm.monitor_interval = 0  # else it keeps a thread
        self._tqdm = tqdm
        self._stream = stream

    @contextmanager
    def step(self, label: str, digest: str, size: int, *, done: int = 0) -> Iterator[Step]:
        with self._tqdm(
            total=size,
            initial=done,
            desc=f"{label} {digest[:_SHOWN]}",
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            dynamic_ncols=True,
            file=self._stream,
        ) as bar:
            yield _Bar(bar)

    def skip(self, label: str, digest: str, size: int) -> None:
        self._tqdm.write(f"{label} {digest[:_SHOWN]}: {size_in_words(size)}, all of it was there", file=self._stream)


class _Bar:
    def __init__(self, bar: tqdm[NoReturn]) -> None:
        self._bar = bar

    def advance(self, count: int) -> None:
        self._bar.update(count)
