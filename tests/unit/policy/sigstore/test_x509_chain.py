"""Certificate chains: what leads to a trusted root, and everything that must not."""

from __future__ import annotations

import subprocess
from contextlib import nullcontext, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.errors import SignatureRejectedError, VerificationTimeoutError
from container_image_proxy.policy.sigstore import x509_chain
from container_image_proxy.policy.sigstore.x509_chain import (
    MAX_CERTIFICATES,
    parse_authorities,
    parse_certificates,
    parse_untrusted_chain,
    verify_chain,
)
from tests.support.sigstore import SIGNED_AT, Certificate, make_key, make_leaf
from tests.support.verification import make_budget

ROOT = Certificate("root")
EMAIL_ONLY = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
UNKNOWN_CRITICAL = (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)
UNKNOWN_HARMLESS = (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), False)
CONSTRAINED = (x509.NameConstraints([x509.RFC822Name("example.com")], None), True)
CONSTRAINED_MILDLY = (x509.NameConstraints([x509.RFC822Name("example.com")], None), False)
NO_AUTHORITY = (x509.BasicConstraints(ca=False, path_length=None), True)
NO_SIGNING = (
    x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    ),
    True,
)


def is_trusted(leaf: Certificate, *chain: Certificate, root: Certificate = ROOT, days: int = 0) -> bool:
    untrusted = [link.certificate for link in chain]
    try:
        verify_chain(
            leaf.certificate, untrusted, [root.certificate], SIGNED_AT + timedelta(days=days), budget=make_budget()
        )
    except SignatureRejectedError:
        return False
    return True


def build_chain(*fields: dict[str, object]) -> list[Certificate]:
    """Authorities below the root, the highest first."""
    chain = [ROOT]
    for number, one in enumerate(fields):
        chain.append(Certificate(f"ca{number}", chain[-1], **one))  # type: ignore[arg-type]
    return chain[1:]


@pytest.mark.parametrize("links", range(6))
def test_a_chain_leads_to_the_root_in_any_order(links: int) -> None:
    chain = build_chain(*({} for _ in range(links)))
    leaf = make_leaf(chain[-1] if chain else ROOT)
    assert is_trusted(leaf, *chain)
    assert is_trusted(leaf, *reversed(chain))
    assert not chain or not is_trusted(leaf, *chain[:-1])


def test_an_endless_chain_is_not_followed_to_its_end() -> None:
    chain = build_chain(*({} for _ in range(6)))
    assert not is_trusted(make_leaf(chain[-1]), *chain)


def test_authorities_that_vouch_for_each_other_lead_nowhere() -> None:
    first = Certificate("first", ROOT)
    second = Certificate("second", first)
    looped = Certificate("first", second, key=first.key)
    assert not is_trusted(make_leaf(second), looped, second, root=Certificate("root"))


@pytest.mark.parametrize(
    "fields",
    [
        {"is_ca": False},
        {"extensions": (EMAIL_ONLY,)},
        {"extensions": (UNKNOWN_CRITICAL,)},
        {"is_ca": False, "extensions": (NO_AUTHORITY,)},
        {"extensions": (CONSTRAINED,)},
        {"extensions": (CONSTRAINED_MILDLY,)},
        {"extensions": (NO_SIGNING,)},
        {"valid_until": SIGNED_AT - timedelta(hours=1)},
        {"valid_from": SIGNED_AT + timedelta(hours=1)},
    ],
    ids=[
        "no constraints",
        "for e-mail",
        "critical",
        "not an authority",
        "name constraints",
        "uncritical ones",
        "key usage",
        "expired",
        "not yet valid",
    ],
)
def test_an_unfit_authority_is_not_followed(fields: dict[str, object]) -> None:
    (unfit,) = build_chain(fields)
    assert not is_trusted(make_leaf(unfit), unfit)
    assert not is_trusted(make_leaf(unfit), root=unfit)


