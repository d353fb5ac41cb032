"""Which directory of certs.d(5) holds a registry's TLS files, over recorded options."""

from __future__ import annotations

from pathlib import Path

import pytest

from container_image_proxy.config.certificates import CertificateDirectories
from container_image_proxy.config.locations import find_certificate_directories
from container_image_proxy.errors import Error
from tests.support.conformance import rows


@rows("docker/cert_dir")
def test_certificate_directory(row, tmp_path):
    options = {key: Path(value) for key, value in row["sys"].items() if isinstance(value, str)}
    root = options.get("RootForImplicitAbsolutePaths", Path("/"))
    per_host = options.get("DockerPerHostCertDirPath")
    directories = CertificateDirectories(
        bases=(per_host,) if per_host else find_certificate_directories(home=tmp_path, root=root),
        override=options.get("DockerCertPath"),
    )
    if row["error"]:
        with pytest.raises(Error):
            directories.directory_for(row["hostport"])
    else:
        assert directories.directory_for(row["hostport"]) == Path(row["dir"])
