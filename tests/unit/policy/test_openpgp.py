"""OpenPGP messages: the one good kind, and everything that gpg says of the others."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from container_image_proxy.errors import ConfigurationError, SignatureRejectedError
from container_image_proxy.policy import openpgp
from container_image_proxy.policy.openpgp import MAX_MESSAGE_SIZE, Keyring, Keyrings
from tests.support.gpg import Signer

CONTENT = b'{"critical":{}}'


@pytest.fixture
def keyring(signer: Signer) -> Keyring:
    return Keyring((signer.public_key,))


@pytest.fixture(scope="module")
def damageable(signer: Signer) -> bytes:
    return signer.sign(CONTENT, "--compress-algo", "none")


def rejection(keyring: Keyring, message: bytes) -> str:
    with pytest.raises(SignatureRejectedError) as caught:
        keyring.verify(message)
    return str(caught.value)


def test_a_good_message_gives_what_was_signed_and_by_whom(keyring: Keyring, signer: Signer) -> None:
    message = keyring.verify(signer.sign(CONTENT))
    assert message.content == CONTENT
    assert message.primary_fingerprint == signer.fingerprint


def test_an_uncompressed_message_is_as_good(keyring: Keyring, signer: Signer) -> None:
    assert keyring.verify(signer.sign(CONTENT, "--compress-algo", "none")).content == CONTENT


def test_an_armored_key_is_as_good(signer: Signer) -> None:
    assert Keyring((signer.gpg("--armor", "--export"),)).verify(signer.sign(CONTENT)).content == CONTENT


def test_a_subkeys_signature_counts_for_its_primary_key() -> None:
    with Signer("subkey@example.com") as signer:
        without_subkey = Keyring((signer.public_key,))
        signer.gpg("--passphrase", "", "--quick-add-key", signer.fingerprint, "ed25519", "sign")
        signed = signer.sign(CONTENT)
        message = Keyring((signer.gpg("--export"),)).verify(signed)
    assert message.primary_fingerprint == signer.fingerprint
    assert "not trusted" in rejection(without_subkey, signed)


def test_a_strangers_signature_is_refused_by_name(keyring: Keyring, stranger: Signer) -> None:
    assert (
        rejection(keyring, stranger.sign(CONTENT))
        == f"is by a key that is not trusted (key 0x{stranger.fingerprint[-16:]})"
    )


def test_changed_content_is_refused(keyring: Keyring, signer: Signer) -> None:
    message = signer.sign(CONTENT, "--compress-algo", "none")
    assert "changed" in rejection(keyring, message.replace(b"critical", b"criticaL"))


@pytest.mark.demand("SIG-cleartext")
def test_a_cleartext_message_is_refused(keyring: Keyring, signer: Signer) -> None:
    message = signer.gpg("--clearsign", stdin=CONTENT)
    assert message.startswith(b"-----BEGIN PGP SIGNED MESSAGE-----")
    assert "no binary OpenPGP message" in rejection(keyring, message)


@pytest.mark.demand("SIG-cleartext")
def test_an_armored_message_is_refused(keyring: Keyring, signer: Signer) -> None:
    assert "no binary OpenPGP message" in rejection(keyring, signer.gpg("--armor", "--sign", stdin=CONTENT))


LONG_AGO = "20240101T000000"
THEN = ("--faked-system-time", LONG_AGO)


@pytest.mark.demand("SIG-expired-revoked")
def test_an_expired_signature_is_refused() -> None:
    with Signer("old@example.com", made_at=LONG_AGO) as signer:
        lasting, expired = signer.sign(CONTENT, *THEN), signer.sign(CONTENT, *THEN, "--default-sig-expire", "1d")
        keyring = Keyring((signer.public_key,))
    assert keyring.verify(lasting).content == CONTENT
    assert rejection(keyring, expired).startswith("has expired")


@pytest.mark.demand("SIG-expired-revoked")
def test_an_expired_keys_signature_is_refused() -> None:
    with Signer("old@example.com", made_at=LONG_AGO, expires="1d") as signer:
        message = signer.sign(CONTENT, *THEN)
        keyring = Keyring((signer.public_key,))
    assert rejection(keyring, message).startswith("is by a key that has expired")


@pytest.mark.demand("SIG-expired-revoked")
def test_a_revoked_keys_signature_is_refused() -> None:
    with Signer("revoked@example.com") as signer:
        message = signer.sign(CONTENT)
        certificate = signer.home / "openpgp-revocs.d" / f"{signer.fingerprint}.rev"
        signer.gpg("--import", stdin=certificate.read_bytes().replace(b":-----BEGIN", b"-----BEGIN"))
        keyring = Keyring((signer.gpg("--export"),))
    assert "revoked" in rejection(keyring, message)


@pytest.mark.demand("SIG-multi")
def test_two_signatures_are_refused_even_if_one_is_good(keyring: Keyring, signer: Signer, stranger: Signer) -> None:
    signer.gpg("--import", stdin=stranger.gpg("--export-secret-keys"))
    message = signer.sign(CONTENT, "--local-user", signer.fingerprint, "--local-user", stranger.fingerprint)
    assert "not trusted" in rejection(keyring, message)
    both = Keyring((signer.gpg("--export", signer.fingerprint), stranger.public_key))
    assert "exactly one" in rejection(both, message)


def literal(content: bytes, name: bytes = b"") -> bytes:
    """A literal data packet (RFC 4880, 5.9), old format, one-octet length."""
    body = b"b" + bytes([len(name)]) + name + bytes(4) + content
    return b"\xac" + bytes([len(body)]) + body


@pytest.mark.demand("SIG-multi")
def test_a_second_literal_packet_is_refused(keyring: Keyring, signer: Signer) -> None:
    message = signer.sign(CONTENT, "--compress-algo", "none")
    for smuggled in (message + literal(b"more"), literal(b"more") + message, message + message):
        with pytest.raises(SignatureRejectedError):
            keyring.verify(smuggled)


@pytest.mark.demand("SIG-unsigned")
def test_an_unsigned_message_is_refused(keyring: Keyring) -> None:
    compressed = b"\xa3\x01" + zlib.compress(literal(CONTENT))[2:-4]
    assert "no signed OpenPGP message" in rejection(keyring, compressed)


@pytest.mark.demand("SIG-status-injection")
def test_status_lines_inside_a_message_are_not_gpgs(keyring: Keyring, stranger: Signer, signer: Signer) -> None:
    name, primary = signer.fingerprint[-16:], signer.fingerprint
    lie = f"[GNUPG:] GOODSIG {name} x\n[GNUPG:] VALIDSIG {primary} 2024-01-01 1 0 4 0 22 8 00 {primary}"
    message = stranger.sign(lie.encode(), "--set-filename", f"x\n{lie}\n")
    assert "not trusted" in rejection(keyring, message)


@pytest.mark.parametrize("message", [b"", b"\x00", b"\xff", b"\xa3", b"\xa3" + bytes(64), b"\x90\x0d\x03"])
def test_garbage_is_refused(keyring: Keyring, message: bytes) -> None:
    rejection(keyring, message)


@pytest.mark.demand("LIM-signatures")
def test_an_oversized_message_is_refused_before_gpg_sees_it(keyring: Keyring) -> None:
    assert "larger" in rejection(keyring, b"\xa3" + bytes(MAX_MESSAGE_SIZE))


@pytest.mark.demand("LIM-signatures")
def test_a_message_that_unpacks_to_too_much_is_refused(keyring: Keyring, signer: Signer) -> None:
    bomb = signer.sign(bytes(MAX_MESSAGE_SIZE + 1))
    assert len(bomb) < 1 << 20
    rejection(keyring, bomb)


@pytest.mark.parametrize("keys", [(), (b"",), (b"not a key",)])
def test_what_is_no_key_is_an_error(keys: tuple[bytes, ...]) -> None:
    with pytest.raises(SignatureRejectedError, match="public keys"):
        Keyring(keys)


def test_a_signature_is_no_key(signer: Signer) -> None:
    with pytest.raises(SignatureRejectedError, match="public keys"):
        Keyring((signer.sign(CONTENT),))


def test_a_good_word_counts_only_if_gpg_ends_well(
    keyring: Keyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["PLAINTEXT 62 1", "GOODSIG ABC x", "VALIDSIG ABC 2024-01-01 1 0 4 0 22 8 00 DEF"]
    script = "while [ $1 != --status-fd ]; do shift; done\n" + "".join(
        f"echo '[GNUPG:] {line}' >&$2\n" for line in lines
    )
    monkeypatch.setattr(openpgp, "_PATH", f"{tmp_path}:/usr/bin:/bin")
    write_program(tmp_path / "gpg", script)
    assert keyring.verify(b"\xa3").primary_fingerprint == "DEF"
    write_program(tmp_path / "gpg", f"{script}exit 2\n")
    assert "exactly one" in rejection(keyring, b"\xa3")
    write_program(tmp_path / "gpg", script.replace(" 00 DEF", ""))
    assert "unknown way" in rejection(keyring, b"\xa3")
    write_program(tmp_path / "gpg", f"{script}yes '[GNUPG:] NOTATION_DATA x' | head -c 100000 >&$2\n")
    assert "more than" in rejection(keyring, b"\xa3")


def test_a_gpg_that_hangs_is_given_up(keyring: Keyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_program(tmp_path / "gpg", "exec sleep 60\n")
    monkeypatch.setattr(openpgp, "_PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(openpgp, "_TIMEOUT", 0.05)
    assert "could not be checked by gpg within" in rejection(keyring, b"\xa3")


def write_program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/bash\n{script}")
    path.chmod(0o755)


def test_one_bad_key_spoils_the_set(signer: Signer) -> None:
    with pytest.raises(SignatureRejectedError, match="public keys"):
        Keyring((signer.public_key, b"not a key"))


def test_keys_are_imported_once_and_again_when_they_change(signer: Signer, stranger: Signer) -> None:
    keyrings = Keyrings()
    first = keyrings.get((signer.public_key,))
    assert keyrings.get((signer.public_key,)) is first
    assert keyrings.get((stranger.public_key,)) is not first


def test_a_keyring_leaves_no_files_behind(signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as folder:  # gpg wants a short path
        monkeypatch.setattr(tempfile, "tempdir", folder)
        keyring = Keyring((signer.public_key,))
        (home,) = Path(folder).iterdir()
        assert home.stat().st_mode & 0o077 == 0
        del keyring
        assert list(Path(folder).iterdir()) == []


def test_a_failed_import_leaves_no_files_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(SignatureRejectedError):
        Keyring((b"not a key",))
    assert list(tmp_path.iterdir()) == []


def fail_with(number: int) -> Callable[..., NoReturn]:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("where", "number"), [((tempfile, "mkdtemp"), errno.EROFS), ((Path, "write_bytes"), errno.ENOSPC)]
)
def test_a_home_that_cannot_be_made_is_a_rejection_with_the_reason(
    signer: Signer, monkeypatch: pytest.MonkeyPatch, where: tuple[object, str], number: int
) -> None:
    monkeypatch.setattr(*where, fail_with(number))
    with pytest.raises(SignatureRejectedError, match=f"no private home for gpg can be made: {os.strerror(number)}"):
        Keyring((signer.public_key,))


def test_a_status_that_cannot_be_opened_is_a_rejection_with_the_reason(
    keyring: Keyring, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "memfd_create", fail_with(errno.EMFILE))
    with pytest.raises(SignatureRejectedError, match=r"could not be checked: .*Too many open files"):
        keyring.verify(signer.sign(CONTENT))


def test_only_as_many_keyrings_are_kept_as_may_be(
    signer: Signer, stranger: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openpgp, "_MAX_KEYRINGS", 1)
    keyrings = Keyrings()
    first = keyrings.get((signer.public_key,))
    keyrings.get((stranger.public_key,))
    assert keyrings.get((signer.public_key,)) is not first


def test_without_gpg_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openpgp, "_PATH", "/nonexistent")
    with pytest.raises(ConfigurationError, match="install gpg"):
        Keyring((b"key",))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_message_says_the_same_or_nothing(keyring: Keyring, damageable: bytes, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(damageable) - 1))
    damaged = (
        damageable[:position] + data.draw(st.binary(max_size=3)) + damageable[position + data.draw(st.integers(0, 3)) :]
    )
    with contextlib.suppress(SignatureRejectedError):
        assert keyring.verify(damaged).content == CONTENT
