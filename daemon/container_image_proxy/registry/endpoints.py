"""The places that are asked: a registry or mirror, a repository there, and which of them failed lately.

Must not ask them. Spec: containers-registries.conf(5).
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from container_image_proxy.errors import (
    DigestMismatchError,
    InvalidReferenceError,
    RateLimitedError,
    RegistryUnavailableError,
    SizeMismatchError,
    UpstreamTimeoutError,
)
from container_image_proxy.image import docker_hub
from container_image_proxy.registry.http.failures import ConnectionLostError
from container_image_proxy.registry.http.origin import DEFAULT_PORTS, split_authority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from container_image_proxy.config.limits import Limits
    from container_image_proxy.config.registries import PullSource
    from container_image_proxy.errors import Error
    from container_image_proxy.image.digest import Digest
    from container_image_proxy.image.reference import Reference
    from container_image_proxy.registry.http.origin import Origin


class Endpoint(Struct, frozen=True, kw_only=True):
    """A configured place. ``domain`` (``host[:port]``) is its name in certs.d, auth.json and messages.

    ``insecure`` allows http, and certificates that nobody vouches for.
    """

    domain: str
    insecure: bool = False
    is_mirror: bool = False

    @property
    def authority(self) -> str:
        """The ``host[:port]`` that is contacted, which is another one for Docker Hub alone."""
        return docker_hub.REGISTRY if self.domain == docker_hub.DOMAIN else self.domain

    @property
    def host(self) -> str:
        """The host alone, as in :class:`Origin`."""
        return split_authority(self.authority)[0]

    def is_at(self, origin: Origin) -> bool:
        """Whether ``origin`` is this endpoint, over http or https."""
        host, port = split_authority(self.authority)
        return origin.host == host and origin.port == (port or DEFAULT_PORTS[origin.scheme])


class Repository(Endpoint, frozen=True, kw_only=True):
    """An image's repository at an endpoint. ``reference`` is the image's name there; a mirror has names of its own."""

    reference: Reference

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint without the repository: equal for all repositories there."""
        return Endpoint(domain=self.domain, insecure=self.insecure)

    @property
    def path(self) -> str:
        """The repository's path in the API (OCI distribution-spec, ``<name>``)."""
        return self.reference.path

    def with_tag(self, tag: str) -> Repository:
        """The same repository, but the image that ``tag`` names in it."""
        return replace(self, reference=self.reference.repository.with_tag(tag))

    def with_digest(self, digest: Digest) -> Repository:
        """The same repository, but the image with ``digest``."""
        return replace(self, reference=self.reference.repository.with_digest(digest))


def repository_of(source: PullSource, *, tls_verify: bool | None) -> Repository:
    """The repository that a pull source names; ``tls_verify`` (``--tls-verify``) overrides its configuration.

    Raises :class:`InvalidReferenceError` for a host or port that the grammar of references allows and no network has.
    """
    try:
        split_authority(source.reference.domain)
    except ValueError:
        raise InvalidReferenceError(f"{source.reference}: no connection can be made to {source.domain}") from None
    insecure = source.insecure if tls_verify is None else not tls_verify
    return Repository(
        domain=source.reference.domain, insecure=insecure, is_mirror=source.is_mirror, reference=source.reference
    )


_E = TypeVar("_E", bound=Endpoint)


class Health:
    """Which endpoints failed lately. They are asked last: a dead mirror costs its time-out once. Thread-safe."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._rest = limits.endpoint_rest
        self._distrust = limits.endpoint_distrust
        self._longest_pause = limits.longest_pause
        self._clock = clock
        self._resting: dict[str, float] = {}
        self._lock = threading.Lock()

    def note(self, endpoint: Endpoint, error: Error) -> None:
        """Remember that ``endpoint`` failed with ``error``, if that says something about its next request."""
        # Of the origin, another size than the manifest says may be the author's mistake.
        is_wrong_copy = endpoint.is_mirror and isinstance(error, SizeMismatchError)
        # Whoever answers, be it by an error, is alive: to ask again costs no time-out.
        is_dead = isinstance(error, RegistryUnavailableError | UpstreamTimeoutError) and error.upstream_status is None
        if isinstance(error, DigestMismatchError) or is_wrong_copy:
            seconds = self._distrust
        elif isinstance(error, RateLimitedError):
            seconds = min(error.retry_after or self._rest, self._longest_pause)
        elif is_dead and not isinstance(error, ConnectionLostError):
            seconds = self._rest
        else:
            return
        with self._lock:
            self._resting[endpoint.authority] = self._clock() + seconds

    def sort(self, endpoints: Iterable[_E], first: _E | None = None) -> list[_E]:
        """The endpoints in their order, but ``first`` before the others, and those that failed lately after them."""
        now = self._clock()
        with self._lock:
            resting = {authority for authority, end in self._resting.items() if end > now}
        return sorted(endpoints, key=lambda endpoint: (endpoint.authority in resting, endpoint != first))
