"""Failures of TLS: in words, and which may pass."""

from __future__ import annotations

import ssl

import pytest

from container_image_proxy.registry.http.tls_failures import explain, is_plain_text, may_pass


def failure(text: str, reason: str | None = None) -> ssl.SSLError:
    """As Python makes them."""
    error = ssl.SSLError(1, text)
    error.reason = reason or ""
    return error


def alert(name: str) -> ssl.SSLError:
    """An alert under one of the many names that OpenSSL's versions have for it."""
    return failure(f"[SSL: {name.upper().replace(' ', '_').replace('/', '')}] {name} (_ssl.c:992)", name.upper())


FINAL = [
    "sslv3 alert handshake failure",
    "ssl/tls alert handshake failure",
    "tlsv13 alert certificate required",
    "tlsv1 alert protocol version",
    "tlsv1 alert unknown ca",
    "sslv3 alert bad certificate",
    "tlsv1 alert access denied",
    "tlsv1 alert insufficient security",
    "tlsv1 unrecognized name",
    "unsafe legacy renegotiation disabled",
    "unsupported protocol",
    "dh key too small",
    "legacy sigalg disallowed or unsupported",
]


@pytest.mark.parametrize("name", FINAL)
def test_what_cannot_be_agreed_upon_is_final(name: str) -> None:
    assert not may_pass(alert(name), in_handshake=True)
    assert explain(alert(name)).startswith("TLS failed: ")


@pytest.mark.parametrize("name", ["tlsv1 alert internal error", "sslv3 alert bad record mac"])
def test_what_the_peer_says_of_itself_may_pass(name: str) -> None:
    assert may_pass(alert(name), in_handshake=True)


@pytest.mark.parametrize("kind", [ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError])
def test_a_connection_that_broke_may_hold_the_next_time(kind: type[ssl.SSLError]) -> None:
    assert may_pass(kind(8, "EOF occurred in violation of protocol (_ssl.c:2393)"), in_handshake=True)


def test_behind_the_handshake_garbage_is_a_broken_connection_and_a_demand_is_final() -> None:
    garbage = failure("[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:2578)", "WRONG_VERSION_NUMBER")
    assert may_pass(garbage, in_handshake=False)
    assert not may_pass(garbage, in_handshake=True)
    assert is_plain_text(garbage)
    assert not may_pass(alert("tlsv13 alert certificate required"), in_handshake=False)


def test_the_words_are_openssls_or_ours() -> None:
    assert explain(failure("[SSL] legacy sigalg disallowed or unsupported (_ssl.c:992)")) == (
        "TLS failed: legacy sigalg disallowed or unsupported"
    )
    assert explain(failure("whatever a peer could have sent")) == "TLS failed: no reason given"
    assert "client certificate" in explain(alert("tlsv13 alert certificate required"))
    assert "our client certificate" in explain(alert("tlsv1 alert unknown ca"))
    untrusted = ssl.SSLCertVerificationError(1, "x")
    untrusted.verify_message = "certificate has expired"
    assert explain(untrusted) == "its certificate is not trusted: certificate has expired"
    assert not may_pass(untrusted, in_handshake=True)
