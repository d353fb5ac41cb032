"""Finds the TLS files of each registry: certificate authorities and client certificates (containers-certs.d(5)).

The files are only found and paired here; ``registry/http/tls`` reads them.
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
    """The files of a client certificate and its private key, both PEM."""

    certificate: Path
    key: Path


class TlsFiles(Struct, frozen=True):
    """The files for one registry: authorities besides the system's, and client certificates. Sorted by name."""

    authorities: tuple[Path, ...] = ()
    client: tuple[ClientCertificate, ...] = ()


class CertificateDirectories(Struct, frozen=True):
    """Where to look: in ``override`` for all registries, or below ``bases`` in a directory named after the registry."""

    bases: tuple[Path, ...]
    override: Path | None = None

    def for_host(self, domain: str) -> TlsFiles:
        """The files for the registry ``host[:port]``; :class:`ConfigurationError` if half of a pair is missing."""
        return find_tls_files(self.directory_for(domain))

    def directory_for(self, domain: str) -> Path:
        """The directory for the registry ``host[:port]``: the first that exists, or the last candidate if none does.

        :class:`InvalidReferenceError` if ``domain`` is no ``host[:port]``.
        """
        if self.override:
            return self.override
        if not is_domain(domain):
            raise InvalidReferenceError(f"{domain!r} is not the host[:port] of a registry")
        # host and host:443 are the same registry, so that a directory of either name counts. The given name is first.
        other = domain.removesuffix(_HTTPS) if domain.endswith(_HTTPS) else domain + _HTTPS
        names = (domain, other) if is_domain(other) else (domain,)
        candidates = (base / name for name in names for base in self.bases)
        return next(filter(exists, candidates), self.bases[-1] / domain)


def load_certificates(*, cert_dir: Path | None = None, home: Path, root: Path = ROOT) -> CertificateDirectories:
    """The directories of this user. ``cert_dir`` (``--cert-dir``) replaces them all.

    :class:`ConfigurationError` if ``cert_dir`` does not exist, or has one half of a pair only.
    """
    if cert_dir and not exists(cert_dir):
        raise ConfigurationError(str(cert_dir), "no such directory", remedy="put *.crt, or *.cert and *.key, there")
    if cert_dir:
        find_tls_files(cert_dir)
    return CertificateDirectories(find_certificate_directories(home=home, root=root), cert_dir)


def find_tls_files(directory: Path) -> TlsFiles:
    """The files of a directory: ``*.crt`` are authorities; ``*.cert`` and ``*.key`` of one name are a client's pair.

    :class:`ConfigurationError` if half of a pair is missing.
    """
    files = list_files(directory)
    for file in files:
        partner = {_CERTIFICATE: _KEY, _KEY: _CERTIFICATE}.get(file.suffix)
        # Without its other half no client certificate would be sent, and the registry's refusal would not say why.
        if partner and file.with_suffix(partner) not in files:
            missing = file.with_suffix(partner).name
            raise ConfigurationError(str(file), f"{missing} is missing beside it", remedy="authorities are named *.crt")
    return TlsFiles(
        authorities=tuple(file for file in files if file.suffix == _AUTHORITY),
        client=tuple(ClientCertificate(file, file.with_suffix(_KEY)) for file in files if file.suffix == _CERTIFICATE),
    )
