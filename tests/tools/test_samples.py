"""Commands, bodies and links on the pages: what they name is there. docs/demo.md and docs/tutorial.md are run as well."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from django.core.management import get_commands, load_command_class
from markdown_it import MarkdownIt

from benchmarks.quorum.__main__ import main as quorum_report
from cluster.cli import COMMANDS
from cluster.cli import main as cluster_command
from tests.support.commands import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OWN_PROJECT = "tutorial.md"  # its `manage.py` is that of the project there
WITH_COMMANDS = {"cluster", "likes"}  # the next word is a command of their own
COMMAND = re.compile(r"manage\.py ([a-z_]+)([^`|&;<>()#\n]*)")


@cache
def code(page: Path) -> list[str]:
    """What stands in code marks, and lines of shell; lines that go on with a backslash are one."""
    tokens = MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8"))
    spans = [one.content for token in tokens for one in token.children or () if one.type == "code_inline"]
    blocks = [token.content for token in tokens if token.type == "fence" and token.info.startswith("sh")]
    return [*spans, *(line for block in blocks for line in re.sub(r"\\\n\s*", " ", block).splitlines())]


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Each `manage.py` command with its words."""
    for text in code(page):
        for name, rest in COMMAND.findall(text):
            yield name, re.sub(r'"[^"]*"', '"', rest).split()


def help_of(name: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What `--help` says. Fails where there is no such command."""
    called: Callable[[list[str]], Any]
    if name in COMMANDS:
        called = partial(cluster_command, name)
    elif name == "quorum_report":
        called = quorum_report
    else:
        assert name in get_commands(), f"there is no manage.py {name}"
        called = load_command_class(get_commands()[name], name).create_parser("manage.py", name).parse_args
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        called([*words, "--help"])
    said = capsys.readouterr()
    assert not ended.value.code, f"manage.py {name} {' '.join(words)}: {said.err}"
    return said.out


def slugs(page: Path) -> set[str]:
    """The anchors of the headings of a page."""
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    titles = [tokens[number + 1].content for number, token in enumerate(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != OWN_PROJECT], ids=lambda page: page.name)
def test_commands_have_the_options_that_the_page_gives_them(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    helps: dict[tuple[str, ...], str] = {}
    for name, words in commands(page):
        if words[:1] == ['"']:
            continue  # the words of a function of the shell: `cluster "$@"`
        inner = [word for word in words[:1] if name in WITH_COMMANDS and re.fullmatch("[a-z]+", word)]
        if (name, *inner) not in helps:
            helps[name, *inner] = help_of(name, inner, capsys)
        known = set(re.findall(r"--[a-z][a-z-]*", helps[name, *inner]))
        unknown = {word.partition("=")[0] for word in words if re.match("--[a-z]", word)} - known
        assert not unknown, f"manage.py {name} {' '.join(inner)} has no {unknown}"


def test_the_commands_are_found() -> None:
    found = [(name, words) for page in PAGES for name, words in commands(page)]
    assert len(found) > 50
    assert ("breakers", ["open", "cache", "--reason", '"']) in found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_targets_of_make_are_there(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {name for text in code(page) for name in re.findall(r"(?:^|&& )make ([a-z][a-z-]*)", text)}
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_json_is_json(page: Path) -> None:
    """Blocks of JSON, and bodies of `curl` that are written out."""
    text = page.read_text(encoding="utf-8")
    bodies = re.findall(r"(?:-d|--data) '(\{[^'…$]*\})'", text) + re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    for body in bodies:
        json.loads(body)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_anchors_are_headings(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
        there = page.parent / target if target else page
        assert anchor in slugs(there), f"{target}#{anchor}"
