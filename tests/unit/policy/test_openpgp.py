"""OpenPGP messages: the one good kind, and everything that gpg says of the others."""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from container_image_proxy.concurrency.cancellation import Cancellation, CancelledError
from container_image_proxy.errors import ConfigurationError, SignatureRejectedError, VerificationTimeoutError
from container_image_proxy.policy import gpg, openpgp
from container_image_proxy.policy.budget import Budget
from container_image_proxy.policy.gpg import Gpg, Job, Run
from container_image_proxy.policy.openpgp import MAX_MESSAGE_SIZE, Keyring, Keyrings
from tests.support.gpg import Signer
from tests.support.openpgp import compressed, literal, make_openpgp_key
from tests.support.verification import PATIENCE, make_budget

CONTENT = b'{"critical":{}}'


@pytest.fixture
def keyring(signer: Signer) -> Keyring:
    return import_keys(signer.public_key)


@pytest.fixture(scope="module")
def damageable(signer: Signer) -> bytes:
    return signer.sign(CONTENT, "--compress-algo", "none")


def import_keys(*keys: bytes) -> Keyring:
    return Keyring(keys, Gpg(), make_budget())


def rejection(keyring: Keyring, message: bytes) -> str:
    with pytest.raises(SignatureRejectedError) as caught:
        keyring.verify(message, make_budget())
    return str(caught.value)


def test_a_good_message_gives_what_was_signed_and_by_whom(keyring: Keyring, signer: Signer) -> None:
    message = keyring.verify(signer.sign(CONTENT), make_budget())
    assert message.content == CONTENT
    assert message.primary_fingerprint == signer.fingerprint


def test_an_uncompressed_message_is_as_good(keyring: Keyring, signer: Signer) -> None:
    assert keyring.verify(signer.sign(CONTENT, "--compress-algo", "none"), make_budget()).content == CONTENT


def test_an_armored_key_is_as_good(signer: Signer) -> None:
    keyring = import_keys(signer.gpg("--armor", "--export"))
    assert keyring.verify(signer.sign(CONTENT), make_budget()).content == CONTENT


def test_a_subkeys_signature_counts_for_its_primary_key() -> None:
    with Signer("subkey@example.com") as signer:
        without_subkey = import_keys(signer.public_key)
        signer.gpg("--passphrase", "", "--quick-add-key", signer.fingerprint, "ed25519", "sign")
        signed = signer.sign(CONTENT)
        message = import_keys(signer.gpg("--export")).verify(signed, make_budget())
    assert message.primary_fingerprint == signer.fingerprint
    assert "not trusted" in rejection(without_subkey, signed)


