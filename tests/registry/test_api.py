"""The distribution API over a scripted sender: what is asked for, and what the statuses mean."""

from __future__ import annotations

import logging

import pytest

from container_image_proxy.config.limits import Limits
from container_image_proxy.errors import (
    Error,
    RateLimitedError,
    RegistryError,
    RegistryUnavailableError,
    UnknownBlobError,
    UnknownManifestError,
    UpstreamError,
)
from container_image_proxy.image.reference import parse_reference
from container_image_proxy.registry.api import DistributionApi
from container_image_proxy.registry.endpoints import Repository
from container_image_proxy.registry.http.reply import Reply
from container_image_proxy.registry.http.request import Request
from tests.support.contexts import CONTEXT
from tests.support.senders import Answer, ScriptedSender, answer, request_for, scripted

PLACE = Repository(domain="docker.io", is_mirror=True, reference=parse_reference("some/os:1"))
LIMITS = Limits()


def get(inner: ScriptedSender, phase: str = "manifest") -> Reply:
    api = DistributionApi(inner, LIMITS)
    return api.get(CONTEXT, PLACE, "manifests/1", phase=phase, headers={"Accept": "x"}, expected=frozenset({200}))


def error_of(given: Answer, phase: str = "manifest") -> Error:
    with scripted(given) as inner, pytest.raises(Error) as caught:
        get(inner, phase)
    return caught.value


def test_a_repository_is_asked_at_the_host_that_its_registry_has() -> None:
    with scripted(answer(200)) as inner:
        get(inner).close()
    (request,) = inner.sent
    assert request.target.url == "https://registry-1.docker.io/v2/some/os/manifests/1"
    assert (request.endpoint, request.repository) == (PLACE.endpoint, "some/os")
    assert (request.headers, request.expected, request.authorization) == ({"Accept": "x"}, {200}, None)


def test_all_layers_together_have_the_time_of_one_answer() -> None:
    with scripted(answer(200)) as inner:
        get(inner).close()
    left = inner.contexts[0].deadline.left
    assert left <= LIMITS.answer_timeout
    assert inner.contexts[0].cancellation is CONTEXT.cancellation


@pytest.mark.parametrize(
    ("phase", "kind"),
    [("manifest", UnknownManifestError), ("blob", UnknownBlobError), ("referrers", UnknownManifestError)],
)
def test_what_a_registry_does_not_have_is_told_by_its_kind(phase: str, kind: type[Error]) -> None:
    error = error_of(answer(404), phase)
    assert type(error) is kind
    assert str(error) == f"docker.io/some/os has no such {phase}"


def test_any_other_answer_is_an_error_of_the_registry() -> None:
    error = error_of(answer(418))
    assert isinstance(error, RegistryError)
    assert (error.phase, error.endpoint, error.upstream_status) == ("manifest", "registry-1.docker.io", 418)


@pytest.mark.demand("redirect-cdn")
@pytest.mark.parametrize(("status", "kind"), [(404, RegistryUnavailableError), (429, RateLimitedError)])
def test_where_a_registry_redirects_to_can_only_fail_for_now(status: int, kind: type[UpstreamError]) -> None:
    """A signed link may have expired, and the registry can give a new one."""

    class Redirected(ScriptedSender):
        def send(self, request: Request, context: object) -> Reply:  # noqa: ARG002 - a sender's
            return super().send(request_for("https://storage.example/x?signature=secret", request.endpoint), CONTEXT)

    sender = Redirected(lambda _: answer(status, retry_after="7"))
    with pytest.raises(kind) as caught:
        get(sender)
    error = caught.value
    assert (error.endpoint, error.upstream_status, error.retryable) == ("storage.example", status, True)
    assert "secret" not in str(error)


@pytest.mark.demand("HTTP-response-split")
def test_a_warning_of_the_registry_goes_into_the_log_shortened(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with scripted(answer(200, warning=f'299 - "{"x" * 300}"')) as inner:
        get(inner).close()
    assert caplog.messages == [f"docker.io warns: '{'x' * 200}'"]
