"""Manual pages, README and completions say what the program does: nothing missing, nothing invented."""

from __future__ import annotations

import argparse
import re
import subprocess
from pathlib import Path

import pytest

from container_image_proxy.__main__ import build_parser
from container_image_proxy.cli import image_proxy
from container_image_proxy.config.instances import (
    AccessTable,
    ImageTable,
    InstanceFile,
    RegistryTable,
    SourceSettings,
    TrustTable,
)
from container_image_proxy.config.lookaside import parse_registries_d
from container_image_proxy.config.registries_conf import merge_registries, parse_registries
from container_image_proxy.faces.http import problem
from container_image_proxy.image.reference import parse_reference
from container_image_proxy.policy.model import parse_policy
from container_image_proxy.policy.receipt import Receipt, Verdict
from tests.support.manual import shown
from tests.support.readme import blocks
from tests.support.requirements import needs_programs

ROOT = Path(__file__).resolve().parents[1]
CONTRIB = ROOT / "contrib"
PACKAGE = ROOT / "daemon" / "container_image_proxy"
MANUAL = CONTRIB / "man" / "container-image-proxy.1"
SKOPEO_MANUAL = CONTRIB / "man" / "container-image-proxy-skopeo.7"
HTTP_MANUAL = CONTRIB / "man" / "container-image-proxy-http.7"
INSTANCE_MANUAL = CONTRIB / "man" / "container-image-proxy.toml.5"
BASH_COMPLETION = CONTRIB / "completions" / "container-image-proxy.bash"
ZSH_COMPLETION = CONTRIB / "completions" / "_container-image-proxy"
FISH_COMPLETION = CONTRIB / "completions" / "container-image-proxy.fish"
OPTIONS = {option for action in build_parser()._actions for option in action.option_strings if option.startswith("--")}
IMAGE_PROXY_OPTIONS = {
    option
    for action in image_proxy.build_parser()._actions
    for option in action.option_strings
    if option.startswith("--") and action.help != argparse.SUPPRESS
}
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z.-]*[a-z]")


def section(page: Path, name: str) -> str:
    """A section of a manual page, hyphens without their backslash."""
    text = page.read_text().partition(f".SH {name}\n")[2].partition("\n.SH ")[0]
    return text.replace("\\-", "-")


def in_sources(pattern: str, *files: str) -> set[str]:
    """What the pattern's one group finds in these files of the package."""
    texts = [path.read_text() for file in files for path in PACKAGE.glob(file)]
    found = {match for text in texts for match in re.findall(pattern, text)}
    assert found
    return found


