"""https before http over a scripted sender: what is tried, what is learned, and which of two failures is told."""

from __future__ import annotations

import pytest

from container_image_proxy.errors import RegistryError, RegistryUnavailableError, UpstreamError
from container_image_proxy.registry.endpoints import Endpoint
from container_image_proxy.registry.http.failures import TlsRefusedError
from container_image_proxy.registry.http.schemes import Schemes
from tests.support.contexts import CONTEXT
from tests.support.senders import REGISTRY, answer, request_for, scripted

INSECURE = Endpoint(domain="registry.example", insecure=True)
URL = "https://registry.example/v2/some/os/manifests/1"
REFUSED = RegistryUnavailableError("nobody there", phase="connect", endpoint="registry.example", retryable=True)
FROM_TLS_PORT = answer(400, b"Client sent an HTTP request to an HTTPS server.", content_type="text/plain")


def ask(schemes: Schemes, endpoint: Endpoint) -> int:
    reply = schemes.send(request_for(URL, endpoint, expected=frozenset({200})), CONTEXT)
    reply.close()
    return reply.status


def schemes_of(urls: list[str]) -> list[str]:
    return [url.partition(":")[0] for url in urls]


@pytest.mark.demand("TLS-basics")
def test_a_registry_that_is_not_insecure_is_spoken_to_over_https_alone() -> None:
    with scripted(REFUSED) as inner, pytest.raises(RegistryUnavailableError):
        ask(Schemes(inner), REGISTRY)
    assert schemes_of(inner.urls) == ["https"]


def test_what_was_good_for_something_comes_first_the_next_time() -> None:
    with scripted(REFUSED, answer(200), answer(200)) as inner:
        schemes = Schemes(inner)
        assert [ask(schemes, INSECURE), ask(schemes, INSECURE)] == [200, 200]
    assert schemes_of(inner.urls) == ["https", "http", "http"]


def test_https_that_was_spoken_once_is_spoken_for_good() -> None:
    with scripted(answer(404), REFUSED) as inner:
        schemes = Schemes(inner)
        assert ask(schemes, INSECURE) == 404
        with pytest.raises(RegistryUnavailableError):
            ask(schemes, INSECURE)
    assert schemes_of(inner.urls) == ["https", "https"]


def test_an_error_in_the_clear_is_no_reason_to_speak_http_for_good() -> None:
    with scripted(REFUSED, answer(404), answer(200)) as inner:
        schemes = Schemes(inner)
        assert [ask(schemes, INSECURE), ask(schemes, INSECURE)] == [404, 200]
    assert schemes_of(inner.urls) == ["https", "http", "https"]


def test_http_that_failed_is_unlearned() -> None:
    with scripted(REFUSED, answer(200), REFUSED, REFUSED, answer(200)) as inner:
        schemes = Schemes(inner)
        ask(schemes, INSECURE)
        with pytest.raises(RegistryUnavailableError):
            ask(schemes, INSECURE)
        ask(schemes, INSECURE)
    assert schemes_of(inner.urls) == ["https", "http", "http", "https", "https"]


def test_a_host_that_the_registry_sent_us_to_is_no_reason_for_http() -> None:
    elsewhere = RegistryUnavailableError("nobody there", phase="connect", endpoint="storage.example")
    with scripted(elsewhere) as inner, pytest.raises(RegistryUnavailableError):
        ask(Schemes(inner), INSECURE)
    assert schemes_of(inner.urls) == ["https"]


def test_a_port_that_has_come_to_speak_tls_is_asked_so() -> None:
    with scripted(REFUSED, answer(200), FROM_TLS_PORT, answer(200)) as inner:
        schemes = Schemes(inner)
        assert [ask(schemes, INSECURE), ask(schemes, INSECURE)] == [200, 200]
    assert schemes_of(inner.urls) == ["https", "http", "http", "https"]


def test_where_tls_cannot_be_had_either_the_answer_in_the_clear_stays() -> None:
    with scripted(REFUSED, answer(200), FROM_TLS_PORT, REFUSED) as inner:
        schemes = Schemes(inner)
        assert [ask(schemes, INSECURE), ask(schemes, INSECURE)] == [200, 400]


def test_what_the_first_one_said_is_told_if_both_fail() -> None:
    first = RegistryError("it does not speak TLS", phase="connect", endpoint="registry.example")
    with scripted(first, REFUSED) as inner, pytest.raises(UpstreamError) as caught:
        ask(Schemes(inner), INSECURE)
    assert caught.value is first


def test_why_tls_failed_is_told_though_the_port_answered_plain_text() -> None:
    untrusted = TlsRefusedError("its certificate has expired", phase="connect", endpoint="registry.example")
    with scripted(untrusted, FROM_TLS_PORT) as inner, pytest.raises(TlsRefusedError) as caught:
        ask(Schemes(inner), INSECURE)
    assert caught.value is untrusted
