"""The access log: one record for each request, whatever became of it.

The message of a request that failed says why. Trouble with the source, or a shortage on this host, is a warning. Only
what the administrator of this host has to mend is an error.
"""

from __future__ import annotations

import logging
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping

    from container_image_proxy.core.peer import Peer

_TOLD: Final = frozenset({"REQUEST_METHOD", "REQUEST_PATH", "STATUS", "BYTES", "DURATION_USEC", "ERROR"})
"""Fields that the message has already."""
_log = logging.getLogger(__name__)


class Outcome(StrEnum):
    """How a request ended."""

    COMPLETE = "complete"
    REFUSED = "refused"  # by the server, before the application answered
    FAILED = "failed"  # the application raised and the client got 500
    CUT = "cut"  # by us, in mid-answer: the application raised, or the time to finish was over
    DISCONNECTED = "disconnected"  # the client left
    STALLED = "stalled"  # the client stopped taking


class AccessRecord(Struct, frozen=True):
    """What became of a request. ``sent`` is in bytes of body, ``duration`` in seconds, ``status`` 0 if none was sent.

    ``details`` are fields that the application adds: IMAGE, DIGEST, ..., and ERROR, the reason of a failure.
    """

    peer: Peer
    method: str
    path: str
    status: int
    sent: int
    duration: float
    outcome: Outcome
    details: Mapping[str, str]


def log_access(record: AccessRecord) -> None:
    """Log the record, with its fields for the journal."""
    if record.status == HTTPStatus.INTERNAL_SERVER_ERROR:  # a defect, or a configuration that cannot be used
        level = logging.ERROR
    elif record.status > HTTPStatus.INTERNAL_SERVER_ERROR or record.outcome is Outcome.CUT:
        level = logging.WARNING
    else:
        level = logging.INFO
    if not _log.isEnabledFor(level):
        return
    reason = record.details.get("ERROR")
    _log.log(
        level,
        "%s %s %d %d bytes in %.3f s%s%s",
        record.method,
        record.path,
        record.status,
        record.sent,
        record.duration,
        "" if record.outcome is Outcome.COMPLETE else f", {record.outcome}",
        f": {reason}" if reason else "",
        extra={"fields": _fields(record), "told": _TOLD},
    )


def _fields(record: AccessRecord) -> dict[str, object]:
    fields: dict[str, object] = {
        "REQUEST_METHOD": record.method,
        "REQUEST_PATH": record.path,
        "STATUS": record.status,
        "BYTES": record.sent,
        "DURATION_USEC": round(record.duration * 1e6),
        "OUTCOME": record.outcome.value,
    }
    if record.peer.uid is not None:
        fields |= {"PEER_UID": record.peer.uid, "PEER_PID": record.peer.pid}
    return {**fields, **record.details}
