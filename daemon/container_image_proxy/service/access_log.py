"""The access log: one INFO record for each request, whatever became of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from container_image_proxy.service.peer import Peer

_log = logging.getLogger(__name__)


class Outcome(StrEnum):
    """How a request ended."""

    COMPLETE = "complete"
    REFUSED = "refused"  # by the server, before the application answered
    FAILED = "failed"  # the application raised and the client got 500
    CUT = "cut"  # the application raised in mid-answer
    DISCONNECTED = "disconnected"  # the client left
    STALLED = "stalled"  # the client stopped taking


@dataclass(frozen=True, slots=True)
class AccessRecord:
    """What happened to a request: ``sent`` in bytes of body, ``duration`` in seconds, ``status`` 0 if none was sent.

    ``details`` are the fields that the application adds: IMAGE, DIGEST, ...
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
    """Write the record, with the fields of the journal."""
    if not _log.isEnabledFor(logging.INFO):
        return
    _log.info(
        "%s %s %d %d bytes in %.3f s%s",
        record.method,
        record.path,
        record.status,
        record.sent,
        record.duration,
        "" if record.outcome is Outcome.COMPLETE else f", {record.outcome}",
        extra={"fields": _fields(record)},
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
