"""The spec file for Fedora, built by Debian's rpm. What is a macro of Fedora alone does here what the file needs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.requirements import needs_programs

ROOT = Path(__file__).resolve().parents[2]
SPEC = ROOT / "contrib/container-image-proxy.spec"
SITE = "/usr/lib/python3/site-packages"
INSTALL = """
mkdir -p %{buildroot}%{python3_sitelib} %{buildroot}%{_bindir} && cp -r daemon/* %{buildroot}%{python3_sitelib}
touch %{buildroot}%{_bindir}/cip %{buildroot}%{_bindir}/container-image-proxy
"""
MACROS = {
    "dist": ".test",
    "_unitdir": "/usr/lib/systemd/system",
    "python3": "python3",
    "python3_sitelib": SITE,
    "pyproject_buildrequires": ":",
    "pyproject_wheel": ":",
    "pyproject_install": INSTALL.strip().replace("\n", " && "),
    "pyproject_save_files()": f"echo '{SITE}/*' >files",
    "pyproject_files": "files",
    "__brp_python_bytecompile": "%{nil}",
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built package."""
    place = tmp_path_factory.mktemp("rpm")
    (version,) = re.findall(r"^Version: *(.*)$", SPEC.read_text(), re.MULTILINE)
    (place / "SOURCES").mkdir()
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=False).stdout
    if not names:
        pytest.skip("needs a checkout: git says what belongs to a source archive")
    prefix = f"container_image_proxy-{version}"
    command = ["tar", "--create", "--gzip", "--null", "--files-from=-", f"--transform=s,^,{prefix}/,"]
    subprocess.run([*command, f"--file={place}/SOURCES/{prefix}.tar.gz"], cwd=ROOT, input=names, check=True)
    macros = [f"--define={name} {body}" for name, body in MACROS.items()]
    command = [
        "rpmbuild",
        "-bb",
        "--nodeps",
        "--quiet",
        *macros,
        f"--define=_topdir {place}",
        str(SPEC),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (package,) = place.glob("RPMS/**/*.rpm")
    return package


def query(package: Path, what: str) -> str:
    command = ["rpm", "--query", "--package", "--nosignature", "--nodigest", what, str(package)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@needs_programs("rpmbuild")
def test_it_has_all_that_the_debian_packages_have(package: Path) -> None:
    files = set(query(package, "--list").splitlines())
    expected = set()
    for name in ("client", "proxy"):
        for line in (ROOT / f"contrib/debian/container-image-{name}.install").read_text().splitlines():
            *sources, target = line.replace("vendor-completions", "site-functions").split()
            expected |= {f"/{target}/{path.name}" for source in sources for path in ROOT.glob(source)}
    expected |= {f"/usr/share/man/man{page.suffix[1]}/{page.name}" for page in (ROOT / "contrib/man").iterdir()}
    assert len(expected) > 20
    assert expected - {file.removesuffix(".gz") for file in files} == set()