def test_a_path_length_limits_the_authorities_below() -> None:
    upper, lower = build_chain({"path_length": 0}, {})
    assert is_trusted(make_leaf(upper), upper)
    assert not is_trusted(make_leaf(lower), upper, lower)
    upper, lower = build_chain({"path_length": 1}, {})
    assert is_trusted(make_leaf(lower), upper, lower)


@pytest.mark.parametrize("extension", [EMAIL_ONLY, UNKNOWN_CRITICAL], ids=["for e-mail", "critical"])
def test_an_unfit_leaf_is_refused(extension: tuple[x509.ExtensionType, bool]) -> None:
    assert not is_trusted(make_leaf(ROOT, extension))
    assert is_trusted(make_leaf(ROOT, UNKNOWN_HARMLESS))


@pytest.mark.parametrize(("days", "trusted"), [(-2, False), (0, True), (2, False)])
def test_time_is_the_time_in_question(days: int, *, trusted: bool) -> None:
    assert is_trusted(make_leaf(ROOT), days=days) is trusted


def test_a_forged_issuer_name_is_not_enough() -> None:
    assert not is_trusted(make_leaf(Certificate("root")))


OPENSSL = (
    "openssl req -x509 -CA ca.pem -CAkey ca.key -subj /CN=leaf -days 9 "
    "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -keyout /dev/null"
)


