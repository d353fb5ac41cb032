"""Public keys: one PEM block each, of a kind that signs images."""

from __future__ import annotations

import contextlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, x25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.errors import SignatureRejectedError, VerificationTimeoutError
from container_image_proxy.policy.sigstore.public_key import (
    find_signing_key,
    is_signed_by,
    name_key,
    parse_public_key,
    public_der,
)
from tests.support.sigstore import Certificate, make_key, public_pem, sign
from tests.support.verification import make_budget

KEYS = [make_key(), ec.generate_private_key(ec.SECP521R1()), ed25519.Ed25519PrivateKey.generate()]
KEYS += [rsa.generate_private_key(65537, 2048)]
PEM = public_pem(KEYS[0])
OTHER_KIND = x25519.X25519PrivateKey.generate().public_key()


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_read_and_named_by_its_digest(key: ec.EllipticCurvePrivateKey) -> None:
    parsed = parse_public_key(b"a comment\n" + public_pem(key), "the key")
    assert public_der(parsed) == public_der(key.public_key())
    assert name_key(parsed) == name_key(key.public_key())


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"no key",
        PEM.replace(b"MFkw", b"MFkx"),
        Certificate().pem,
        Certificate().pem + PEM,
        OTHER_KIND.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        *(PEM.replace(b"PUBLIC KEY", label) for label in (b"PRIVATE KEY", b"EC PUBLIC KEY", b"KEY", b"X509 CRL")),
    ],
    ids=[
        "empty",
        "text",
        "damaged",
        "certificate",
        "certificate first",
        "X25519",
        "private",
        "EC",
        "just a key",
        "revocation list",
    ],
)
def test_anything_else_is_an_error(pem: bytes) -> None:
    with pytest.raises(SignatureRejectedError, match="the key"):
        parse_public_key(pem, "the key")


@pytest.mark.parametrize("more", [PEM, b"more", public_pem(KEYS[1]), b"-----BEGIN PUBLIC KEY-----\n"])
def test_what_follows_the_first_block_is_not_looked_at(more: bytes) -> None:
    assert public_der(parse_public_key(PEM + more, "the key")) == public_der(KEYS[0].public_key())


def test_an_rsa_key_may_have_its_older_form() -> None:
    key = KEYS[3].public_key()
    assert public_der(parse_public_key(key.public_bytes(Encoding.PEM, PublicFormat.PKCS1), "the key")) == public_der(
        key
    )


def test_of_rsa_only_the_scheme_counts_that_other_tools_know() -> None:
    scheme = padding.PSS(padding.MGF1(SHA256()), padding.PSS.DIGEST_LENGTH)
    assert is_signed_by(KEYS[3].public_key(), sign(KEYS[3], b"data", scheme=padding.PKCS1v15()), b"data")
    assert not is_signed_by(KEYS[3].public_key(), sign(KEYS[3], b"data", scheme=scheme), b"data")


@pytest.mark.demand("LIM-signatures")
@pytest.mark.parametrize(
    ("bits", "exponent", "complaint"),
    [
        (1 << 17, 65537, "the key is an RSA key of more than 16384 bits"),
        (2048, (1 << 31) + 1, "the key is an RSA key whose exponent is larger than 2147483647"),
        (3072, (1 << 3071) + 1, "the key is an RSA key whose exponent is larger than 2147483647"),
    ],
)
def test_an_rsa_key_that_takes_long_to_check_with_is_refused(bits: int, exponent: int, complaint: str) -> None:
    key = rsa.RSAPublicNumbers(exponent, (1 << bits) - 1).public_key()
    with pytest.raises(SignatureRejectedError, match=complaint):
        parse_public_key(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "the key")


def test_a_large_rsa_key_is_read() -> None:
    key = rsa.RSAPublicNumbers((1 << 31) - 1, (1 << 16384) - 1).public_key()
    assert parse_public_key(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "the key")


@pytest.mark.demand("LIM-signatures")
def test_trying_keys_ends_with_the_budget() -> None:
    keys = [key.public_key() for key in KEYS]
    assert find_signing_key(keys, sign(KEYS[-1], b"data"), b"data", make_budget()) == keys[-1]
    with pytest.raises(VerificationTimeoutError):
        find_signing_key(keys, sign(KEYS[-1], b"data"), b"data", make_budget(0))


@given(st.binary(max_size=200))
def test_no_bytes_are_a_signature_by_chance(signature: bytes) -> None:
    assert not any(is_signed_by(key.public_key(), signature, b"data") for key in KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_a_signature_is_for_its_data_only(key: ec.EllipticCurvePrivateKey) -> None:
    assert is_signed_by(key.public_key(), sign(key, b"data"), b"data")
    assert not is_signed_by(key.public_key(), sign(key, b"data"), b"Data")


@given(st.integers(0, len(PEM) - 1), st.binary(max_size=2))
def test_a_damaged_key_is_read_or_our_error(position: int, damage: bytes) -> None:
    with contextlib.suppress(SignatureRejectedError):
        parse_public_key(PEM[:position] + damage + PEM[position + 1 :], "the key")
