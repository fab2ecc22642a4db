"""The walk of docs/demo.md: the page can be walked, and a walk finds what is not as the page says.

Nothing here starts a cluster. `make demo` does, and takes longer than the tests can spare.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from benchmarks.demo import __main__ as demo
from benchmarks.demo import page
from benchmarks.demo.page import Block, PageError
from benchmarks.demo.shell import Shell
from counter_project.config import Config
from tests.support.commands import ROOT

SAID = "```text\n1\n```\n"


@pytest.fixture
def shell() -> Iterator[Shell]:
    with Shell(ROOT, demo.environment(os.environ)) as shell:
        yield shell


def walk(shell: Shell, text: str) -> str:
    """What a walk shows."""
    console = Console(width=100)
    with console.capture() as shown:
        demo.walk(page.parse(text), shell, console)
    return shown.get()


def test_the_page_says_what_one_sees_after_every_command() -> None:
    """`parse` refuses it otherwise."""
    text = demo.PAGE.read_text()
    steps = page.parse(text)
    assert len(steps) == text.count("\n## ")
    assert sum(len(step.blocks) for step in steps) == len(re.findall(r"^```sh\b", text, re.MULTILINE))
    assert all(block.sees.strip(" \n…") for step in steps for block in step.blocks)


def test_the_page_uses_the_directory_that_is_destroyed_and_settings_that_there_are() -> None:
    text = demo.PAGE.read_text()
    assert {demo.DIRECTORY.name} == set(re.findall(r"\.cluster[a-z-]*", text))
    names = set(re.findall(r"TALLY_[A-Z_]+", text)) - {"TALLY_ENV_FILE"}
    exported = re.findall(r"^export (TALLY_[A-Z_]+)", text, re.MULTILINE)
    assert names == set(exported)
    assert names <= set(text[text.index("\nunset ") :].split())
    assert names <= {f"TALLY_{name.upper()}" for name in Config.model_fields}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("## a\n```sh\ntrue\n```\n", "line 2: after these commands"),
        ("## a\n```sh\ntrue\n```\n## b\n", "line 2: after these commands"),
        ("## a\n```sh\ntrue\n```\n```sh\ntrue\n```\n" + SAID, "line 2: after these commands"),
        ("## a\n" + SAID, "line 2: there are no commands"),
        ("```sh\ntrue\n```\n" + SAID, "line 1: commands stand in a step"),
        ("## a\n```sh once\ntrue\n```\n" + SAID, "line 2: commands stand in a step"),
        ("## a\n```json\n1\n```\n", "line 2: a block is"),
    ],
)
def test_a_page_that_is_no_walk_is_refused(text: str, said: str) -> None:
    with pytest.raises(PageError, match=said):
        page.parse(text)


@pytest.mark.parametrize(
    ("expected", "seen", "said"),
    [
        ("a\nb\n", "a\nb", ""),
        ("50 queued", "     50   queued \n\n", ""),
        ('{"id":"…","n":1}', '{"id":"7f","n":1}', ""),
        ("a\n…\nb", "a\nx\ny\nb", ""),
        ("…\nb", "b", ""),
        ("", "", ""),
        ("a\nb", "a\nc", "after 1 line as expected, it printed `c`; expected `b`"),
        ("a\nb\nc", "a\nb", "after 2 lines as expected, it printed nothing more; expected `c`"),
        ("a", "a\nb", "after 1 line as expected, it printed `b`; expected nothing more"),
        ("50 queued", "51 queued", "it printed `51 queued`; expected `50 queued`"),
        ('{"id":"…","n":1}', '{"id":"7f","n":12}', 'it printed `{"id":"7f","n":12}`; expected `{"id":"…","n":1}`'),
        ("a.c", "abc", "it printed `abc`; expected `a.c`"),
        ("", "a", "it printed `a`; expected nothing more"),
    ],
)
def test_an_output_is_compared_with_the_page(expected: str, seen: str, said: str) -> None:
    assert page.difference(expected, seen) == said


@pytest.mark.parametrize(
    ("expected", "seen", "said"),
    [
        ("50 queued", "\n     50   queued \n\n", ["50   queued"]),
        ('{"id":"…","n":1}', '{"id":"7f","n":1}\n', ['{"id":"', '","n":1}']),
        ("a … c\n…\nd", "a  b c\nx\ny\n d\n", ["a  ", " c", "d"]),
        ("…", "a", []),
        ("a", "b", []),
    ],
)
def test_what_was_compared_is_told_from_what_may_be_anything(expected: str, seen: str, said: list[str]) -> None:
    assert [seen[start:end] for start, end in page.compared(expected, seen)] == said


def test_paragraphs_explain_the_commands_that_follow_them() -> None:
    text = "## One\nFirst.\n\nThen.\n```sh\ntrue\n```\n" + SAID + "```sh\ntrue\n```\n" + SAID + "Nothing.\n"
    text += "## Two\n```sh\ntrue\n```\n" + SAID
    assert [block.explanation for step in page.parse(text) for block in step.blocks] == ["First.\n\nThen.", "", ""]


def test_a_walk_shows_every_command_and_its_output_and_a_block_sees_what_those_before_have_set(shell: Shell) -> None:
    shown = walk(shell, "## One\n```sh\nn=1\necho $n\n```\n" + SAID + "## Two\n```sh\necho $n >&2\n```\n" + SAID)
    for said in ("One", "echo $n", "echo $n >&2", "2 steps, 2 outputs as the page says"):
        assert said in shown
    assert shown.count("✓") == 3


def test_a_walk_ends_at_the_first_output_that_is_not_as_the_page_says(shell: Shell) -> None:
    text = "## One\n```sh\necho 1\n```\n" + SAID + "\n## Two\n```sh\necho 2\n```\n" + SAID + "## Three\n"
    with pytest.raises(demo.WalkError, match=r"^line 10, Two: it printed `2`; expected `1`$"):
        walk(shell, text)


@pytest.mark.parametrize("keep", [False, True])
def test_a_walk_that_fails_says_what_was_expected_and_where_the_logs_are(
    keep: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, logs = tmp_path / "cluster", tmp_path / "logs"
    monkeypatch.setattr(demo, "DIRECTORY", directory)
    monkeypatch.setattr(demo, "LOGS", logs)
    monkeypatch.setattr(demo, "SIGNALS", ())
    monkeypatch.setattr(demo, "DESTROY", f"python manage.py cluster destroy --dir {directory} --yes")
    console = Console(width=200)
    with console.capture() as shown:
        commands = f"mkdir -p {directory}/logs; touch {directory}/lock; echo why > {directory}/logs/api-1.log; echo 2"
        text = f"## One\n```sh\n{commands}\n```\n{SAID}"
        assert demo.walk_and_clean(text, console, keep=keep) == 1
    said = " ".join(shown.get().split())
    assert "expected: 1 ✗ docs/demo.md, line 2, One: it printed `2`; expected `1`" in said
    assert (f"Its logs are in {directory.name}/logs" if keep else f"logs of its processes are in {logs.name}") in said
    assert directory.exists() == keep
    assert ((directory / "logs" if keep else logs) / "api-1.log").read_text() == "why\n"


def test_a_failed_command_is_wrong_whatever_it_printed(shell: Shell) -> None:
    assert demo.check(Block("echo 1\nfalse\n", "1", 1), shell) == ("1\n", "the last command ended with status 1")


def test_a_block_is_repeated_until_one_sees_what_the_page_says(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    count = "n=$((n + 1)); echo $n\n"
    assert demo.check(Block(count, "3", 1, repeat=True), shell) == ("3\n", "")
    monkeypatch.setattr(demo, "REPEAT_SECONDS", 0.3)
    _, wrong = demo.check(Block(count, "3", 1, repeat=True), shell)
    assert re.fullmatch(r"it printed `\d`; expected `3` \(after 0 s of repeating\)", wrong)


@pytest.mark.parametrize("commands", ["echo 1; sleep 30", "echo 1; exit"])
def test_what_does_not_end_or_ends_the_shell_is_wrong_and_nothing_is_left(
    commands: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "COMMAND_SECONDS", 0.5)
    before = set(psutil.Process().children(recursive=True))
    with Shell(ROOT, demo.environment(os.environ)) as shell:
        output, wrong = demo.check(Block(commands, "1", 1), shell)
    assert output == "1\n"
    assert "did not end within" in wrong
    assert set(psutil.Process().children(recursive=True)) <= before


def test_settings_of_another_cluster_do_not_reach_the_walk() -> None:
    found = demo.environment({"PATH": "/bin", "TALLY_KEY_RATE": "1", "TALLY_SHARDS": "[]", "FORCE_COLOR": "1"})
    assert found == {"PATH": "/bin", "LC_ALL": "C", "NO_COLOR": "1"}
