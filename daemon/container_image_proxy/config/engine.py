"""Where the Docker daemon is, or what speaks its API: ``--daemon-host``, ``daemon-host``, or ``DOCKER_HOST``.

Reads no file but to see which certificates there are. docker(1), "Environment variables"; dockerd(8), ``--host``.
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
_LONGEST_PATH: Final = 107  # bytes, unix(7)
_PORTS: Final = {"tcp": 2376, "https": 2376, "http": 2375}


class EngineAddress(Struct, frozen=True):
    """``name`` is as it was written: a Unix socket at ``path``, or else ``host`` and ``port``, under TLS if ``tls`` is
    not None, whose certificate is held against the system's and these authorities if ``verify``.
    """

    name: str
    path: str | None = None
    host: str = ""
    port: int = 0
    tls: TlsFiles | None = None
    verify: bool = True


def parse_engine_host(text: str, certificates: Path | None = None) -> EngineAddress:
    """Read ``unix:///path``, ``tcp://host[:port]`` or ``https://...``, which are under TLS, or ``http://...``.

    ``certificates`` is a directory with ca.pem, cert.pem and key.pem, as docker(1) has them.
    Raises :class:`InvalidReferenceError`, and :class:`ConfigurationError` if half of a pair of files is missing.
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
    if not 0 < int(port[:6]) < 1 << 16:
        raise InvalidReferenceError(f"{shown(text)}: {port[:20]} is no port")
    return EngineAddress(
        text, host=host.strip("[]"), port=int(port), tls=None if scheme == "http" else _find_files(certificates)
    )


def load_engine_address(
    host: str | None, certificates: Path | None, environ: Mapping[str, str], home: Path
) -> EngineAddress:
    """The address that settings or the environment name. Raises :class:`ConfigurationError`, and for ``host`` as
    :func:`parse_engine_host`.

    As for docker, ``DOCKER_CERT_PATH`` counts with ``DOCKER_TLS_VERIFY``, and is ~/.docker by default then.
    """
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
