"""`manage.py doctor`: what is wrong, what follows from it, and what mends it."""

from __future__ import annotations

import logging
import time
from typing import Any

import msgspec
from django.core.management.base import BaseCommand, CommandParser
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.text import Text

from counters.operators import diagnosis
from counters.operators.diagnosis import Diagnosis, Finding

PLAIN_WIDTH = 160  # columns of what is written to a file or a pipe
COLOURS = {"broken": "bold red", "warning": "yellow", "unknown": "dim"}


class Command(BaseCommand):
    help = (
        "Look at the whole system and say what is wrong, what follows, and what mends it. Exit status 0: all is well; "
        "1: something is wrong; 2: nothing seen is wrong, but not all could be seen."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        form = parser.add_mutually_exclusive_group()
        form.add_argument("--json", action="store_true", help="for programs")
        form.add_argument(
            "--watch", type=float, metavar="SECONDS", help="look again and again, with this pause, until Ctrl-C"
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        logging.disable()  # what components say to the log while they are down is what is found here
        found = diagnosis.look()
        if options["json"]:
            self.stdout.write(msgspec.json.encode(found).decode())
        elif options["watch"] is not None:
            found = _watched(found, max(0.5, options["watch"]))
        else:
            Console(width=None if self.stdout.isatty() else PLAIN_WIDTH).print(_page(found))
        if found.exit_status:
            raise SystemExit(found.exit_status)


def _watched(found: Diagnosis, pause: float) -> Diagnosis:
    """The last look before Ctrl-C."""
    try:
        with Live(_page(found), auto_refresh=False) as live:
            while True:
                time.sleep(pause)
                found = diagnosis.look()
                live.update(_page(found), refresh=True)
    except KeyboardInterrupt:
        return found


def _page(found: Diagnosis) -> Group:
    if not found.findings:
        return Group(Text(f"All is well: {found.components} components were asked.", "green"))
    return Group(*(part for one in found.findings for part in _lines(one)))


def _lines(one: Finding) -> list[Any]:
    title = Text.assemble((one.severity, COLOURS[one.severity]), " ", (one.subject, "bold"))
    return [title, Padding(Text(one.what), (0, 0, 0, 2)), Padding(Text(f"→ {one.remedy}"), (0, 0, 0, 2))]
