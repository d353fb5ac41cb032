"""Signatures of images that a mirror supplies: looked for there, under its name, and judged by the image's own name."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Reply, stand_alone, write_policy
from tests.support.gpg import Signer
from tests.support.layouts import Layout, StoredImage, single_image
from tests.support.sigstore import attachment, attachment_tag, make_key, public_pem
from tests.support.upstream import Handler, Upstream, answering, by_path, content, image


def serving(routes: dict[str, Handler]) -> Handler:
    return by_path({"/v2/": answering(200, b"{}"), **routes})


class Fleet:
    """A registry, a mirror of it that is asked for digests alone, and the tools' configuration."""

    def __init__(
        self, place: Path, origin: Upstream, mirror: Upstream, requirement: dict[str, Any], *, blocked: bool = False
    ) -> None:
        self.place, self.origin, self.mirror = place, origin, mirror
        self.stored: StoredImage = single_image(place / "layout")
        self.policy = write_policy(place, {"default": [requirement]})
        (place / "registries.conf.d").mkdir()
        (place / "registries.d").mkdir()
        (place / "registries.conf").write_text(
            f'[[registry]]\nlocation = "{self.origin.authority}"\ninsecure = true\n'
            f"mirror-by-digest-only = true\nblocked = {str(blocked).lower()}\n"
            f'[[registry.mirror]]\nlocation = "{self.mirror.authority}"\ninsecure = true\n'
        )

    @property
    def reference(self) -> str:
        return f"{self.origin.authority}/os@{self.stored.digest}"

    def signatures_of(self, upstream: Upstream, **settings: str) -> None:
        """Let registries.d say something of that registry alone."""
        lines = "".join(f"    {key}: {value}\n" for key, value in settings.items())
        (self.place / "registries.d/x.yaml").write_text(f"docker:\n  {upstream.authority}:\n{lines}")

    def ask(self) -> Reply:
        files = {"--registries-conf": "registries.conf", "--registries-conf-dir": "registries.conf.d"}
        files |= {"--registries.d": "registries.d", "--policy": self.policy.name}
        options = [word for name, file in files.items() for word in (name, str(self.place / file))]
        with stand_alone(self.place / "run", [*options, f"docker://{self.reference}"]) as daemon:
            return daemon.get("/manifest")

    def skopeo_accepts(self) -> bool:
        command = ["skopeo", "--policy", str(self.policy), "--registries-conf", str(self.place / "registries.conf")]
        command += ["--registries.d", str(self.place / "registries.d"), "copy", "--quiet", f"docker://{self.reference}"]
        return subprocess.run([*command, f"dir:{self.place}/copy"], check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("named", ["mirror", "origin"])
def test_lookaside_storage_is_that_of_the_place_that_supplied_the_image(tmp_path: Path, named: str) -> None:
    with Signer() as signer, Upstream(serving({})) as origin, Upstream(serving({})) as mirror:
        (tmp_path / "key.gpg").write_bytes(signer.public_key)
        fleet = Fleet(
            tmp_path, origin, mirror, {"type": "signedBy", "keyType": "GPGKeys", "keyPath": f"{tmp_path}/key.gpg"}
        )
        signed_name = fleet.reference.partition("@")[0] + ":1"
        signature = signer.sign_image(signed_name, fleet.stored.digest)
        mirror.handler = serving(image(fleet.stored, tag="1"))
        with Upstream(by_path({"/signature-1": content(signature)})) as lookaside:
            fleet.signatures_of(mirror if named == "mirror" else origin, lookaside=f"{lookaside.url}/x")
            assert (fleet.ask().status == 200) == fleet.skopeo_accepts() == (named == "mirror")


@pytest.mark.parametrize("blocked", [False, True])
def test_attachments_come_from_where_the_image_came_from_though_they_have_a_tag(tmp_path: Path, blocked: bool) -> None:  # noqa: FBT001 - a parameter
    key = make_key()
    (tmp_path / "key.pub").write_bytes(public_pem(key))
    requirement = {"type": "sigstoreSigned", "keyPath": f"{tmp_path}/key.pub"}
    with Upstream(serving({})) as origin, Upstream(serving({})) as mirror:
        fleet = Fleet(tmp_path, origin, mirror, requirement, blocked=blocked)
        stored = fleet.stored
        attached = attachment(Layout(tmp_path / "attached"), key, fleet.reference, stored.digest)
        mirror.handler = serving(image(stored, tag="1") | image(attached, tag=attachment_tag(stored.digest)))
        fleet.signatures_of(mirror, **{"use-sigstore-attachments": "true"})
        reply = fleet.ask()
        assert reply.status == 200, reply.body
        assert origin.paths() == []
