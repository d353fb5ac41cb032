"""TLS towards registries: the system's trust store and what certs.d adds, never a bundle of a library's own."""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING, Final, cast

from container_image_proxy.config.once import warn_once
from container_image_proxy.config.trusted_file import load_trusted_file
from container_image_proxy.errors import ConfigurationError
from container_image_proxy.registry.http.sockets import PunctualTLSSocket

if TYPE_CHECKING:
    from pathlib import Path

    from container_image_proxy.config.certificates import ClientCertificate, TlsFiles

_MAX_FILE: Final = 16 << 20  # a system's whole trust store has 0.3 MiB
_log = logging.getLogger(__name__)
_CIPHERS: Final = "DEFAULT:@SECLEVEL=1"
"""OpenSSL's own choice, at a level where RSA keys of 1024 bits pass, and signatures with SHA-1 do not: as in Go."""


def client_context(files: TlsFiles, *, verify: bool) -> ssl.SSLContext:
    """TLS 1.2 or later with the system's and these authorities and these client certificates.

    Whoever's certificate is among the authorities is trusted, be it that of an intermediate authority or the server's
    own, as in Go's clients (contrib/adr/0025). Raises :class:`ConfigurationError` if a file is unusable.
    """
    context = ssl.create_default_context() if verify else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Not every Python has these defaults. Private authorities without key identifiers, which strictness asks for, work
    # with the tools whose files these are.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VerifyFlags.VERIFY_X509_STRICT
    context.set_ciphers(_CIPHERS)
    context.sslsocket_class = cast("type[ssl.SSLSocket]", PunctualTLSSocket)
    for authority in files.authorities:
        _load_authority(context, authority)
    for client in files.client:
        _load_client(context, client)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _load_authority(context: ssl.SSLContext, path: Path) -> None:
    """One that is useless makes nobody trusted, so those beside it count as they do for podman."""
    _verify_readable(path)
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        warn_once(_log, f"{path}: holds no usable CA certificate, ignored (PEM is expected)")
    except OSError as error:
        raise ConfigurationError(str(path), "holds no usable CA certificate", remedy="PEM is expected") from error


def _load_client(context: ssl.SSLContext, client: ClientCertificate) -> None:
    _verify_readable(client.certificate)
    _verify_readable(client.key)
    try:
        context.load_cert_chain(client.certificate, client.key, password="")
    except OSError as error:
        raise ConfigurationError(
            str(client.certificate),
            f"and {client.key} are no usable client certificate and key",
            remedy="unencrypted PEM is expected",
        ) from error


def _verify_readable(path: Path) -> None:
    """OpenSSL opens files by itself: it would wait for the writer of a FIFO, and does not say which of two it meant."""
    load_trusted_file(path, limit=_MAX_FILE)