@pytest.mark.parametrize("page", sorted((CONTRIB / "man").iterdir()), ids=lambda page: page.name)
def test_the_formatter_has_nothing_to_say_about_the_page(page: Path) -> None:
    done = subprocess.run(
        ["groff", "-t", "-man", "-Tutf8", "-ww", "-z", page], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


@pytest.mark.parametrize(
    "document",
    [MANUAL, BASH_COMPLETION, ZSH_COMPLETION, FISH_COMPLETION],
    ids=lambda document: document.name,
)
def test_every_option_is_described(document: Path) -> None:
    text = document.read_text().replace("\\-", "-").replace("--long-option ", "--")
    assert OPTIONS - set(_OPTION.findall(text)) == set()


def test_the_manual_page_has_no_option_that_does_not_exist() -> None:
    assert set(_OPTION.findall(section(MANUAL, "OPTIONS"))) - OPTIONS == set()


def test_the_manual_page_has_the_options_of_the_image_proxy_and_no_others() -> None:
    described = set(_OPTION.findall(SKOPEO_MANUAL.read_text().replace("\\-", "-")))
    known = {option for action in image_proxy.build_parser()._actions for option in action.option_strings}
    assert known - {"-h", "--help"} <= described
    assert described - known == {"--version"}  # of the shim


def test_the_help_calls_the_values_of_options_what_the_manual_pages_call_them() -> None:
    pages = set(re.findall(r"[A-Z]+", MANUAL.read_text() + SKOPEO_MANUAL.read_text().replace("\\fP", "")))
    for parser in (build_parser(), image_proxy.build_parser()):
        values = {word for action in parser._actions for word in re.findall(r"[A-Z_]+", str(action.metavar or ""))}
        assert values - pages == {"BOOL"}  # which they spell out


def test_the_manual_page_has_every_code_of_a_problem_with_its_status() -> None:
    described = re.findall(r"^([A-Z_]+)\t(\d{3})\t(?:yes|no|may be)\t", section(HTTP_MANUAL, "ERRORS"), re.MULTILINE)
    table = {(row.code, str(row.status.value)) for row in problem._TABLE}
    assert table - set(described) == set()
    assert {code for code, _ in described} - {code for code, _ in table} == {"UNSUPPORTED", "INTERNAL"}


HEADERS = sorted(in_sources(r'\(b?"((?:[A-Z][a-z]+|ETag)(?:-[A-Z][a-z]+)*)", ', "faces/http/*.py"))


@pytest.mark.parametrize("name", HEADERS)
def test_the_manual_page_has_the_header(name: str) -> None:
    assert re.search(rf"^\.BR? .*{name}\b", HTTP_MANUAL.read_text().replace("\\-", "-"), re.MULTILINE)


@pytest.mark.parametrize("member", [*Receipt.__struct_fields__, "signed_by"])
def test_the_manual_page_has_the_member_of_the_verification_document(member: str) -> None:
    assert f"\n{member}\tT{{\n" in section(HTTP_MANUAL, "VERIFICATION DOCUMENT")


@pytest.mark.parametrize("member", Verdict.__struct_fields__)
def test_the_manual_page_has_the_member_of_a_verdict(member: str) -> None:
    verdicts = section(HTTP_MANUAL, "VERIFICATION DOCUMENT").partition("\nverdicts\t")[2].partition("\nT}")[0]
    assert re.search(rf"^\.BR? {member}\b", verdicts, re.MULTILINE)


@pytest.mark.parametrize(
    "name",
    sorted(in_sources(r'environ(?:\.get\(|\[|, )"([A-Z_]+)"', "__main__.py", "config/*.py", "service/journal.py"))
    + sorted(in_sources(r'"([A-Z_]+_PROXY)"', "registry/http/proxies.py")),
)
def test_the_manual_page_has_the_environment_variable(name: str) -> None:
    assert re.search(rf"^\.BR? .*{name}\b", section(MANUAL, "ENVIRONMENT"), re.MULTILINE)


@pytest.mark.parametrize(
    "key",
    sorted(
        key
        for table in (InstanceFile, ImageTable, AccessTable, RegistryTable, TrustTable, SourceSettings)
        for key in table.__struct_encode_fields__
        if key not in {"images", "access", "registry", "trust", "sources"}  # tables, each of which has a section
    ),
)
def test_the_manual_page_has_the_key_of_an_instance_file(key: str) -> None:
    assert re.search(rf"^\.TP\n\.BR? .*\b{key}\b", section(INSTANCE_MANUAL, "KEYS"), re.MULTILINE)


def test_the_manual_page_s_policy_is_for_the_image_of_its_instance_alone() -> None:
    policy, instance, registries_d, _ = shown("container-image-proxy.1", "Signed images")
    (name,) = re.findall(r'^reference = "docker://(.*)"$', instance, re.MULTILINE)
    assert name.partition(":")[0] in policy
    assert parse_policy(policy.encode(), "policy.json")
    assert parse_registries_d(registries_d.encode(), "x.yaml").use_sigstore_attachments(parse_reference(name))


def test_the_manual_page_s_mirror_is_asked_first_and_then_the_registry() -> None:
    (example,) = shown("container-image-proxy.1", "A mirror")
    registries = merge_registries([parse_registries(example.encode(), "mirror.conf")])
    sources = registries.pull_sources(parse_reference("quay.io/cgwalters/exampleos:latest"))
    assert [source.is_mirror for source in sources] == [True, False]


def test_the_readme_points_at_files_that_exist() -> None:
    documents = [ROOT / "README.md", ROOT / "tests" / "README.md", CONTRIB / "fleet.md", CONTRIB / "uses.md"]
    documents += [*(CONTRIB / "adr").glob("*.md"), *(ROOT / ".github").glob("*.md")]
    links = [
        (document, link) for document in documents for link in re.findall(r"\]\(([^)#:]+)\)", document.read_text())
    ]
    assert links
    assert [link for document, link in links if not (document.parent / link).exists()] == []


def test_the_readme_names_the_packages_that_set_up_installs() -> None:
    setup = (CONTRIB / "setup").read_text()
    (packages,) = re.findall(r"^run_packages=\((.*)\)$", setup, re.MULTILINE)
    named = set(re.findall(r"[\w-]+", "".join(blocks("Without a package"))))
    assert set(packages.split()) - named == set()


def test_no_command_of_the_readme_meets_a_daemon_that_does_not_listen_yet() -> None:
    started = [block for block in blocks("Try it") if "container-image-proxy" in block]
    assert started
    for block in started:
        start, first, *_, end = block.splitlines()
        assert start.startswith(".venv/bin/container-image-proxy ")
        assert start.endswith(" &")
        assert "--retry " in first
        assert end == "kill $!"


def test_no_command_of_the_readme_asks_a_question() -> None:
    titles = ["Try it", "Install", "Without a package", "Where /usr is read-only", "Uninstall", "Add an instance"]
    lines = [line for title in titles for block in blocks(title) for line in block.splitlines()]
    assert [line for line in lines if "apt-get install" in line and "--yes" not in line] == []
    assert [line for line in lines if "systemctl edit" in line] == []  # an editor; --stdin is not in Debian 12


def test_every_folder_of_tests_is_described() -> None:
    text = (ROOT / "tests" / "README.md").read_text()
    folders = [path.name for path in (ROOT / "tests").glob("[a-z]*/")]
    assert folders
    assert [name for name in folders if f"`{name}/`" not in text] == []


def test_every_example_for_fleets_names_a_mirror_that_is_asked_first() -> None:
    examples = re.findall(r"```toml\n(.*?)```", (CONTRIB / "fleet.md").read_text(), re.DOTALL)
    reference = parse_reference(f"registry.example.com/os@sha256:{64 * '0'}")
    for example in examples:
        registries = merge_registries([parse_registries(example.encode(), "contrib/fleet.md")])
        assert registries.pull_sources(reference)[0].is_mirror
    assert len(examples) > 1


def test_every_decision_is_in_the_list() -> None:
    listed = (CONTRIB / "adr" / "README.md").read_text()
    assert [decision.name for decision in (CONTRIB / "adr").glob("0*.md") if decision.name not in listed] == []


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("--tls-verify t", ["true"]),
        ("--tls-verify = f", ["false"]),
        ("--tls-verify =", ["true", "false"]),
        ("--log-level w", ["warning"]),
        ("--policy a b", []),
        ("o", ["oci:", "oci-archive:"]),
        ("docker-archive : fi", ["file"]),
        ("oci :", ["images", "other"]),
        ("oci : im", ["images"]),
        ("oci : images :", []),
        ("docker : im", []),
        ("--cert-dir = im", ["images"]),
        ("--socket fi", ["file"]),
        ("--socket fi --insecure", ["--insecure-policy"]),
        ("exp", ["experimental-image-proxy"]),
        ("experimental-image-proxy --sh", ["--shared-blob-dir"]),
        ("experimental-image-proxy --por", []),
        ("experimental-image-proxy o", []),
    ],
)
def test_bash_offers(tmp_path: Path, words: str, offered: list[str]) -> None:
    for directory in ("images", "other"):
        (tmp_path / directory).mkdir()
    (tmp_path / "file").touch()
    assert sorted(bash_offers(words, tmp_path)) == sorted(offered)


