"""A page that is a walk: steps with commands, and after each of them what one sees. Pure.

A step is a heading of the second level. Its commands are blocks of ```sh, and the next block, ```text, is their output.
The paragraphs before commands explain them. In an output `…` stands for anything within a line, and a line of `…` alone
for any lines. How many blanks stand between words does not count. ```sh repeat: the commands are to be run again until
one sees that output. A step of text alone is none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from markdown_it import MarkdownIt

ANYTHING = "…"


class PageError(Exception):
    """The page is no walk; the sentence says where, and what is missing."""


@dataclass(frozen=True)
class Block:
    """Commands, the text that they print, the page's line that they begin after, and what the page says about them."""

    commands: str
    sees: str
    line: int
    repeat: bool = False
    explanation: str = ""


@dataclass(frozen=True)
class Step:
    """A heading and what is to be done under it."""

    title: str
    blocks: list[Block] = field(default_factory=list)


def parse(text: str) -> list[Step]:
    """The steps of a page. Raises `PageError` where commands have no output, or output no commands."""
    steps: list[Step] = []
    commands: tuple[str, bool, int] | None = None
    explanation: list[str] = []
    tokens = MarkdownIt().parse(text)
    for number, token in enumerate(tokens):
        if token.type == "paragraph_open":
            explanation.append(tokens[number + 1].content)
        if token.type not in ("heading_open", "fence"):
            continue
        line = token.map[0] + 1 if token.map else 0
        kind, _, option = token.info.partition(" ")
        if commands and kind != "text":
            raise _nothing_seen(commands[2])
        if token.tag == "h2":
            steps.append(Step(tokens[number + 1].content))
            explanation = []
        elif kind == "sh":
            if not steps or option not in ("", "repeat"):
                raise PageError(f"line {line}: commands stand in a step, as ```sh or ```sh repeat")
            commands = token.content, bool(option), line
        elif kind == "text":
            if commands is None:
                raise PageError(f"line {line}: there are no commands whose output this may be")
            said = "\n\n".join(explanation)
            steps[-1].blocks.append(Block(commands[0], token.content, commands[2], commands[1], said))
            commands, explanation = None, []
        elif token.type == "fence":
            raise PageError(f"line {line}: a block is ```sh, ```sh repeat or ```text, not ```{token.info}")
    if commands:
        raise _nothing_seen(commands[2])
    return [step for step in steps if step.blocks]


def _nothing_seen(line: int) -> PageError:
    return PageError(f"line {line}: after these commands the page does not say what one sees, as ```text")


def difference(expected: str, seen: str) -> str:
    """A sentence on the first line of an output that is not as expected; "" if there is none."""
    wanted = _lines(expected)
    output = _whole(seen)
    if re.fullmatch(_pattern(wanted), output):
        return ""
    for count in range(len(wanted), -1, -1):
        if found := re.match(_pattern(wanted[:count]), output):
            break
    rest = _lines(output[found.end() :]) if found else []
    said = f"it printed `{rest[0]}`" if rest else "it printed nothing more"
    after = f"after {count} line{'' if count == 1 else 's'} as expected, " if count else ""
    return f"{after}{said}; expected {f'`{wanted[count]}`' if count < len(wanted) else 'nothing more'}"


def compared(expected: str, seen: str) -> list[tuple[int, int]]:
    """The parts of an output that stand on the page, as [start, end) in characters. None of one that is not as expected."""
    found = re.fullmatch(_pattern(_lines(expected)), _whole(seen))
    return [found.span(number) for number in range(1, len(found.groups()) + 1)] if found else []


def _lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.strip().splitlines()]


def _whole(seen: str) -> str:
    return f"{text}\n" if (text := seen.rstrip()) else ""


def _pattern(lines: list[str]) -> str:
    """Each group is a piece of the page."""
    return r"\n*" + "".join("(?:.*\n)*?" if line == ANYTHING else _line(line) for line in lines)


def _line(line: str) -> str:
    pieces = (r"[ \t]+".join(map(re.escape, piece.split(" "))) for piece in line.split(ANYTHING))
    return r"[ \t]*" + ".*".join(f"({piece})" if piece else "" for piece in pieces) + "[ \\t]*\n"
