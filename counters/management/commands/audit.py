"""`manage.py audit`: check that the audit log is as it was written."""

from __future__ import annotations

from datetime import datetime

import msgspec
from rich.console import RenderableType

from counters.models import AuditEntry
from counters.operators import audit
from runtime import showing
from runtime.commands import ShowCommand
from runtime.showing import WELL, WRONG


class Checked(msgspec.Struct):
    """`broken`: the number of the first entry that was changed, or follows one that is missing. Of the newest entry: its
    moment and hash."""

    entries: int
    broken: int | None
    newest: datetime | None
    hash: str | None


class Command(ShowCommand[Checked]):
    help = (
        "Check the chain of the audit log's entries: exit status 1 if one was changed or is missing. Shows the newest "
        "entry's hash, which the log of the process that wrote it has, too."
    )

    def look(self) -> Checked:
        newest = AuditEntry.objects.order_by("-id").first()
        if newest is None:
            return Checked(0, None, None, None)
        return Checked(newest.id, audit.first_broken(), newest.at, newest.hash)

    def exit_status(self, found: Checked) -> int:
        return WELL if found.broken is None else WRONG

    def page(self, found: Checked) -> RenderableType:
        newest = (
            f"the newest at {found.newest:%Y-%m-%d %H:%M:%S} UTC, hash {found.hash}" if found.newest else "none yet"
        )
        if found.broken is None:
            return showing.lines([f"{found.entries} entries, whole; {newest}"])
        wrong = f"entry {found.broken} was changed, or the one before it is missing; {newest}"
        return showing.lines([wrong, "The logs of the processes have each entry as it was written, with its hash."])
