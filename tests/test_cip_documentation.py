"""cip's manual page, completions and README say what the program does: nothing missing, nothing invented."""

from __future__ import annotations

import argparse
import re
import subprocess
from pathlib import Path

import pytest

import container_image_client
import container_image_proxy
from container_image_client.cli.exit_codes import ExitCode
from container_image_client.cli.options import build_parser
from tests.support.readme import blocks
from tests.support.requirements import needs_programs

CONTRIB = Path(__file__).resolve().parents[1] / "contrib"
MANUAL = CONTRIB / "man" / "cip.1"
COMPLETIONS = [CONTRIB / "completions" / name for name in ("cip.bash", "_cip", "cip.fish")]
PARSER = build_parser()
(SUBPARSERS,) = (action for action in PARSER._actions if isinstance(action, argparse._SubParsersAction))
COMMANDS = dict(SUBPARSERS.choices)


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings if option.startswith("--")}


OPTIONS = options_of(PARSER).union(*map(options_of, COMMANDS.values()))


@pytest.mark.parametrize("document", [MANUAL, *COMPLETIONS], ids=lambda document: document.name)
def test_every_option_and_command_is_described(document: Path) -> None:
    text = document.read_text().replace("\\-", "-").replace("--long-option ", "--")
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text)) >= OPTIONS
    assert [name for name in COMMANDS if not re.search(rf"\b{name}\b", text)] == []


def test_the_manual_page_has_no_option_that_does_not_exist() -> None:
    found = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", MANUAL.read_text().replace("\\-", "-")))
    assert found - OPTIONS == set()


def test_the_manual_page_has_every_exit_code() -> None:
    table = MANUAL.read_text().partition(".SH EXIT STATUS")[2]
    described = [int(code) for line in re.findall(r"^([\d, ]+)\tT\{", table, re.MULTILINE) for code in line.split(",")]
    assert sorted(described) == sorted(map(int, ExitCode))


def test_every_command_has_options_that_may_stand_before_or_behind_it() -> None:
    for name, arguments in (("images", []), ("unpack", ["dir"]), ("plan", ["--have", "x"])):
        before = PARSER.parse_args(["--socket", "s", "--json", name, *arguments])
        behind = PARSER.parse_args([name, *arguments, "--socket", "s", "--json"])
        assert before == behind


def test_both_packages_are_of_one_version() -> None:
    assert container_image_client.__version__ == container_image_proxy.__version__


def test_the_readme_shows_commands_that_exist() -> None:
    lines = [line for title in ("Try it", "Fetch with cip") for block in blocks(title) for line in block.splitlines()]
    commands = [line.partition("#")[0].split() for line in lines if re.search(r"\bcip --", line)]
    assert len(commands) > 5
    for words in commands:
        PARSER.parse_args(words[next(at for at, word in enumerate(words) if word.endswith("cip")) + 1 :])


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("pu", ["pull"]),
        ("--json un", ["unpack"]),
        ("pull --no", ["--no-sync"]),
        ("pull o", ["oci:"]),
        ("pull oci : im", ["images"]),
        ("pull dir : im", ["images"]),
        ("unpack im", ["images"]),
        ("unpack --rep", ["--replace"]),
        ("--socket fi", ["file"]),
        ("blob -o fi", ["file"]),
        ("ls --rec", ["--recursive"]),
        ("images x", []),
        ("--ver", ["--version"]),
        ("plan --have o", ["oci:"]),
    ],
)
def test_bash_offers(tmp_path: Path, words: str, offered: list[str]) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "file").touch()
    script = f"""
        . {COMPLETIONS[0]}
        compopt() {{ :; }} # bash knows it only while it completes
        COMP_WORDS=(cip {words}) COMP_CWORD={len(words.split())}
        _cip
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (sorted(done.stdout.split()), done.stderr) == (sorted(offered), "")


@needs_programs("fish")
@pytest.mark.parametrize(
    ("line", "offered"), [("cip pu", ["pull"]), ("cip unpack --rep", ["--replace"]), ("cip pull --no", ["--no-sync"])]
)
def test_fish_offers(line: str, offered: list[str], tmp_path: Path) -> None:
    script = f"source {COMPLETIONS[2]}; complete -C '{line}'"
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        ["fish", "--no-config", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert [one.split("\t")[0] for one in done.stdout.splitlines()] == offered


@needs_programs("zsh")
def test_zsh_can_read_its_completion() -> None:
    done = subprocess.run(["zsh", "-n", COMPLETIONS[1]], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
