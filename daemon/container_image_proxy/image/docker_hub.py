"""The names of Docker Hub, which differ in references, credentials, credential helpers and the network."""

from __future__ import annotations

from typing import Final

DOMAIN: Final = "docker.io"
"""In references, policies, certs.d and registries.conf. A reference without a registry means this one."""
OLD_DOMAIN: Final = "index.docker.io"
"""In old references, and in files of credentials."""
OFFICIAL_NAMESPACE: Final = "library"
"""The namespace of names with one component: ``busybox`` is ``docker.io/library/busybox``."""
REGISTRY: Final = "registry-1.docker.io"
"""The host that is contacted."""
SERVER_URL: Final = "https://index.docker.io/v1/"
"""The server URL that ``docker login`` gives to a credential helper for Docker Hub."""


def is_docker_hub(registry: str) -> bool:
    """Whether ``registry`` is one of the host names of Docker Hub."""
    return registry in {DOMAIN, OLD_DOMAIN, REGISTRY}
