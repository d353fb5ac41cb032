"""The address of the Docker daemon, or of another engine with its API: ``--daemon-host``, ``daemon-host``, DOCKER_HOST.

Reads no file; it only checks which certificate files exist. docker(1), "Environment variables"; dockerd(8), ``--host``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from container_image_proxy.config.certificates import ClientCertificate, TlsFiles
from container_image_proxy.config.locations import exists
from container_image_proxy.errors import ConfigurationError, InvalidReferenceError, shown
from container_image_proxy.image.reference import is_domain

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_HOST: Final = "unix:///var/run/docker.sock"
_LONGEST_PATH: Final = 107  # bytes of a Unix socket's path (unix(7))
_PORTS: Final = {"tcp": 2376, "https": 2376, "http": 2375}  # Docker's: 2376 with TLS, 2375 without


class EngineAddress(Struct, frozen=True):
    """A Unix socket at ``path``, or ``host`` and ``port``, with TLS if ``tls`` is not None.

    ``name`` is the address as it was written. ``verify`` says whether the server's certificate is verified, by the
    system's authorities and those of ``tls``.
    """

    name: str
    path: str | None = None
    host: str = ""
    port: int = 0
    tls: TlsFiles | None = None
    verify: bool = True


def parse_engine_host(text: str, certificates: Path | None = None) -> EngineAddress:
    """An address from ``unix:///path``, ``tcp://host[:port]``, ``https://...`` (both with TLS), or ``http://...``.

    ``certificates`` is a directory with ca.pem, cert.pem and key.pem, as in docker(1). :class:`InvalidReferenceError`
    for other texts; :class:`ConfigurationError` if only one of cert.pem and key.pem exists.
    """
    scheme, separator, rest = text.partition("://")
    if separator and scheme == "unix":
        if not rest.startswith("/") or "\0" in rest or len(rest.encode()) > _LONGEST_PATH:
            raise InvalidReferenceError(f"{shown(text)} is no path of a socket, as in {DEFAULT_HOST}")
        return EngineAddress(text, path=rest)
    authority = rest.removesuffix("/")
    if not separator or scheme not in _PORTS or not is_domain(authority):
        raise InvalidReferenceError(
            f"{shown(text)} is none of unix:///path, tcp://host[:port], https://host[:port] and http://host[:port]"
        )
    host, colon, port = authority.rpartition(":") if not authority.endswith("]") else (authority, "", "")
    if not colon:
        host, port = authority, str(_PORTS[scheme])
    # Six digits that count are too many already, and int() refuses thousands.
    number = int(port.lstrip("0")[:6] or 0)
    if not 0 < number < 1 << 16:
        raise InvalidReferenceError(f"{shown(text)}: {port[:20]} is no port")
    tls = None if scheme == "http" else _find_files(certificates)
    return EngineAddress(text, host=host.strip("[]"), port=number, tls=tls)


def load_engine_address(
    host: str | None, certificates: Path | None, environ: Mapping[str, str], home: Path
) -> EngineAddress:
    """The address of the settings (``host``), or else of the environment, or else ``DEFAULT_HOST``.

    Errors as :func:`parse_engine_host`, but a malformed DOCKER_HOST is a :class:`ConfigurationError`.
    """
    # docker, too, uses DOCKER_CERT_PATH only together with DOCKER_TLS_VERIFY.
    if certificates is None and environ.get("DOCKER_TLS_VERIFY"):
        certificates = Path(environ.get("DOCKER_CERT_PATH") or home / ".docker")
    if host is not None:
        return parse_engine_host(host, certificates)
    try:
        return parse_engine_host(environ.get("DOCKER_HOST") or DEFAULT_HOST, certificates)
    except InvalidReferenceError as error:
        raise ConfigurationError("the environment", str(error), key="DOCKER_HOST") from error


def _find_files(directory: Path | None) -> TlsFiles:
    if directory is None:
        return TlsFiles()
    authority, certificate, key = (directory / name for name in ("ca.pem", "cert.pem", "key.pem"))
    if exists(certificate) != exists(key):
        missing = key if exists(certificate) else certificate
        raise ConfigurationError(str(missing), "is missing beside its other half")
    return TlsFiles(
        (authority,) if exists(authority) else (),
        (ClientCertificate(certificate, key),) if exists(key) else (),
    )
