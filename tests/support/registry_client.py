"""Registry clients for tests: small limits, a clock that does not wait, and configuration in plain values."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from container_image_proxy.concurrency.context import Context
from container_image_proxy.config.certificates import CertificateDirectories
from container_image_proxy.config.limits import Limits
from container_image_proxy.config.registries import Registries
from container_image_proxy.registry.attempts import Clock
from container_image_proxy.registry.auth.keychain import Credentials, Keychain
from container_image_proxy.registry.client import RegistryClient

# Long enough for a loaded machine where an answer is on its way, short where a test waits for none.
LIMITS = Limits(connect_timeout=5.0, first_byte_timeout=5.0, idle_timeout=5.0)
IMPATIENT = Limits(connect_timeout=0.5, first_byte_timeout=0.5, idle_timeout=0.5, minimum_rate=1 << 20)


@dataclass
class FakeClock:
    """Monotonic time that passes only in sleep, and at once."""

    time: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.time

    def sleep(self, _: Context, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds

    @property
    def clock(self) -> Clock:
        return Clock(self.now, self.sleep)


@contextlib.contextmanager
def registry_client(
    *,
    registries: Registries | None = None,
    credentials: Mapping[str, tuple[str, str] | Credentials] | None = None,
    certificates: Path | None = None,
    limits: Limits = LIMITS,
    tls_verify: bool | None = False,
    environ: Mapping[str, str] | None = None,
    token_realms: tuple[str, ...] = (),
    clock: FakeClock | None = None,
) -> Iterator[RegistryClient]:
    """A client; ``tls_verify=False`` lets it speak http. ``certificates`` stands for /etc/containers/certs.d."""
    given = {domain: _credentials(value) for domain, value in (credentials or {}).items()}
    client = RegistryClient(
        registries=registries or Registries(),
        keychain=Keychain(given=given),
        certificates=CertificateDirectories((certificates or Path("/nonexistent"),)),
        limits=limits,
        tls_verify=tls_verify,
        environ=environ or {},
        token_realms=token_realms,
        clock=(clock or FakeClock()).clock,
    )
    try:
        yield client
    finally:
        client.close()


def _credentials(value: tuple[str, str] | Credentials) -> Credentials:
    return value if isinstance(value, Credentials) else Credentials(*value, origin="the test's file")
