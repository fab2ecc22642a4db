"""`manage.py lanes`: show the lanes and who applies them, wake some, or change their number."""

from __future__ import annotations

from typing import Any, ClassVar

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from rich.console import Console
from rich.table import Table

from counters.apply import lane_count
from counters.intake.journal import TooFewCopies
from counters.operators import lanes as operators
from counters.operators import queues
from counters.operators.lanes import Row
from runtime.commands import BadUsage, Remedies, ShowCommand
from runtime.showing import WELL, WRONG
from sharding import lanes, topology
from sharding.topology import NoTopology


class Command(ShowCommand[list[Row]]):
    help = (
        "Show the lanes, wake some, or give each shard another number of them. For the latter writes get 503 while the "
        "journals are drained, for seconds. Exit status 1: a batch has waited for long."
    )
    remedies: ClassVar[Remedies] = {
        TooFewCopies: "{error}: bring the replica back, then run it again. See docs/journal.md.",
        NoTopology: "{error} See `manage.py doctor`.",
    }

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("count", nargs="?", type=int, choices=lanes.COUNTS, help="lanes of each shard from now on")
        parser.add_argument(
            "--wake",
            action="append",
            default=[],
            metavar="LANE",
            help="send the task of this lane now (0.3, or 0.3:excess for its spill queue); may be given more than once",
        )
        parser.add_argument(
            "--seconds", type=float, default=60.0, help="how long the journals may take to be empty (default: 60)"
        )

    def change(self) -> str | None:
        count, woken = self.options["count"], self.options["wake"]
        if woken and count is not None:
            raise BadUsage("either --wake or another number of lanes")
        return _wake(woken) if woken else None if count is None else _change(count, self.options["seconds"])

    def look(self) -> list[Row]:
        topology.reload()
        return operators.overview(range(settings.TALLY.shard_count), lanes.QUEUES)

    def document(self, found: list[Row]) -> list[dict[str, Any]]:
        return [_document(one) for one in found]

    def exit_status(self, found: list[Row]) -> int:
        late = queues.late_seconds()
        return WRONG if any(one.age.total_seconds() >= late for one in found if not one.lane.spills) else WELL

    def page(self, found: list[Row]) -> Table:
        table = Table("lane", "batches", "increments", "oldest", "applied by", title="lanes")
        for row in found:
            age = f"{row.age.total_seconds():.0f} s" if row.batches else "-"
            table.add_row(row.pk, f"{row.batches:,}", f"{row.increments:,}", age, row.applied_by or "-")
        return table


def _document(row: Row) -> dict[str, Any]:
    """`applied_by`: the worker, empty if only a task was sent, None if nobody has the lane."""
    return {
        "lane": row.pk,
        "batches": row.batches,
        "increments": row.increments,
        "bytes": row.bytes,
        "age_seconds": row.age.total_seconds(),
        "applied_by": row.holder,
        "set_aside": row.set_aside,
        "in_force": row.in_force,
    }


def _wake(names: list[str]) -> str:
    """Raises `CommandError`; those that could be woken are."""
    troubles = {name: trouble for name in names if (trouble := operators.wake(name))}
    woken = [f"woken: {name}" for name in names if name not in troubles]
    if troubles:
        raise CommandError("\n".join([*woken, *troubles.values()]))
    return "\n".join([*woken, "`manage.py lanes --watch` shows whether it becomes empty."])


def _change(count: int, seconds: float) -> str:
    with Console(stderr=True).status("draining the journals") as status:
        try:
            changed = lane_count.change(
                count,
                seconds=seconds,
                tell=lambda left: status.update(f"draining the journals: {left:,} batches left"),
            )
        except lane_count.NotDrained as error:
            raise CommandError(
                f"{error}: nothing was changed. See `manage.py replicas` and the workers' logs, then run it again."
            ) from error
    many = f"each shard has {changed.lane_count} lanes; topology version {changed.version}"
    return f"{many}. `manage.py cluster scale worker=N` gives them more workers."
