"""`manage.py doctor`: what is wrong, what follows from it, and what mends it."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.padding import Padding
from rich.text import Text

from counters.operators import diagnosis
from counters.operators.diagnosis import Diagnosis, Finding
from runtime.commands import ShowCommand

COLOURS = {"broken": "bold red", "warning": "yellow", "unknown": "dim"}


class Command(ShowCommand[Diagnosis]):
    help = (
        "Look at the whole system and say what is wrong, what follows, and what mends it. Exit status 0: all is well; "
        "1: something is wrong; 2: nothing seen is wrong, but not all could be seen."
    )

    def look(self) -> Diagnosis:
        return diagnosis.look()

    def exit_status(self, found: Diagnosis) -> int:
        return found.exit_status

    def page(self, found: Diagnosis) -> Group:
        if not found.findings:
            return Group(Text(f"All is well: {found.components} components were asked.", "green"))
        return Group(*(part for one in found.findings for part in _lines(one)))


def _lines(one: Finding) -> list[Any]:
    title = Text.assemble((one.severity, COLOURS[one.severity]), " ", (one.subject, "bold"))
    return [title, *(Padding(Text(text), (0, 0, 0, 2), expand=False) for text in (one.what, f"→ {one.remedy}"))]
