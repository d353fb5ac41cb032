from __future__ import annotations

import io
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.service import journal
from container_image_proxy.service.journal import JournalHandler, LineHandler, is_journal, one_line, set_up_logging

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger of its own, whose handlers go with the test."""
    found = logging.getLogger("container_image_proxy.test_journal")
    found.propagate = False
    found.setLevel(logging.DEBUG)
    yield found
    found.handlers.clear()


@pytest.fixture
def lines(logger: logging.Logger) -> io.StringIO:
    stream = io.StringIO()
    logger.addHandler(LineHandler(stream))
    return stream


@pytest.fixture
def entries(logger: logging.Logger) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []
    logger.addHandler(
        JournalHandler(lambda message, **fields: sent.append({"MESSAGE": message, **fields}), {"INSTANCE": "os"})
    )
    return sent


NASTY = "a\nerror forged\x1b[31m\r\0\x85\u2028\u202e\udc80 %s %n {x} end"
TAMED = r"a\nerror forged\x1b[31m\r\x00\x85\u2028\u202e\udc80 %s %n {x} end"


@pytest.mark.demand("LOG-injection")
def test_control_characters_are_escaped_in_lines(logger: logging.Logger, lines: io.StringIO) -> None:
    logger.info("image %s", NASTY, extra={"fields": {"IMAGE": NASTY}})
    assert lines.getvalue() == f'info image {TAMED} image="{TAMED}"\n'.replace(
        '="' + TAMED, '="' + TAMED.replace("\\", "\\\\")
    )


@pytest.mark.demand("LOG-injection")
def test_control_characters_are_escaped_in_the_journal(logger: logging.Logger, entries: list[dict[str, Any]]) -> None:
    logger.info("image %s", NASTY, extra={"fields": {"IMAGE": NASTY}})
    (entry,) = entries
    assert (entry["MESSAGE"], entry["IMAGE"]) == (f"image {TAMED}", TAMED)


@pytest.mark.demand("LOG-injection")
@pytest.mark.parametrize("text", ["x" * 1_000_000, "\n" * 1_000_000])
def test_a_huge_text_is_one_short_record(
    logger: logging.Logger, lines: io.StringIO, entries: list[dict[str, Any]], text: str
) -> None:
    logger.info("%s", text, extra={"fields": {"IMAGE": text}})
    assert len(lines.getvalue()) < 50_000
    assert lines.getvalue().count("\n") == 1
    (entry,) = entries
    assert entry["MESSAGE"].endswith("... (1000000 characters)")
    assert len(entry["IMAGE"]) < 10_000


@pytest.mark.demand("LOG-injection")
@pytest.mark.parametrize("character", "\u061c\u200b\u200e\u2028\u2029\u202e\u2066\ufeff\u00a0\u00ad\U000e0041\ue000")
def test_what_has_no_shape_of_its_own_is_escaped(character: str) -> None:
    shown = one_line(f"a{character}b")
    assert (shown[0], shown[-1]) == ("a", "b")
    assert shown[1:-1].isascii()
    assert shown[1:-1].isprintable()


def test_a_line_does_not_repeat_what_its_message_tells(logger: logging.Logger, lines: io.StringIO) -> None:
    logger.info("GET 200", extra={"fields": {"STATUS": 200, "IMAGE": "os"}, "told": {"STATUS"}})
    assert lines.getvalue() == "info GET 200 image=os\n"


@given(st.text())
def test_one_line_is_one_printable_line_of_utf_8(text: str) -> None:
    shown = one_line(text)
    assert len(shown.splitlines()) <= 1
    shown.encode()


def test_ordinary_text_stays_as_it_is() -> None:
    assert one_line("registry.example/os:1 \\ größe ✓") == "registry.example/os:1 \\ größe ✓"


def test_a_journal_entry_has_the_fields_of_systemd_and_ours(
    logger: logging.Logger, entries: list[dict[str, Any]]
) -> None:
    logger.warning("hello", extra={"fields": {"STATUS": 200, "DIGEST": "sha256:ab"}})
    (entry,) = entries
    assert entry.pop("CODE_LINE") > 0
    assert entry == {
        "MESSAGE": "hello",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "container-image-proxy",
        "LOGGER": logger.name,
        "CODE_FILE": __file__,
        "CODE_FUNC": "test_a_journal_entry_has_the_fields_of_systemd_and_ours",
        "INSTANCE": "os",
        "STATUS": "200",
        "DIGEST": "sha256:ab",
    }


@pytest.mark.parametrize(("level", "priority"), [(10, "7"), (20, "6"), (30, "4"), (40, "3"), (50, "2")])
def test_levels_become_severities(
    logger: logging.Logger, entries: list[dict[str, Any]], level: int, priority: str
) -> None:
    logger.log(level, "x")
    assert entries[0]["PRIORITY"] == priority


def test_a_field_cannot_replace_what_is_ours(logger: logging.Logger, entries: list[dict[str, Any]]) -> None:
    logger.info("hello", extra={"fields": {"MESSAGE": "forged", "INSTANCE": "forged", "DIGEST": "d"}})
    (entry,) = entries
    assert (entry["MESSAGE"], entry["INSTANCE"], entry["DIGEST"]) == ("hello", "os", "d")


def test_a_traceback_cannot_forge_lines(
    logger: logging.Logger, lines: io.StringIO, entries: list[dict[str, Any]]
) -> None:
    def fail() -> None:
        raise ValueError("a\nerror forged\x1b")

    try:
        fail()
    except ValueError:
        logger.exception("failed")
    first, *rest = lines.getvalue().splitlines()
    assert first == "error failed"
    assert all(line.startswith("    ") for line in rest)
    assert rest[-1].strip() == r"error forged\x1b"
    assert "ValueError" in entries[0]["TRACEBACK"]


def test_values_are_quoted_so_that_fields_stay_apart(logger: logging.Logger, lines: io.StringIO) -> None:
    logger.info("hi", extra={"fields": {"A": "x", "B": "x y=z", "C": "", "D": 'q"\\'}})
    assert lines.getvalue() == 'info hi a=x b="x y=z" c="" d="q\\"\\\\"\n'


def test_a_record_that_cannot_be_formatted_does_not_stop_the_caller(
    logger: logging.Logger, entries: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logger.info("%d", "no number")
    assert entries == []


@pytest.fixture
def untouched_logging() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger(journal.PACKAGE)
    state = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], root.level, ours.level = state


def test_stderr_gets_lines_unless_it_is_the_journal(
    untouched_logging: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    with (tmp_path / "stderr").open("w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        set_up_logging(logging.INFO, "os")
        assert isinstance(logging.getLogger().handlers[0], LineHandler)
        status = os.fstat(stream.fileno())
        patch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert is_journal(stream)
        set_up_logging(logging.INFO, "os")
        (handler,) = logging.getLogger().handlers
        assert isinstance(handler, JournalHandler)
        assert not is_journal(io.StringIO())


def test_libraries_get_through_with_warnings_only(untouched_logging: None, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(logging.DEBUG)
    logging.getLogger("library").debug("GET /?token=secret")
    logging.getLogger("library").warning("careful")
    logging.getLogger(f"{journal.PACKAGE}.x").debug("ours")
    assert capsys.readouterr().err == "warning careful\ndebug ours\n"
