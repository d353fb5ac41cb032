"""TLS towards registries: the system's trust store and what certs.d adds, never a bundle of a library's own.

Must not decide whom to verify, nor which files are for which host. Spec: containers-certs.d(5), contrib/adr/0025.
"""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from container_image_proxy.config.once import warn_once
from container_image_proxy.config.trusted_file import load_trusted_file
from container_image_proxy.errors import ConfigurationError
from container_image_proxy.registry.http.sockets import PunctualTLSSocket

if TYPE_CHECKING:
    from container_image_proxy.config.certificates import TlsFiles

_MAX_FILE: Final = 16 << 20  # a system's whole trust store has 0.3 MiB
_log = logging.getLogger(__name__)
_CIPHERS: Final = "DEFAULT:@SECLEVEL=1"
"""OpenSSL's own choice, at a level where RSA keys of 1024 bits pass, and signatures with SHA-1 do not: as in Go."""


def client_context(files: TlsFiles, *, verify: bool) -> ssl.SSLContext:
    """TLS 1.2 or later, with the system's authorities, those of ``files``, and the client certificates of ``files``.

    Without ``verify`` any certificate is accepted. Raises :class:`ConfigurationError` if a file is unusable.
    """
    context = ssl.create_default_context() if verify else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Every certificate among the authorities is trusted, be it that of an intermediate authority or the server's own.
    # Private authorities need no key identifiers, on which strictness insists. Both are so in Go's clients, for which
    # the files were written, and Python's defaults change from version to version.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VerifyFlags.VERIFY_X509_STRICT
    context.set_ciphers(_CIPHERS)
    context.sslsocket_class = cast("type[ssl.SSLSocket]", PunctualTLSSocket)
    for path in files.authorities:
        _verify_readable(path)
        try:
            context.load_verify_locations(cafile=path)
        except ssl.SSLError:
            # A file without any certificate makes nobody trusted. podman ignores it, too.
            warn_once(_log, f"{path}: holds no usable CA certificate, ignored (PEM is expected)")
        except OSError as error:
            raise ConfigurationError(str(path), "holds no usable CA certificate", remedy="PEM is expected") from error
    for client in files.client:
        _verify_readable(client.certificate)
        grant = f"chgrp GROUP {client.key} && chmod g+r {client.key}"  # not to everybody
        _verify_readable(client.key, f"{grant}, with SupplementaryGroups=GROUP in a drop-in if a unit runs this")
        try:
            # Without a password OpenSSL would ask for that of an encrypted key on the terminal.
            context.load_cert_chain(client.certificate, client.key, password="")
        except OSError as error:
            raise ConfigurationError(
                str(client.certificate),
                f"and {client.key} are no usable client certificate and key",
                remedy="unencrypted PEM is expected",
            ) from error
    if not verify:  # in this order: ssl refuses CERT_NONE as long as names are checked
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def fingerprint(files: TlsFiles) -> tuple[tuple[int, int, int] | None, ...]:
    """What is another one when any file that :func:`client_context` reads was replaced, or the system's store was."""
    system = ssl.get_default_verify_paths()
    clients = (path for client in files.client for path in (client.certificate, client.key))
    theirs = (Path(place) for place in (system.cafile, system.capath) if place)
    return tuple(map(_fingerprint, (*theirs, *files.authorities, *clients)))


def _fingerprint(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _verify_readable(path: Path, if_denied: str = "") -> None:
    """Raise unless the file can be read. OpenSSL, which opens it once more, would wait for the writer of a FIFO, and
    does not say which of two files it could not read.
    """
    load_trusted_file(path, limit=_MAX_FILE, if_denied=if_denied)
