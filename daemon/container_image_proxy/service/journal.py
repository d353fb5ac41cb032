"""Log records: with fields into the systemd journal, or as readable lines on stderr.

A record is one journal entry or one line, whatever a name, a header or an error text tried to smuggle in: control
characters are escaped, and long values are cut. Callers pass fields by ``extra={"fields": {...}}``, and name those that
the message has already by ``extra={"told": {...}}``. They must not pass secrets.
Spec: systemd.journal-fields(7), systemd.exec(5) for JOURNAL_STREAM.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PACKAGE: Final = "container_image_proxy"
PROGRAM: Final = "container-image-proxy"
"""The identifier of all records: ``journalctl -t``. Lines on stderr get it from the unit's SyslogIdentifier=."""
_LONGEST: Final = 4096  # characters of a message or a field
_LONGEST_TRACEBACK: Final = 32 * 1024
_SEVERITIES: Final = ((logging.CRITICAL, "2"), (logging.ERROR, "3"), (logging.WARNING, "4"), (logging.INFO, "6"))
"""The severities of syslog (RFC 5424 section 6.2.1), each from a level of logging on."""
_PLAIN: Final = re.compile(r"[!#-&(-<>-~]{1,256}")  # a value that needs no quotes: no space, quote or "="


def one_line(text: str, limit: int = _LONGEST) -> str:
    """``text`` on one line: cut to about ``limit`` characters, and those that cannot be seen are escaped.

    These are Unicode's categories "other" and "separator", except for the space: characters that end a line, move the
    cursor, change the direction of writing or are invisible, and those that no version of Unicode has assigned yet.
    """
    beginning = text[:limit]
    if not beginning.isprintable():
        beginning = "".join(
            one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in beginning
        )
    return beginning if len(text) <= limit else f"{beginning}... ({len(text)} characters)"


def set_up_logging(level: int = logging.INFO, instance: str | None = None) -> None:
    """Send records to the journal if this process's stderr is connected to it, else to stderr.

    ``level`` is for our own records. Libraries may log warnings only, because their details may hold secrets.
    """
    # Nothing shows a record's thread or process, and to find them out is half of what it takes to make one.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    handler: logging.Handler = LineHandler(sys.stderr)
    if is_journal(sys.stderr):
        # Without the library, which stand-alone use can do without, the journal gets lines.
        with contextlib.suppress(ImportError):
            import systemd.journal  # noqa: PLC0415 - 10 ms that only the journal is worth

            handler = JournalHandler(systemd.journal.send, {"INSTANCE": instance} if instance else {})
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(PACKAGE).setLevel(level)


def is_journal(stream: TextIO) -> bool:
    """Whether ``stream`` is the connection to the journal that systemd made (JOURNAL_STREAM)."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class JournalHandler(logging.Handler):
    """Sends each record by ``send`` (systemd.journal.send), with its own fields, the usual ones, and ``constant``."""

    def __init__(self, send: Callable[..., object], constant: Mapping[str, str]) -> None:
        super().__init__()
        self._send = send
        self._constant = dict(constant)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one entry."""
        try:
            self._send(one_line(record.getMessage()), **self._entry(record))
        except Exception:  # noqa: BLE001 - logging must not raise into its caller
            self.handleError(record)

    def _entry(self, record: logging.LogRecord) -> dict[str, object]:
        entry: dict[str, object] = {name: one_line(str(value)) for name, value in _fields(record).items()}
        entry.pop("MESSAGE", None)  # a field of that name would replace the message
        if record.exc_info:
            entry["TRACEBACK"] = "\n".join(_traceback_lines(record))
        return entry | {
            "SYSLOG_IDENTIFIER": PROGRAM,
            "PRIORITY": next((severity for least, severity in _SEVERITIES if record.levelno >= least), "7"),
            "LOGGER": record.name,
            "CODE_FILE": record.pathname,
            "CODE_LINE": record.lineno,
            "CODE_FUNC": record.funcName,
            **self._constant,
        }


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes each record as ``level message key=value ...``, with the fields that the message does not have already.

    The lines of a traceback follow, indented.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record's lines, without the last line end."""
        told = getattr(record, "told", ())
        untold = ((name, value) for name, value in _fields(record).items() if name not in told)
        fields = (f"{name.lower()}={_quoted(str(value))}" for name, value in untold)
        line = " ".join((record.levelname.lower(), one_line(record.getMessage()), *fields))
        return "\n    ".join((line, *_traceback_lines(record)))


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields: dict[str, object] = getattr(record, "fields", {})
    return fields


def _traceback_lines(record: logging.LogRecord) -> list[str]:
    if not record.exc_info:
        return []
    text = logging.Formatter().formatException(record.exc_info)[-_LONGEST_TRACEBACK:]
    return [one_line(line) for line in text.splitlines()]


def _quoted(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    return '"' + one_line(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
