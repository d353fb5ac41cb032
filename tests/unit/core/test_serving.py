"""One configuration in force: what is done before the first request, and what is told of the keys."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from container_image_proxy.concurrency.lazy import Lazy
from container_image_proxy.config.instances import TrustSettings
from container_image_proxy.config.lookaside import LookasideConfiguration
from container_image_proxy.core.serving import Serving
from container_image_proxy.errors import ConfigurationError
from container_image_proxy.policy.model import insecure_policy, parse_policy
from container_image_proxy.transports.archives.spool import SpoolDirectory
from container_image_proxy.transports.source import Access
from container_image_proxy.transports.table import parse_image_reference

POLICY = b"""{"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/nonexistent/key.gpg"}],
              "transports": {"oci": {"": [{"type": "insecureAcceptAnything"}]}}}"""


def make_serving(policy: Any, *references: str) -> Serving:
    images = {text: SimpleNamespace(reference=parse_image_reference(text)) for text in references}
    access = Access(
        Lazy(lambda: cast("Any", SimpleNamespace(prepare=lambda _: None))),
        LookasideConfiguration("/none"),
        SpoolDirectory(None),
    )
    settings = SimpleNamespace(trust=TrustSettings())
    return Serving(
        cast("Any", settings),
        cast("Any", images),
        policy,
        cast("Any", SimpleNamespace(close=lambda: None)),
        access,
        cast("Any", None),
    )


def test_keys_that_cannot_be_used_are_an_error_that_names_policy_scope_and_file() -> None:
    serving = make_serving(parse_policy(POLICY, "/etc/policy.json"), "docker://quay.io/a:1", "docker://quay.io/b:1")
    with pytest.raises(ConfigurationError) as caught:
        serving.verify_keys()
    assert str(caught.value) == (
        "/etc/policy.json: default: signedBy: the policy's keys cannot be used: "
        "/nonexistent/key.gpg: cannot be read: No such file or directory"
    )


def test_keys_that_no_image_needs_are_not_loaded(tmp_path: Path) -> None:
    make_serving(parse_policy(POLICY, "/etc/policy.json"), f"oci:{tmp_path}").verify_keys()


@pytest.mark.parametrize(("policy", "warnings"), [(parse_policy(POLICY, "p"), 1), (insecure_policy(), 0)])
def test_warming_up_only_warns_of_keys(policy: Any, warnings: int, caplog: pytest.LogCaptureFixture) -> None:
    make_serving(policy, "docker://quay.io/a:1").warm_up()
    assert [record.levelname for record in caplog.records] == ["WARNING"] * warnings
    assert "/nonexistent/key.gpg" in caplog.text or not warnings


def test_keys_are_loaded_no_further_once_the_configuration_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    serving = make_serving(
        parse_policy(POLICY.replace(b'keyPath": "/nonexistent/key.gpg', b'keyData": "a2V5'), "p"),
        "docker://quay.io/a:1",
    )
    serving.close()
    serving.warm_up()
    assert caplog.text == ""
