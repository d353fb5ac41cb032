"""TLS files for each registry: extra certificate authorities and client certificates. containers-certs.d(5).

Finds files and pairs them; reading them, and everything else about TLS, is ``registry``'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from container_image_proxy.config.locations import ROOT, exists, find_certificate_directories, list_files
from container_image_proxy.errors import ConfigurationError, InvalidReferenceError
from container_image_proxy.image.reference import is_domain

if TYPE_CHECKING:
    from pathlib import Path

_AUTHORITY: Final = ".crt"
_CERTIFICATE: Final = ".cert"
_KEY: Final = ".key"
_HTTPS: Final = ":443"


class ClientCertificate(Struct, frozen=True):
    """A client's certificate and its private key, both PEM."""

    certificate: Path
    key: Path


class TlsFiles(Struct, frozen=True):
    """What to use with one registry: authorities besides the system's, and who we are. Sorted by name."""

    authorities: tuple[Path, ...] = ()
    client: tuple[ClientCertificate, ...] = ()


class CertificateDirectories(Struct, frozen=True):
    """Where to look: in ``override`` for all registries, or in a directory of ``bases`` named like the registry."""

    bases: tuple[Path, ...]
    override: Path | None = None

    def for_host(self, domain: str) -> TlsFiles:
        """The files for the registry ``host[:port]``; :class:`ConfigurationError` if half of a pair is missing."""
        return find_tls_files(self.directory_for(domain))

    def directory_for(self, domain: str) -> Path:
        """The one directory that counts: the first that exists, or the last if there is none.

        A registry without a port is at port 443, so two names mean the same place. The one that is used comes first.
        """
        if self.override:
            return self.override
        if not is_domain(domain):
            raise InvalidReferenceError(f"{domain!r} is not the host[:port] of a registry")
        other = domain.removesuffix(_HTTPS) if domain.endswith(_HTTPS) else domain + _HTTPS
        names = (domain, other) if is_domain(other) else (domain,)
        candidates = (base / name for name in names for base in self.bases)
        return next(filter(exists, candidates), self.bases[-1] / domain)


def load_certificates(*, cert_dir: Path | None = None, home: Path, root: Path = ROOT) -> CertificateDirectories:
    """The directories of this user; ``cert_dir`` (``--cert-dir``) replaces them all and has to exist, in order."""
    if cert_dir and not exists(cert_dir):
        raise ConfigurationError(str(cert_dir), "no such directory", remedy="put *.crt, or *.cert and *.key, there")
    if cert_dir:
        find_tls_files(cert_dir)
    return CertificateDirectories(find_certificate_directories(home=home, root=root), cert_dir)


def find_tls_files(directory: Path) -> TlsFiles:
    """Sort a directory's files by their suffix: ``*.crt`` authorities, ``*.cert`` and ``*.key`` pairs of the client."""
    files = list_files(directory)
    for file in files:
        _check_partner(file, files)
    return TlsFiles(
        authorities=tuple(file for file in files if file.suffix == _AUTHORITY),
        client=tuple(ClientCertificate(file, file.with_suffix(_KEY)) for file in files if file.suffix == _CERTIFICATE),
    )


def _check_partner(file: Path, files: list[Path]) -> None:
    partner = {_CERTIFICATE: _KEY, _KEY: _CERTIFICATE}.get(file.suffix)
    if partner and file.with_suffix(partner) not in files:
        missing = file.with_suffix(partner).name
        raise ConfigurationError(str(file), f"{missing} is missing beside it", remedy="authorities are named *.crt")
