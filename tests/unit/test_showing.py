"""What all commands that show something share: one document, a picture that changes, an exit status."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Sequence
from io import StringIO
from typing import Any

import psycopg
import pytest
from django.core.management.base import CommandError
from redis.exceptions import RedisError
from rich.text import Text

from runtime import showing
from runtime.commands import in_words
from runtime.showing import UNSEEN, WELL, WRONG, Showing, Unseen


class Terminal(StringIO):
    """A stream that takes colours."""

    def isatty(self) -> bool:
        return True


class Looks(Showing[int]):
    """Shows these numbers, one at each look; an exception is raised."""

    def __init__(self, *found: int | BaseException) -> None:
        self._found = iter(found)

    def look(self) -> int:
        found = next(self._found)
        if isinstance(found, BaseException):
            raise found
        return found

    def page(self, found: int) -> Text:
        return Text(f"seen {found} " + "x" * 300, "red")

    def document(self, found: int) -> dict[str, int]:
        return {"seen": found}

    def exit_status(self, found: int) -> int:
        return WRONG if found else WELL


def parsed(words: Sequence[str]) -> dict[str, Any]:
    parser = ArgumentParser()
    showing.add_arguments(parser)
    return vars(parser.parse_args(words))


@pytest.mark.parametrize(("found", "status"), [(0, WELL), (7, WRONG)])
def test_a_document_is_one_line_and_the_status_that_of_what_is_seen(found: int, status: int) -> None:
    said = Terminal()
    assert Looks(found).show(parsed(["--json"]), said) == status
    assert json.loads(said.getvalue()) == {"seen": found}


def test_a_file_gets_whole_lines_without_escape_codes() -> None:
    said = StringIO()
    assert Looks(7).show(parsed([]), said) == WRONG
    assert said.getvalue() == f"seen 7 {'x' * 300}\n"


@pytest.mark.parametrize("styled", [True, False])
def test_a_terminal_gets_colours_unless_it_wants_none(styled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    said = Terminal()
    Looks(7).show(parsed([]), said, styled=styled)
    assert ("\x1b[31m" in said.getvalue()) is styled


@pytest.mark.parametrize(("last", "status"), [(0, WELL), (7, WRONG), (Unseen("nobody answers"), UNSEEN)])
def test_watching_goes_on_over_what_cannot_be_seen_and_ends_as_the_last_look(
    last: int | Unseen, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("runtime.showing.time.sleep", pauses.append)
    said = StringIO()
    assert Looks(7, Unseen("it is down"), last, KeyboardInterrupt()).show(parsed(["--watch", "5"]), said) == status
    assert pauses == [5.0] * 3
    lines = said.getvalue().splitlines()
    assert [line[:10] for line in lines[1::2]][:2] == ["seen 7 xxx", "it is down"]
    assert all("every 5 s until Ctrl-C" in line for line in lines[::2])
    assert "\x1b" not in said.getvalue()


def test_a_terminal_shows_one_picture_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr("runtime.showing.time.sleep", lambda _: None)
    said = Terminal()
    Looks(1, 2, KeyboardInterrupt()).show(parsed(["--watch"]), said)
    assert "\x1b[1A" in said.getvalue(), "the second picture stands where the first one stood"


@pytest.mark.parametrize(
    "words", [["--json", "--watch"], ["--watch", "0"], ["--watch", "nan"], ["--watch", "x"], ["--watch", "1e9"]]
)
def test_a_wrong_command_line_ends_with_two(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed(words)
    assert ended.value.code == UNSEEN
    assert "--watch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RedisError("Connection refused."), r"does not answer \(Connection refused\): .* TALLY_JOURNAL_URL"),
        (psycopg.errors.UndefinedTable("no table\nLINE 1"), "^no table LINE 1: run `manage.py migrate_all`"),
        (psycopg.OperationalError("refused"), "^refused: are all primaries up"),
        (ValueError("a hint"), "^Mend it: a hint$"),
    ],
)
def test_what_is_down_is_a_sentence_with_what_to_do_next(error: Exception, said: str) -> None:
    with pytest.raises(CommandError, match=said) as raised, in_words({ValueError: "Mend it: {error}"}, returncode=3):
        raise error
    assert raised.value.returncode == 3


def test_a_fault_of_the_code_is_no_sentence() -> None:
    with pytest.raises(KeyError), in_words():
        raise KeyError("x")
