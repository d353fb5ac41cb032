"""Docker Hub's names: one registry, called differently in references, credentials, helpers and the network. Pure."""

from __future__ import annotations

from typing import Final

DOMAIN: Final = "docker.io"
"""In references, policies, certs.d and registries.conf; what a reference without a registry means."""
OLD_DOMAIN: Final = "index.docker.io"
"""The same in old references. Files of credentials have Docker Hub under this name."""
OFFICIAL_NAMESPACE: Final = "library"
"""Where a name of one component lies: ``busybox`` is ``docker.io/library/busybox``."""
REGISTRY: Final = "registry-1.docker.io"
"""The host that is contacted."""
SERVER_URL: Final = "https://index.docker.io/v1/"
"""What ``docker login`` calls Docker Hub towards a credential helper."""


def is_docker_hub(registry: str) -> bool:
    """Whether ``registry`` is one of its names as a host."""
    return registry in {DOMAIN, OLD_DOMAIN, REGISTRY}
