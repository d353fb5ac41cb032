"""OpenPGP signatures, verified by gpg: a process for a message, with a private home, no options file and no network.

Owns the private key rings and the reading of gpg's status lines (GnuPG doc/DETAILS). A message counts only if gpg has
nothing but good to say about it: exactly one good signature, nothing expired, revoked, bad, unknown, encrypted or
unsigned. Cleartext messages, for which gpg reports the same as for signed ones, never reach it: only binary messages do
(containers-signature(5)).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from container_image_proxy.errors import ConfigurationError, SignatureRejectedError
from container_image_proxy.policy.signature_blob import is_openpgp_message

MAX_MESSAGE_SIZE: Final = 4 << 20
_MAX_STATUS_SIZE: Final = 64 << 10
_TIMEOUT: Final = 20.0
_MAX_KEYRINGS: Final = 16
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_VALIDSIG_FIELDS: Final = 10

_GPG: Final = (
    *("gpg", "--no-options", "--batch", "--no-tty", "--quiet", "--no-autostart", "--disable-dirmngr", "--lock-never"),
    *("--no-auto-check-trustdb", "--trust-model", "always"),
)
_VERIFY: Final = ("--no-armor", "--max-output", str(MAX_MESSAGE_SIZE), "--output", "-", "--verify", "-")
_COMPLAINTS: Final = {
    "BADSIG": "is not by the key that it names, or what it signs was changed",
    "NO_PUBKEY": "is by a key that is not trusted",
    "ERRSIG": "cannot be checked",
    "EXPSIG": "has expired",
    "EXPKEYSIG": "is by a key that has expired",
    "REVKEYSIG": "is by a key that was revoked",
    "NODATA": "is no signed OpenPGP message",
    "UNEXPECTED": "is no signed OpenPGP message",
    "BADARMOR": "is damaged",
    "BEGIN_DECRYPTION": "is encrypted",
    "ENC_TO": "is encrypted",
    "ERROR": "is malformed",
    "FAILURE": "is malformed",
}
_EXACTLY_ONE: Final = ("GOODSIG", "VALIDSIG", "PLAINTEXT")


@dataclass(frozen=True, slots=True)
class SignedMessage:
    """What was signed, and by whom: the primary key's fingerprint (upper-case hex), also if a subkey signed."""

    content: bytes
    primary_fingerprint: str


class Keyring:
    """A set of trusted keys in a private gpg home, which is removed when the last user drops the object."""

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        """Import the keys, binary or armored; :class:`SignatureRejectedError` unless all are OpenPGP public keys."""
        try:
            files = self._write_keys(keys)
        except OSError as error:
            raise SignatureRejectedError(f"no private home for gpg can be made: {error.strerror}") from error
        ran = _run_gpg(self._home, ("--import", *map(str, files)), b"")
        if ran.returncode != 0 or "IMPORT_OK" not in {keyword for keyword, _ in ran.status}:
            raise SignatureRejectedError("not all keys are OpenPGP public keys")

    def _write_keys(self, keys: tuple[bytes, ...]) -> list[Path]:
        self._home = Path(tempfile.mkdtemp(prefix="container-image-proxy-gpg-"))
        weakref.finalize(self, shutil.rmtree, self._home, ignore_errors=True)
        files = [self._home / f"key-{number}" for number in range(len(keys))]
        for file, key in zip(files, keys, strict=True):
            file.write_bytes(key)
        return files

    def verify(self, untrusted_message: bytes) -> SignedMessage:
        """The content of a message that one of the keys signed; :class:`SignatureRejectedError` says why not."""
        if len(untrusted_message) > MAX_MESSAGE_SIZE:
            raise SignatureRejectedError(f"is larger than {MAX_MESSAGE_SIZE} bytes")
        if not is_openpgp_message(untrusted_message):
            raise SignatureRejectedError("is no binary OpenPGP message")
        ran = _run_gpg(self._home, _VERIFY, untrusted_message)
        return SignedMessage(ran.output, _read_verdict(ran))


class Keyrings:
    """The key rings of a policy: each set of keys is imported once, and again only if its bytes change. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keyrings: dict[bytes, Keyring] = {}

    def get(self, keys: tuple[bytes, ...]) -> Keyring:
        """The key ring of exactly these keys; see :class:`Keyring` for errors."""
        name = hashlib.sha256(b"".join(hashlib.sha256(key).digest() for key in keys)).digest()
        with self._lock:
            keyring = self._keyrings.pop(name, None) or Keyring(keys)
            self._keyrings[name] = keyring
            if len(self._keyrings) > _MAX_KEYRINGS:
                del self._keyrings[next(iter(self._keyrings))]
        return keyring


@dataclass(frozen=True, slots=True)
class _Run:
    """How gpg ended, what it wrote, and its status lines as (keyword, rest)."""

    returncode: int
    output: bytes
    status: tuple[tuple[str, str], ...]


def _run_gpg(home: Path, arguments: tuple[str, ...], stdin: bytes) -> _Run:
    try:
        with os.fdopen(os.memfd_create("gpg-status"), "rb") as status:
            ran = subprocess.run(  # noqa: S603 - fixed arguments, our own paths
                (*_GPG, "--homedir", str(home), "--status-fd", str(status.fileno()), *arguments),
                input=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=(status.fileno(),),
                env={"PATH": _PATH, "LC_ALL": "C", "GNUPGHOME": str(home)},
                timeout=_TIMEOUT,
                check=False,
            )
            said = os.pread(status.fileno(), _MAX_STATUS_SIZE + 1, 0)
        return _Run(ran.returncode, ran.stdout, _parse_status(said))
    except FileNotFoundError as error:
        reason = "is not installed, so OpenPGP signatures cannot be checked"
        raise ConfigurationError("gpg", reason, remedy="install gpg, of GnuPG 2.2 or later") from error
    except subprocess.TimeoutExpired as error:
        raise SignatureRejectedError(f"could not be checked by gpg within {_TIMEOUT:.0f} s") from error
    except OSError as error:
        raise SignatureRejectedError(f"could not be checked: gpg cannot be run: {error.strerror}") from error


def _parse_status(raw: bytes) -> tuple[tuple[str, str], ...]:
    if len(raw) > _MAX_STATUS_SIZE:
        raise SignatureRejectedError("makes gpg say more than a signature is worth")
    lines = (line.removeprefix("[GNUPG:] ") for line in raw.decode("utf-8", "replace").split("\n"))
    return tuple((keyword, rest) for keyword, _, rest in (line.partition(" ") for line in lines) if keyword)


def _read_verdict(ran: _Run) -> str:
    """The primary key's fingerprint; :class:`SignatureRejectedError` unless there is one good signature."""
    keywords = [keyword for keyword, _ in ran.status]
    for keyword, complaint in _COMPLAINTS.items():
        if keyword in keywords:
            raise SignatureRejectedError(complaint + _who(ran, keyword))
    if ran.returncode != 0 or any(keywords.count(keyword) != 1 for keyword in _EXACTLY_ONE):
        raise SignatureRejectedError("is not exactly one good signature of one message")
    fields = next(rest for keyword, rest in ran.status if keyword == "VALIDSIG").split(" ")
    if len(fields) < _VALIDSIG_FIELDS:
        raise SignatureRejectedError("was reported by gpg in an unknown way")
    return fields[_VALIDSIG_FIELDS - 1]


def _who(ran: _Run, keyword: str) -> str:
    key = next(rest for found, rest in ran.status if found == keyword).partition(" ")[0]
    return f" (key 0x{key})" if len(key) in {16, 40} and key.isalnum() else ""