def test_a_strangers_signature_is_refused_by_name(keyring: Keyring, stranger: Signer) -> None:
    assert (
        rejection(keyring, stranger.sign(CONTENT))
        == f"it is by a key that is not trusted (key 0x{stranger.fingerprint[-16:]})"
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
        keyring = import_keys(signer.public_key)
    assert keyring.verify(lasting, make_budget()).content == CONTENT
    assert rejection(keyring, expired).startswith("it has expired")


@pytest.mark.demand("SIG-expired-revoked")
def test_an_expired_keys_signature_is_refused() -> None:
    with Signer("old@example.com", made_at=LONG_AGO, expires="1d") as signer:
        message = signer.sign(CONTENT, *THEN)
        keyring = import_keys(signer.public_key)
    assert rejection(keyring, message).startswith("it is by a key that has expired")


@pytest.mark.demand("SIG-expired-revoked")
def test_a_revoked_keys_signature_is_refused() -> None:
    with Signer("revoked@example.com") as signer:
        message = signer.sign(CONTENT)
        certificate = signer.home / "openpgp-revocs.d" / f"{signer.fingerprint}.rev"
        signer.gpg("--import", stdin=certificate.read_bytes().replace(b":-----BEGIN", b"-----BEGIN"))
        keyring = import_keys(signer.gpg("--export"))
    assert "revoked" in rejection(keyring, message)


@pytest.mark.demand("SIG-multi")
def test_two_signatures_are_refused_even_if_one_is_good(keyring: Keyring, signer: Signer, stranger: Signer) -> None:
    signer.gpg("--import", stdin=stranger.gpg("--export-secret-keys"))
    message = signer.sign(CONTENT, "--local-user", signer.fingerprint, "--local-user", stranger.fingerprint)
    both = import_keys(signer.gpg("--export", signer.fingerprint), stranger.public_key)
    for trusted in (keyring, both):
        assert "exactly one" in rejection(trusted, message)


@pytest.mark.demand("SIG-multi")
@pytest.mark.parametrize("algorithm", ["none", "zip", "zlib", "bzip2"])
def test_what_follows_a_good_signature_is_refused(keyring: Keyring, signer: Signer, algorithm: str) -> None:
    message, other = (signer.sign(content, "--compress-algo", algorithm) for content in (CONTENT, b"something else"))
    assert keyring.verify(message, make_budget()).content == CONTENT
    for behind in (message, other, literal(b"more"), b"\0", b"x"):
        with pytest.raises(SignatureRejectedError):
            keyring.verify(message + behind, make_budget())


@pytest.mark.demand("SIG-unsigned")
def test_an_unsigned_message_is_refused(keyring: Keyring) -> None:
    assert "no signed OpenPGP message" in rejection(keyring, compressed(literal(CONTENT)))


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
        import_keys(*keys)


def test_a_signature_is_no_key(signer: Signer) -> None:
    with pytest.raises(SignatureRejectedError, match="public keys"):
        import_keys(signer.sign(CONTENT))


@pytest.mark.demand("SIG-status-injection")
def test_an_options_file_in_gpgs_home_changes_nothing(
    keyring: Keyring, signer: Signer, stranger: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stranger.gpg").write_bytes(stranger.public_key)
    options = f"keyring {tmp_path}/stranger.gpg"
    put = f"while [ $1 != --homedir ]; do shift; done; echo '{options}' >$2/gpg.conf"
    write_program(tmp_path / "gpg", f'(set -- "$@"; {put})\nPATH=/usr/bin:/bin exec gpg "$@"\n')
    monkeypatch.setattr(gpg, "_PATH", f"{tmp_path}:/usr/bin:/bin")
    assert "not trusted" in rejection(keyring, stranger.sign(CONTENT))
    assert keyring.verify(signer.sign(CONTENT), make_budget()).content == CONTENT


def test_a_good_word_counts_only_if_gpg_ends_well(
    keyring: Keyring, signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["PLAINTEXT 62 1", "GOODSIG ABC x", "VALIDSIG ABC 2024-01-01 1 0 4 0 22 8 00 DEF"]
    script = "while [ $1 != --status-fd ]; do shift; done\n" + "".join(
        f"echo '[GNUPG:] {line}' >&$2\n" for line in lines
    )
    monkeypatch.setattr(gpg, "_PATH", f"{tmp_path}:/usr/bin:/bin")
    message = signer.sign(CONTENT)
    write_program(tmp_path / "gpg", script)
    assert keyring.verify(message, make_budget()).primary_fingerprint == "DEF"
    write_program(tmp_path / "gpg", f"{script}exit 2\n")
    assert "exactly one" in rejection(keyring, message)
    write_program(tmp_path / "gpg", script.replace(" 00 DEF", ""))
    assert "unknown way" in rejection(keyring, message)
    write_program(tmp_path / "gpg", f"{script}yes '[GNUPG:] NOTATION_DATA x' | head -c 100000 >&$2\n")
    assert "more than" in rejection(keyring, message)


def write_program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/bash\n{script}")
    path.chmod(0o755)


def test_one_bad_key_spoils_the_set(signer: Signer) -> None:
    with pytest.raises(SignatureRejectedError, match="public keys"):
        import_keys(signer.public_key, b"not a key")


def test_many_keys_are_a_key_ring_as_well(signer: Signer) -> None:
    keyring = import_keys(b"".join(make_openpgp_key(number) for number in range(700)), signer.public_key)
    assert keyring.verify(signer.sign(CONTENT), make_budget()).primary_fingerprint == signer.fingerprint


def test_a_place_with_a_long_path_is_as_good(signer: Signer, tmp_path: Path) -> None:
    place = tmp_path / ("x" * 120)
    place.mkdir(mode=0o700)
    keyring = Keyring((signer.public_key,), Gpg((place,)), make_budget())
    assert keyring.verify(signer.sign(CONTENT), make_budget()).content == CONTENT


class Counting:
    """In place of gpg: how many runs there are at a time, at most, when each waits ``seconds`` for seven others."""

    def __init__(self, seconds: float) -> None:
        self.most = 0
        self._seconds = seconds
        self._running = 0
        self._lock = threading.Lock()
        self._all = threading.Barrier(8)

    def run(self, _job: Job, _budget: Budget) -> Run:
        with self._lock:
            self._running += 1
            self.most = max(self.most, self._running)
        with contextlib.suppress(threading.BrokenBarrierError):
            self._all.wait(self._seconds)
        with self._lock:
            self._running -= 1
        return Run(0, b"", (), b"")


LARGE = bytes(100_000)


@pytest.mark.demand("LIM-signatures")
@pytest.mark.parametrize(
    ("content", "options", "keybox", "most"),
    [
        (CONTENT, ("--compress-algo", "none"), b"", 8),
        (LARGE, ("--compress-algo", "none"), b"", 1),
        (LARGE, ("--compress-algo", "zip"), b"", 1),
        (CONTENT, ("--compress-algo", "bzip2"), b"", 1),
        (CONTENT, ("--compress-algo", "none"), LARGE, 1),
    ],
    ids=["small", "large", "packed", "bzip2", "many-keys"],
)
def test_what_takes_much_memory_is_verified_one_at_a_time(
    keyring: Keyring, signer: Signer, content: bytes, options: tuple[str, ...], keybox: bytes, most: int
) -> None:
    message = signer.sign(content, *options)
    keyring._gpg = counting = Counting(PATIENCE if most == 8 else 0.05)  # type: ignore[assignment]
    keyring._keybox = keybox
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(rejection, [keyring] * 8, [message] * 8)) == {
            "it is not exactly one good signature of one message"
        }
    assert counting.most == most


def test_keys_are_imported_once_and_again_when_they_change(signer: Signer, stranger: Signer) -> None:
    keyrings = Keyrings()
    first = keyrings.get((signer.public_key,), make_budget())
    assert keyrings.get((signer.public_key,), make_budget()) is first
    assert keyrings.get((stranger.public_key,), make_budget()) is not first


def test_keys_that_could_not_be_imported_are_tried_again(signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    keyrings = Keyrings()
    with monkeypatch.context() as patched:
        patched.setattr(gpg, "_PATH", "/nonexistent")
        with pytest.raises(ConfigurationError, match="install gpg"):
            keyrings.get((signer.public_key,), make_budget())
    assert keyrings.get((signer.public_key,), make_budget()).verify(signer.sign(CONTENT), make_budget())


def test_who_waits_for_keys_that_another_imports_waits_within_his_own_budget(
    signer: Signer, stranger: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyrings, importing = Keyrings(), Budget(PATIENCE, token := Cancellation())
    os.mkfifo(tmp_path / "started")
    write_program(tmp_path / "gpg", f"echo >{tmp_path}/started; exec sleep 60\n")
    with ThreadPoolExecutor(1) as pool, monkeypatch.context() as patched:
        patched.setattr(gpg, "_PATH", f"{tmp_path}:/usr/bin:/bin")
        first = pool.submit(keyrings.get, (signer.public_key,), importing)
        (tmp_path / "started").read_bytes()
        patched.undo()
        with pytest.raises(VerificationTimeoutError):
            keyrings.get((signer.public_key,), make_budget(0.05))
        assert keyrings.get((stranger.public_key,), make_budget())
        token.cancel()
        with pytest.raises(CancelledError):
            first.result()
    assert keyrings.get((signer.public_key,), make_budget())


def test_only_as_many_keyrings_are_kept_as_may_be(
    signer: Signer, stranger: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openpgp, "_MAX_KEYRINGS", 1)
    keyrings = Keyrings()
    first = keyrings.get((signer.public_key,), make_budget())
    keyrings.get((stranger.public_key,), make_budget())
    assert keyrings.get((signer.public_key,), make_budget()) is not first


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_message_says_the_same_or_nothing(keyring: Keyring, damageable: bytes, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(damageable) - 1))
    damaged = (
        damageable[:position] + data.draw(st.binary(max_size=3)) + damageable[position + data.draw(st.integers(0, 3)) :]
    )
    with contextlib.suppress(SignatureRejectedError):
        assert keyring.verify(damaged, make_budget()).content == CONTENT
