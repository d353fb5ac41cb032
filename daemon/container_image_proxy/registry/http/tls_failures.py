"""What a failure of TLS means: in words, and whether the same may succeed a moment later. Pure.

Two sides that do not come to terms now do not in ten seconds either. Only a connection that broke may succeed later,
and a server that calls the failure internal to it. The words are OpenSSL's or ours: nothing that was received is
repeated. Spec: RFC 8446 section 6.
"""

from __future__ import annotations

import re
import ssl
from types import MappingProxyType
from typing import Final

# OpenSSL's names of alerts begin with the protocol's version, and change between its releases: "tlsv1 alert unknown ca"
# or "ssl/tls alert ...". What follows "alert" does not.
_ALERT: Final = re.compile(r"\balert (.+)")
_WORDS: Final = re.compile(r"\[[A-Z0-9_: ]+\] ([a-zA-Z0-9 /,.:'()_-]+?)(?: \(_ssl\.c:\d+\))?")
_CUT: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
_ALERTS_THAT_PASS: Final = frozenset({"bad record mac", "close notify", "internal error", "user cancelled"})
_REASONS_THAT_PASS: Final = frozenset({"DECRYPTION_FAILED_OR_BAD_RECORD_MAC", "UNEXPECTED_EOF_WHILE_READING"})
_NO_TLS: Final = frozenset({"HTTP_REQUEST", "WRONG_VERSION_NUMBER"})  # how OpenSSL calls plain text instead of TLS
_ALERTS: Final = MappingProxyType(
    {
        "certificate required": "it demands a client certificate (*.cert and *.key in certs.d)",
        "handshake failure": "it refuses the handshake: it may demand a client certificate, or no cipher is common",
        "protocol version": "it speaks no TLS that is new enough",
    }
)
_ABOUT_OUR_CERTIFICATE: Final = frozenset(
    {
        "access denied",
        "bad certificate",
        "certificate expired",
        "certificate revoked",
        "certificate unknown",
        "decrypt error",
        "no certificate",
        "unknown ca",
        "unsupported certificate",
    }
)
_REASONS: Final = MappingProxyType(
    {
        "UNSAFE_LEGACY_RENEGOTIATION_DISABLED": "it knows no secure renegotiation (RFC 5746), without which no "
        "credentials are safe (openssl.cnf can allow that: Options = UnsafeLegacyServerConnect)",
        "UNSUPPORTED_PROTOCOL": "it speaks no TLS that is new enough",
    }
)


def is_plain_text(error: ssl.SSLError) -> bool:
    """Whether the other side does not speak TLS at all."""
    return _reason(error) in _NO_TLS


def explain(error: ssl.SSLError) -> str:
    """What happened, as a clause for messages."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, _CUT):
        return "TLS failed: the connection was cut"
    words, alert = _words(error), _alert(error)
    if alert in _ABOUT_OUR_CERTIFICATE:
        return f"TLS failed: it does not accept our client certificate, or that there is none ({alert})"
    return f"TLS failed: {_ALERTS.get(alert) or _REASONS.get(_reason(error)) or words or 'no reason given'}"


def may_pass(error: ssl.SSLError, *, in_handshake: bool) -> bool:
    """Whether it is sensible to try again. After the handshake only an alert of the peer's is final."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return False
    if isinstance(error, _CUT):
        return True
    if alert := _alert(error):
        return alert in _ALERTS_THAT_PASS
    return not in_handshake or _reason(error) in _REASONS_THAT_PASS


def _reason(error: ssl.SSLError) -> str:
    """OpenSSL's name for the failure; empty for some."""
    return getattr(error, "reason", None) or ""


def _words(error: ssl.SSLError) -> str:
    """OpenSSL's words, without the place in Python's source."""
    match = _WORDS.fullmatch(str(error.args[1])) if len(error.args) > 1 else None
    return match[1] if match else ""


def _alert(error: ssl.SSLError) -> str:
    """The alert that the peer sent; empty if the failure is ours."""
    text = _words(error) or _reason(error).lower().replace("_", " ")
    match = _ALERT.search(text)
    return match[1] if match else ""