def bash_offers(words: str, directory: Path) -> list[str]:
    script = f"""
        . {BASH_COMPLETION}
        compopt() {{ :; }} # bash knows it only while it completes
        COMP_WORDS=(container-image-proxy {words}) COMP_CWORD={len(words.split())}
        _container_image_proxy
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], cwd=directory, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def fish_offers(line: str, directory: Path) -> list[str]:
    command = ["fish", "--no-config", "-c", f"source {FISH_COMPLETION}; complete -C 'container-image-proxy {line}'"]
    environment = {"HOME": str(directory), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=True)
    return [one.split("\t")[0] for one in done.stdout.splitlines()]


def test_bash_offers_the_image_proxy_its_own_options(tmp_path: Path) -> None:
    assert set(bash_offers("experimental-image-proxy --", tmp_path)) == IMAGE_PROXY_OPTIONS


def test_zsh_offers_the_image_proxy_its_own_options() -> None:
    (part,) = re.findall(r"^if .*experimental-image-proxy.*?^fi$", ZSH_COMPLETION.read_text(), re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"'(?:\([^)]*\))?(--[a-z.-]*[a-z])=?\[", part)) == IMAGE_PROXY_OPTIONS


@needs_programs("fish")
def test_fish_offers_each_its_own_options(tmp_path: Path) -> None:
    assert set(fish_offers("experimental-image-proxy --", tmp_path)) == IMAGE_PROXY_OPTIONS
    assert set(fish_offers("--", tmp_path)) == OPTIONS
    assert fish_offers("exp", tmp_path) == ["experimental-image-proxy"]


@needs_programs("zsh")
def test_zsh_can_read_its_completion() -> None:
    done = subprocess.run(["zsh", "-n", ZSH_COMPLETION], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_zsh_offers_nothing_that_excludes_what_is_there() -> None:
    specifications = re.findall(r"'\(([^)]*)\)\*?(--[a-z-]*[a-z]|1)", ZSH_COMPLETION.read_text())
    hidden_by = {option: set(others.split()) for others, option in specifications}
    groups = [
        {option for action in group._group_actions for option in action.option_strings}
        for group in build_parser()._mutually_exclusive_groups
    ]
    standing_alone = {"--port", "--socket", "--sockfd", "--socket-mode", "--allow-user", "--allow-group"}
    standing_alone |= {"--allow-any-user"}
    assert len(groups) == 3
    assert [one for group in groups for one in group if not group - {one} <= hidden_by[one]] == []
    assert [one for one in (*standing_alone, "1") if "--instance" not in hidden_by[one]] == []
    assert hidden_by["--instance"] == {":", *standing_alone}
