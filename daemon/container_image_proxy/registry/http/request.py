"""A request to a registry, as each layer of the way there hands it to the next, and the answer keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import field

from container_image_proxy.image.confidential import Confidential

if TYPE_CHECKING:
    from collections.abc import Mapping

    from container_image_proxy.errors import UpstreamError
    from container_image_proxy.registry.endpoints import Endpoint
    from container_image_proxy.registry.http.target import Target

_E = TypeVar("_E", bound="UpstreamError")


class Request(Confidential, frozen=True):
    """A GET of ``target``, or a POST if there is a ``form``, on behalf of the configured place ``endpoint``.

    ``phase`` says in messages what is asked for ("manifest", "blob", "token", ...). ``repository`` is the repository's
    path at the endpoint, by which the login is chosen. ``expected`` are the statuses of useful answers.

    ``authorization`` goes to the first origin alone. A redirect within that origin which leads out of the API takes it
    away, because a signed link takes no login beside its own. It is then ``withheld``, and sent if the target asks.
    ``is_named`` says that the administrator named the target, so that it may be in a private network. ``trusts_target``
    says that the target, though another host, belongs to the endpoint, so that it may see our client certificate.
    ``may_leave_origin`` allows redirects to other origins.
    """

    target: Target
    endpoint: Endpoint
    phase: str
    repository: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    expected: frozenset[int] = frozenset()
    authorization: str | None = None
    withheld: str | None = None
    form: Mapping[str, str] | None = None
    is_named: bool = False
    trusts_target: bool = False
    may_leave_origin: bool = True

    def fault(self, kind: type[_E], reason: str, **more: Any) -> _E:
        """The error of ``kind`` for what went wrong with this request: this is where phase and endpoint are filled in.

        ``more`` are other arguments of the class.
        """
        return kind(reason, **{"phase": self.phase, "endpoint": self.target.origin.authority} | more)
