"""From a plain clone on a bare Debian: what the README says first, as root and as an ordinary user."""

from __future__ import annotations

import re

import pytest

from tests.support.bare import BareDebian
from tests.support.readme import as_root, blocks

VERSION = "container-image-proxy --version && test -e /etc/containers/policy.json"
INSTALLED = f"{VERSION} && cat /etc/systemd/system/container-image-proxy@.service"
NO_SYSTEMD_RUNS = "export SYSTEMD_OFFLINE=1"
CLONE = "git clone --quiet /in/project.bundle project && cd project"

pytestmark = [
    pytest.mark.long("it makes bare Debian systems and runs all tests in them"),
    pytest.mark.timeout(3600),
]


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def bare(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BareDebian:
    """A bare system that is given the last commit of this checkout."""
    return BareDebian.given_this_project(request.param, tmp_path_factory.mktemp(request.param))


def verdict(output: str) -> str:
    """pytest's last line; -rP shows it."""
    (line,) = re.findall(r"^=+ (.*\bpassed.*) =+$", output, re.MULTILINE)
    print(line)
    return line


def skips(output: str) -> str:
    return "".join(line for line in output.splitlines(keepends=True) if line.startswith("SKIPPED"))


def test_both_commands_of_the_readme_pass_as_root(bare: BareDebian) -> None:
    output = bare.run(f"{CLONE}\n{blocks('Try it')[0]}")
    assert "What next" in output
    assert "failed" not in verdict(output)
    assert "needs root" not in skips(output)
    assert "needs Debian" not in skips(output)


def test_an_ordinary_user_is_told_what_to_install_and_runs_every_test_that_needs_no_root(bare: BareDebian) -> None:
    output = bare.run(
        f"""
        useradd --create-home user
        as_user() {{ su --login user --command "$1"; }}
        as_user '{CLONE}'
        apt-get update --quiet --quiet
        export DEBIAN_FRONTEND=noninteractive
        for command in contrib/quickstart tests/run; do
            as_user "cd project && $command" >refusal 2>&1 && exit 1 # it needs packages, and there is no sudo
            bash -c "$(sed -n 's/.*: sudo \\(apt-get install\\)/\\1 --yes --quiet/p' refusal)"
            as_user "cd project && $command"
        done
        """
    )
    assert "failed" not in verdict(output)
    assert "needs Debian" not in skips(output)


def test_an_ordinary_user_with_sudo_installs_nothing_by_hand(bare: BareDebian) -> None:
    output = bare.run(
        f"""
        apt-get update --quiet --quiet
        DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends sudo
        useradd --create-home user
        echo 'user ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/user
        su --login user --command '{CLONE} && contrib/quickstart'
        """
    )
    assert "What next" in output


def test_the_lines_that_install_need_no_compiler(bare: BareDebian) -> None:
    output = bare.run(
        f"{CLONE}\n{NO_SYSTEMD_RUNS}\n{as_root(blocks('Without a package')[0])}\n{INSTALLED}\n! command -v gcc"
    )
    assert "/opt/container-image-proxy/bin/container-image-proxy --instance" in output


def test_systemd_python_can_be_compiled_instead(bare: BareDebian) -> None:
    lines = [line for line in blocks("Without a package")[0].splitlines() if "python3 -m venv" not in line]
    position = lines.index("sudo /opt/container-image-proxy/bin/pip install .")
    lines[position:position] = blocks("Without a package")[1].splitlines()
    without_debians = "\n".join(lines).replace("python3-systemd ", "")
    bare.run(f"{CLONE}\n{NO_SYSTEMD_RUNS}\n{as_root(without_debians)}\n{INSTALLED}")


def test_the_lines_for_an_image_install_below_usr(bare: BareDebian) -> None:
    packages = [line for line in blocks("Without a package")[0].splitlines() if "apt-get" in line]
    (containerfile,) = blocks("Where /usr is read-only", "dockerfile")
    build = containerfile.replace("COPY . ", "cp -r . ").replace("RUN ", "")
    units = "cat /usr/lib/systemd/system/container-image-proxy@.service"
    output = bare.run(f"{CLONE}\n{as_root(chr(10).join(packages))}\n{build}\n{VERSION}\n{units}")
    assert "ExecStart=/usr/bin/container-image-proxy --instance" in output
