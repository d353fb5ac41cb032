"""OpenPGP signatures, verified by gpg, which is run for each message.

Owns the key rings and the reading of gpg's status lines (GnuPG doc/DETAILS). A message counts only if gpg has nothing
but good to say about it: exactly one good signature, nothing expired, revoked, bad, unknown, encrypted or unsigned.
Cleartext messages, for which gpg reports the same as for signed ones, never reach it: only binary messages of one
signature do (containers-signature(5)).
"""

from __future__ import annotations

import hashlib
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from msgspec import Struct, field

from container_image_proxy.errors import SignatureRejectedError
from container_image_proxy.image.signature import is_openpgp_message
from container_image_proxy.policy.gpg import Gpg, Job
from container_image_proxy.policy.openpgp_message import MAX_MESSAGE_SIZE, MessageTooLargeError, unpack_signed_message

if TYPE_CHECKING:
    from container_image_proxy.policy.budget import Budget
    from container_image_proxy.policy.gpg import Run

_MAX_KEYRINGS: Final = 16
"""Key rings that a policy keeps in memory, the last used. More sets of keys than this are imported again and again,
which costs time alone.
"""
_MOST_VERDICT: Final = 64 << 10
"""Bytes of status lines about one message, which are held in memory: about a good signature gpg writes half a KiB."""
_MOST_IMPORTED: Final = 16 << 20
"""Bytes of status lines about keys, some 200 for each of them: enough for the largest file of keys."""
_SMALL: Final = 64 << 10
"""Bytes of a message or key box. Sound messages have a few hundred, key boxes some hundred for each key. A run holds
several times that; as many may run at a time as clients are connected."""
_large: Final = threading.Lock()
"""Held by the one run at a time that takes more."""
_KEYBOX: Final = "pubring.kbx"
_VALIDSIG_FIELDS: Final = 10
_VERIFY: Final = ("--no-armor", "--max-output", str(MAX_MESSAGE_SIZE), "--output", "-", "--verify", "-")
_COMPLAINTS: Final = {
    "BADSIG": "it is not by the key that it names, or what it signs was changed",
    "NO_PUBKEY": "it is by a key that is not trusted",
    "ERRSIG": "it cannot be checked",
    "EXPSIG": "it has expired",
    "EXPKEYSIG": "it is by a key that has expired",
    "REVKEYSIG": "it is by a key that was revoked",
    "NODATA": "it is no signed OpenPGP message",
    "UNEXPECTED": "it is no signed OpenPGP message",
    "BADARMOR": "it is damaged",
    "BEGIN_DECRYPTION": "it is encrypted",
    "ENC_TO": "it is encrypted",
    "ERROR": "it is malformed",
    "FAILURE": "it is malformed",
}
_EXACTLY_ONE: Final = ("GOODSIG", "VALIDSIG", "PLAINTEXT")


class SignedMessage(Struct, frozen=True):
    """What was signed, and by whom: the primary key's fingerprint (upper-case hex), also if a subkey signed."""

    content: bytes
    primary_fingerprint: str


class Keyring:
    """A set of trusted keys, in the form in which gpg keeps them."""

    def __init__(self, keys: tuple[bytes, ...], gpg: Gpg, budget: Budget) -> None:
        """Import the keys, binary or armored; :class:`SignatureRejectedError` unless all are OpenPGP public keys."""
        self._gpg = gpg
        files = {f"key-{number}": key for number, key in enumerate(keys)}
        ran = gpg.run(Job(("--import", *files), files, _MOST_IMPORTED, result=_KEYBOX), budget)
        if ran.returncode != 0 or "IMPORT_OK" not in {keyword for keyword, _ in ran.status}:
            raise SignatureRejectedError("not all keys are OpenPGP public keys")
        self._keybox = ran.result

    def verify(self, untrusted_message: bytes, budget: Budget) -> SignedMessage:
        """The content of a message that one of the keys signed; :class:`SignatureRejectedError` says why not."""
        if not is_openpgp_message(untrusted_message):
            raise SignatureRejectedError("it is no binary OpenPGP message")
        if len(self._keybox) <= _SMALL:
            with suppress(MessageTooLargeError):
                return self._verify(unpack_signed_message(untrusted_message, _SMALL), budget)
        with budget.holding(_large):
            return self._verify(unpack_signed_message(untrusted_message), budget)

    def _verify(self, message: bytes, budget: Budget) -> SignedMessage:
        ran = self._gpg.run(Job(_VERIFY, {_KEYBOX: self._keybox}, _MOST_VERDICT, stdin=message), budget)
        return SignedMessage(ran.output, _read_verdict(ran))


class _Place(
    Struct,
):
    """Where a key ring is, or will be once somebody who holds the lock has made it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    keyring: Keyring | None = None


class Keyrings:
    """The key rings of a policy: each set of keys is imported once, and again only if its bytes change. Thread-safe."""

    def __init__(self, gpg: Gpg = Gpg()) -> None:  # noqa: B008 - frozen
        self._gpg = gpg
        self._lock = threading.Lock()
        self._places: dict[bytes, _Place] = {}

    def get(self, keys: tuple[bytes, ...], budget: Budget) -> Keyring:
        """The key ring of exactly these keys; see :class:`Keyring` for errors.

        Who comes while it is being made waits for it; an import that failed or was broken off is begun anew.
        """
        place = self._place_of(hashlib.sha256(b"".join(hashlib.sha256(key).digest() for key in keys)).digest())
        with budget.holding(place.lock):
            if place.keyring is None:
                place.keyring = Keyring(keys, self._gpg, budget)
            return place.keyring

    def _place_of(self, name: bytes) -> _Place:
        """The place of that name, which is the last to be forgotten now."""
        with self._lock:
            place = self._places[name] = self._places.pop(name, _Place())
            if len(self._places) > _MAX_KEYRINGS:
                del self._places[next(iter(self._places))]
        return place


def _read_verdict(ran: Run) -> str:
    """The primary key's fingerprint; :class:`SignatureRejectedError` unless there is one good signature."""
    keywords = [keyword for keyword, _ in ran.status]
    for keyword, complaint in _COMPLAINTS.items():
        if keyword in keywords:
            key = next(rest for found, rest in ran.status if found == keyword).partition(" ")[0]
            who = f" (key 0x{key})" if len(key) in {16, 40} and key.isalnum() else ""
            raise SignatureRejectedError(complaint + who)
    if ran.returncode != 0 or any(keywords.count(keyword) != 1 for keyword in _EXACTLY_ONE):
        raise SignatureRejectedError("it is not exactly one good signature of one message")
    fields = next(rest for keyword, rest in ran.status if keyword == "VALIDSIG").split(" ")
    if len(fields) < _VALIDSIG_FIELDS:
        raise SignatureRejectedError("gpg reports it in an unknown way")
    return fields[_VALIDSIG_FIELDS - 1]
