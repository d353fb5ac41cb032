"""OpenPGP signatures, verified by one run of gpg for each message (containers-signature(5)).

Owns the key rings and reads gpg's status lines (GnuPG doc/DETAILS). A message counts only if gpg reports exactly one
good signature and no problem: nothing expired, revoked, bad, unknown, encrypted or unsigned. Cleartext messages are
never given to gpg, because its status lines do not tell them from binary ones.
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
"""Key rings that a policy keeps in memory, the most recently used. A policy with more sets of keys works as well, but
imports some of them again.
"""
_MAX_VERDICT_STATUS: Final = 64 << 10
"""Bytes of status lines about one message, which are held in memory. gpg writes half a KiB about a good signature."""
_MAX_IMPORT_STATUS: Final = 16 << 20
"""Bytes of status lines about imported keys: enough for the largest key file, at 200 bytes for each key."""
_SMALL: Final = 64 << 10
"""Bytes of a message or key box that count as small. Signatures have a few hundred bytes, and key boxes some hundred
for each key. A run takes several times that memory, and as many small runs as connected clients may happen at a time.
"""
_large: Final = threading.Lock()
"""Held by a run with a large message or key box, so that there is one of them at a time (contrib/adr/0024)."""
_KEYBOX: Final = "pubring.kbx"
_VALIDSIG_FIELDS: Final = 10  # the tenth is the primary key's fingerprint
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
"""What is wrong, by status keyword. The first that gpg reported is told. A keyword of this table rejects even beside
GOODSIG or VALIDSIG: gpg writes VALIDSIG also for a valid signature by an expired key.
"""
_EXACTLY_ONE: Final = ("GOODSIG", "VALIDSIG", "PLAINTEXT")


class SignedMessage(Struct, frozen=True):
    """Verified content, and the fingerprint (upper-case hex) of the signer's primary key, also if a subkey signed."""

    content: bytes
    primary_fingerprint: str


class Keyring:
    """A set of trusted keys as a key box, gpg's own format."""

    def __init__(self, keys: tuple[bytes, ...], gpg: Gpg, budget: Budget) -> None:
        """Import the keys, binary or armored; :class:`SignatureRejectedError` unless all are OpenPGP public keys."""
        self._gpg = gpg
        files = {f"key-{number}": key for number, key in enumerate(keys)}
        ran = gpg.run(Job(("--import", *files), files, _MAX_IMPORT_STATUS, result=_KEYBOX), budget)
        if ran.returncode != 0 or "IMPORT_OK" not in {keyword for keyword, _ in ran.status}:
            raise SignatureRejectedError("not all keys are OpenPGP public keys")
        self._keybox = ran.result

    def verify(self, untrusted_message: bytes, budget: Budget) -> SignedMessage:
        """The content and signer of a binary message.

        :class:`SignatureRejectedError` unless one of the keys signed it.
        """
        if not is_openpgp_message(untrusted_message):
            raise SignatureRejectedError("it is no binary OpenPGP message")
        # Nearly all messages are small and run in parallel. One that turns out to need more memory is unpacked again
        # below, when it is its turn.
        if len(self._keybox) <= _SMALL:
            with suppress(MessageTooLargeError):
                return self._verify(unpack_signed_message(untrusted_message, _SMALL), budget)
        with budget.holding(_large):
            return self._verify(unpack_signed_message(untrusted_message), budget)

    def _verify(self, message: bytes, budget: Budget) -> SignedMessage:
        ran = self._gpg.run(Job(_VERIFY, {_KEYBOX: self._keybox}, _MAX_VERDICT_STATUS, stdin=message), budget)
        return SignedMessage(ran.output, _read_verdict(ran))


class _Slot(Struct):
    """A key ring, or None until a thread that holds the lock has imported its keys."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    keyring: Keyring | None = None


class Keyrings:
    """The key rings of a policy. A set of keys is imported once, and again only if its bytes change. Thread-safe."""

    def __init__(self, gpg: Gpg = Gpg()) -> None:  # noqa: B008 - frozen
        self._gpg = gpg
        self._lock = threading.Lock()
        self._slots: dict[bytes, _Slot] = {}  # by the keys' digest; the most recently used is the last

    def get(self, keys: tuple[bytes, ...], budget: Budget) -> Keyring:
        """The key ring of exactly these keys; errors as of :class:`Keyring`.

        Threads that ask for the same keys meanwhile wait for one import. If it fails, the next of them tries again.
        """
        # Of digests, not of the keys: joined, two other keys could be the same bytes.
        name = hashlib.sha256(b"".join(hashlib.sha256(key).digest() for key in keys)).digest()
        with self._lock:
            slot = self._slots[name] = self._slots.pop(name, _Slot())
            if len(self._slots) > _MAX_KEYRINGS:
                del self._slots[next(iter(self._slots))]
        with budget.holding(slot.lock):
            if slot.keyring is None:
                slot.keyring = Keyring(keys, self._gpg, budget)
            return slot.keyring


def _read_verdict(ran: Run) -> str:
    """The primary key's fingerprint; :class:`SignatureRejectedError` unless gpg reports exactly one good signature."""
    keywords = [keyword for keyword, _ in ran.status]
    for keyword, complaint in _COMPLAINTS.items():
        if keyword in keywords:
            key = next(rest for found, rest in ran.status if found == keyword).partition(" ")[0]
            # The signature tells the key's id, and nothing vouches for it yet: only what looks like one is shown.
            who = f" (key 0x{key})" if len(key) in {16, 40} and key.isalnum() else ""
            raise SignatureRejectedError(complaint + who)
    if ran.returncode != 0 or any(keywords.count(keyword) != 1 for keyword in _EXACTLY_ONE):
        raise SignatureRejectedError("it is not exactly one good signature of one message")
    fields = next(rest for keyword, rest in ran.status if keyword == "VALIDSIG").split(" ")
    if len(fields) < _VALIDSIG_FIELDS:
        raise SignatureRejectedError("gpg reports it in an unknown way")
    return fields[_VALIDSIG_FIELDS - 1]
