"""TLS towards registries: the system's trust store and what certs.d adds, never a bundle of a library's own."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, cast

from container_image_proxy.config.obstacle import unreadable
from container_image_proxy.errors import ConfigurationError
from container_image_proxy.registry.wire import PunctualTLSSocket

if TYPE_CHECKING:
    from pathlib import Path

    from container_image_proxy.config.certificates import ClientCertificate, TlsFiles


def client_context(files: TlsFiles, *, verify: bool) -> ssl.SSLContext:
    """TLS 1.2 or later with the system's and these authorities and these client certificates.

    Raises :class:`ConfigurationError` if a file is unusable.
    """
    context = ssl.create_default_context() if verify else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Newer Pythons are stricter than the tools whose files these are: private CAs without key identifiers must work.
    context.verify_flags &= ~ssl.VerifyFlags.VERIFY_X509_STRICT
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
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise ConfigurationError(str(path), "holds no usable CA certificate", remedy="PEM is expected") from error
    except OSError as error:
        raise unreadable(path, error) from error


def _load_client(context: ssl.SSLContext, client: ClientCertificate) -> None:
    for path in (client.certificate, client.key):
        try:
            path.open("rb").close()  # ssl does not say which of the two it could not read
        except OSError as error:
            raise unreadable(path, error) from error
    try:
        context.load_cert_chain(client.certificate, client.key, password="")
    except OSError as error:
        raise ConfigurationError(
            str(client.certificate),
            f"and {client.key} are no usable client certificate and key",
            remedy="unencrypted PEM is expected",
        ) from error