@pytest.mark.parametrize(("algorithm", "trusted"), [("-sha256", True), ("-sha1", False)])
def test_a_signature_over_sha1_is_none(tmp_path: Path, algorithm: str, *, trusted: bool) -> None:
    key = make_key()
    named = (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)  # openssl wants it
    root = Certificate("root", key=key, valid_until=SIGNED_AT + timedelta(days=36500), extensions=(named,))
    (tmp_path / "ca.pem").write_bytes(root.pem)
    (tmp_path / "ca.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    made = subprocess.run([*OPENSSL.split(), algorithm], cwd=tmp_path, capture_output=True, check=False)
    assert made.returncode == 0, made.stderr
    (leaf,) = parse_certificates(made.stdout, "the leaf", make_budget())
    with nullcontext() if trusted else pytest.raises(SignatureRejectedError, match="trusted authority"):
        verify_chain(leaf, [], [root.certificate], leaf.not_valid_before_utc, make_budget())


def test_a_root_need_not_be_self_signed() -> None:
    (middle,) = build_chain({})
    assert is_trusted(make_leaf(middle), root=middle)


def test_pem_may_have_text_before_each_certificate_but_no_other() -> None:
    (middle,) = build_chain({})
    bundle = b"# our root\n" + ROOT.pem + b"\n# and the other\n" + middle.pem + b"\n \n"
    assert parse_certificates(bundle, "x", make_budget()) == (ROOT.certificate, middle.certificate)
    for broken in (
        b"text",
        ROOT.pem + b"text",
        ROOT.pem[:-3],
        ROOT.pem.replace(b"\nMII", b"\n!II"),
        b"-----BEGIN " + ROOT.pem,
    ):
        with pytest.raises(SignatureRejectedError):
            parse_certificates(broken, "x", make_budget())


def test_a_file_of_authorities_may_hold_other_things_as_well() -> None:
    (middle,) = build_chain({})
    key = ROOT.pem.replace(b"CERTIFICATE", b"PRIVATE KEY")
    file = b"text\n" + key + ROOT.pem.replace(b"MII", b"MIJ", 1) + ROOT.pem + b"-----BEGIN " + middle.pem + b"text"
    assert parse_authorities(file, "x", make_budget()) == (ROOT.certificate, middle.certificate)
    for useless in (b"", b"text", key, ROOT.pem.replace(b"MII", b"MIJ", 1)):
        with pytest.raises(SignatureRejectedError, match=r"^x has no certificate that can be used$"):
            parse_authorities(useless, "x", make_budget())


def test_a_signature_comes_with_a_bounded_number_of_certificates_and_a_policy_names_as_many_as_it_likes() -> None:
    with pytest.raises(SignatureRejectedError, match="more than 16 certificates"):
        parse_untrusted_chain(ROOT.pem * (MAX_CERTIFICATES + 1), "x", make_budget())
    assert len(parse_untrusted_chain(ROOT.pem * MAX_CERTIFICATES, "x", make_budget())) == MAX_CERTIFICATES
    assert len(parse_certificates(ROOT.pem * 200, "x", make_budget())) == 200


@pytest.mark.demand("LIM-signatures")
def test_a_certificate_of_absurd_size_is_not_read() -> None:
    names = x509.SubjectAlternativeName([x509.DNSName("a" * 200)] * 400)
    with pytest.raises(SignatureRejectedError, match="more than 65536 bytes"):
        parse_certificates(Certificate("large", extensions=((names, False),)).pem, "x", make_budget())


@pytest.mark.demand("LIM-signatures")
def test_reading_certificates_ends_with_the_budget() -> None:
    with pytest.raises(VerificationTimeoutError):
        parse_certificates(ROOT.pem, "x", make_budget(0))


class Checks:
    """Counts how often the signature of a certificate is looked at, and by which issuer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pairs: list[tuple[x509.Certificate, x509.Certificate]] = []
        real = x509_chain._has_issued

        def count(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
            self.pairs.append((issuer, certificate))
            return real(issuer, certificate)

        monkeypatch.setattr(x509_chain, "_has_issued", count)


@pytest.mark.demand("LIM-signatures")
def test_no_two_certificates_are_held_against_each_other_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    key = make_key()
    clique = [Certificate("ca", key=key) for _ in range(MAX_CERTIFICATES)]  # each of which issued all of them
    checks = Checks(monkeypatch)
    assert not is_trusted(make_leaf(clique[0]), *clique, root=Certificate("ca"))
    assert len(checks.pairs) == len(set(checks.pairs)) <= (MAX_CERTIFICATES + 1) ** 2
    assert is_trusted(make_leaf(clique[0]), *clique, root=clique[5])


def test_the_shortest_way_to_an_authority_counts() -> None:
    key = make_key()
    upper = Certificate("upper", ROOT, path_length=1, key=key)
    lower = Certificate("lower", upper)
    roundabout = [Certificate("upper", lower, key=key), Certificate("lower", upper, key=lower.key)]
    assert is_trusted(make_leaf(lower), *roundabout, lower, upper)


@pytest.mark.demand("LIM-signatures")
def test_following_a_chain_ends_with_the_budget() -> None:
    with pytest.raises(VerificationTimeoutError):
        verify_chain(make_leaf(ROOT).certificate, [], [ROOT.certificate], SIGNED_AT, make_budget(0))


def rsa_authority(modulus_bits: int, exponent: int) -> Certificate:
    """An authority that claims such a key; nobody has its private half."""
    modulus = (1 << modulus_bits) - 1
    claimed = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    return Certificate("rsa", claims=claimed)


@pytest.mark.demand("LIM-signatures")
@pytest.mark.parametrize(
    ("bits", "exponent", "checked"),
    [(2048, 65537, True), (16384, (1 << 31) - 1, True), (2048, (1 << 31) + 1, False), (3072, (1 << 3071) + 1, False)],
)
def test_a_key_that_takes_long_to_check_with_is_no_authoritys(
    bits: int, exponent: int, *, checked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks, authority = Checks(monkeypatch), rsa_authority(bits, exponent)
    assert not is_trusted(make_leaf(Certificate("rsa")), root=authority)
    assert bool(checks.pairs) is checked


@given(st.integers(0, len(ROOT.pem) - 1), st.integers(0, 255))
def test_a_damaged_certificate_is_read_or_our_error(position: int, byte: int) -> None:
    damaged = bytearray(ROOT.pem)
    damaged[position] = byte
    with suppress(SignatureRejectedError):
        for certificate in parse_certificates(bytes(damaged), "x", make_budget()):
            verify_chain(certificate, [], [ROOT.certificate], SIGNED_AT, make_budget())
