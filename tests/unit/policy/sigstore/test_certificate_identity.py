"""Whom a certificate is for: e-mail addresses, host names, and who vouched."""

from __future__ import annotations

import ipaddress

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.errors import SignatureRejectedError
from container_image_proxy.policy.sigstore.certificate_identity import PkiRoot, UntrustedCertificate, find_oidc_issuer
from tests.support.sigstore import ISSUER, SIGNED_AT, Certificate, make_leaf, oidc_issuer
from tests.support.verification import make_budget

CA = Certificate()


def issuer_of(*extensions: x509.UnrecognizedExtension) -> str | None:
    return find_oidc_issuer(make_leaf(CA, *((extension, False) for extension in extensions)).certificate)


def test_both_ways_to_note_the_issuer_are_read() -> None:
    assert issuer_of(oidc_issuer(ISSUER)) == ISSUER
    assert issuer_of(oidc_issuer(ISSUER, der=True)) == ISSUER
    assert issuer_of(oidc_issuer(ISSUER), oidc_issuer(ISSUER, der=True)) == ISSUER
    assert issuer_of(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"")) is None


@pytest.mark.demand("SIG-fulcio")
def test_two_different_issuers_are_none() -> None:
    with pytest.raises(SignatureRejectedError, match="two different"):
        issuer_of(oidc_issuer(ISSUER), oidc_issuer("https://other.example.com", der=True))


@pytest.mark.demand("SIG-fulcio")
@pytest.mark.parametrize(
    "der", [b"", b"\x0c", b"\x0c\x05abc", b"\x0c\x02abc", b"\x16\x03abc", b"\x0c\x83\x00\x00\x03abc", b"\x0c\x81"]
)
def test_an_issuer_that_is_no_utf8string_is_refused(der: bytes) -> None:
    with pytest.raises(SignatureRejectedError, match="UTF8String"):
        issuer_of(x509.UnrecognizedExtension(oidc_issuer("", der=True).oid, der))


@given(st.text(min_size=128, max_size=300))
def test_a_long_issuer_is_read(text: str) -> None:
    raw = text.encode()
    length = len(raw).to_bytes(2, "big").lstrip(b"\0")
    der = bytes([0x0C, 0x80 + len(length)]) + length + raw
    assert issuer_of(x509.UnrecognizedExtension(oidc_issuer("", der=True).oid, der)) == text


NAMES = x509.SubjectAlternativeName(
    [
        x509.DNSName("Build.Example.com"),
        x509.DNSName("*.ci.example.com"),
        x509.RFC822Name("a@example.com"),
        x509.RFC822Name("b@example.com"),
        x509.IPAddress(ipaddress.ip_address("192.0.2.1")),
    ]
)


def is_for(email: str | None, hostname: str | None, names: x509.SubjectAlternativeName = NAMES) -> bool:
    root = PkiRoot((CA.certificate,), (), email, hostname)
    try:
        root.verify(UntrustedCertificate(make_leaf(CA, (names, False)).pem, b""), SIGNED_AT, make_budget())
    except SignatureRejectedError:
        return False
    return True


@pytest.mark.parametrize("email", ["a@example.com", "b@example.com"])
def test_any_address_of_a_certificate_counts(email: str) -> None:
    assert is_for(email, None)


@pytest.mark.parametrize("email", ["c@example.com", "A@example.com", "example.com", "build.example.com"])
def test_an_address_must_be_the_very_same(email: str) -> None:
    assert not is_for(email, None)


@pytest.mark.parametrize("name", ["build.example.com", "BUILD.example.com.", "x.ci.example.com", "192.0.2.1"])
def test_a_host_name_matches_as_in_tls(name: str) -> None:
    assert is_for(None, name)


@pytest.mark.parametrize(
    "name", ["example.com", "ci.example.com", "a.x.ci.example.com", ".ci.example.com", "192.0.2.2", "a@example.com"]
)
def test_another_host_name_does_not_match(name: str) -> None:
    assert not is_for(None, name)


def test_both_must_match_if_both_are_wanted() -> None:
    assert is_for("a@example.com", "build.example.com")
    assert not is_for("a@example.com", "other.example.com")
    assert not is_for("c@example.com", "build.example.com")


def test_a_certificate_without_names_is_for_nobody() -> None:
    with pytest.raises(SignatureRejectedError, match="is for nobody"):
        PkiRoot((CA.certificate,), (), "a@example.com", None).verify(
            UntrustedCertificate(Certificate("x", CA).pem, b""), SIGNED_AT, budget=make_budget()
        )


def test_names_in_messages_are_short_and_escaped() -> None:
    names = x509.SubjectAlternativeName(
        [x509.RFC822Name("x" * 500 + "@example.com"), x509.RFC822Name("a\n@example.com")]
    )
    with pytest.raises(SignatureRejectedError) as caught:
        PkiRoot((CA.certificate,), (), "a@example.com", None).verify(
            UntrustedCertificate(make_leaf(CA, (names, False)).pem, b""), SIGNED_AT, budget=make_budget()
        )
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)
