"""What all commands that show something share: `--json`, `--watch` and the exit status.

The exit status is 0 if all is well, 1 if something that is shown is wrong, and 2 if it could not be seen. A wrong
command line is 2, too, as argparse has it. No Django here: `manage.py cluster` runs without it. `runtime.commands` has
the base class for Django's commands.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any, Generic, TextIO, TypeVar

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

WELL, WRONG, UNSEEN = 0, 1, 2
WATCH_SECONDS = 2.0
LEAST_SECONDS, MOST_SECONDS = 0.1, 3600.0
PLAIN_WIDTH = 10_000  # columns of a file or a pipe: no line is wrapped, and no cell is cut

T = TypeVar("T")


class Unseen(Exception):
    """What was to be shown could not be looked at. The text says why, and what to do next."""


class Showing(Generic[T]):
    """Something that a command shows: a subclass has `look` and `page`, and the others where it needs them."""

    def look(self) -> T:
        """What is shown, as it is now. Raises `Unseen`."""
        raise NotImplementedError

    def seen(self) -> T:
        """`look`, for a base class to put something around it. Raises `Unseen`."""
        return self.look()

    def page(self, found: T) -> RenderableType:
        """It for people."""
        raise NotImplementedError

    def document(self, found: T) -> Any:
        """It for programs, as msgspec can encode it."""
        return found

    def exit_status(self, found: T) -> int:  # noqa: ARG002 - of a subclass that looks at it
        """`WELL`, `WRONG`, or `UNSEEN` if nothing seen is wrong and not all could be seen."""
        return WELL

    def show(self, options: Mapping[str, Any], out: TextIO, *, styled: bool = True) -> int:
        """Show it once, or until Ctrl-C with `watch`. Returns the exit status of the last look. Raises `Unseen`, but not
        while it watches."""
        if options["json"]:
            found = self.seen()
            out.write(msgspec.json.encode(self.document(found)).decode() + "\n")
            return self.exit_status(found)
        screen = Console(
            file=out,
            width=None if out.isatty() else PLAIN_WIDTH,
            color_system="auto" if styled else None,
            highlight=False,
        )
        if options["watch"] is not None:
            return self._watch(screen, options["watch"])
        found = self.seen()
        screen.print(self.page(found))
        return self.exit_status(found)

    def _watch(self, screen: Console, pause: float) -> int:
        """On a terminal one picture that changes, elsewhere one after the other."""
        status = UNSEEN
        live = Live(console=screen, auto_refresh=False) if screen.is_terminal and not screen.is_dumb_terminal else None
        try:
            with live or nullcontext():
                while True:
                    status, page = self._pictured()
                    note = Text(f"{time.strftime('%H:%M:%S')}, every {pause:g} s until Ctrl-C", "dim")
                    if live:
                        live.update(Group(page, note), refresh=True)
                    else:
                        screen.print(Group(note, page))
                        screen.file.flush()
                    time.sleep(pause)
        except KeyboardInterrupt:
            return status

    def _pictured(self) -> tuple[int, RenderableType]:
        try:
            found = self.seen()
        except Unseen as error:
            return UNSEEN, Text(str(error), "red")
        return self.exit_status(found), self.page(found)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every command that shows something."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON document, for programs")
    form.add_argument(
        "--watch",
        nargs="?",
        type=_seconds,
        const=WATCH_SECONDS,
        metavar="SECONDS",
        help=f"look again and again, with this pause (default: {WATCH_SECONDS:g}), until Ctrl-C",
    )


def lines(texts: Iterable[str]) -> Group:
    """One line for each text, as it is."""
    return Group(*map(Text, texts))


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not LEAST_SECONDS <= seconds <= MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from {LEAST_SECONDS:g} to {MOST_SECONDS:g}")
    return seconds
