"""`manage.py journal`: show the journal and set-aside batches, retry or discard the latter."""

from __future__ import annotations

from operator import itemgetter
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from rich.console import Group
from rich.table import Table
from rich.text import Text

from counters.intake import dispatch, journal
from counters.intake.journal import Journal
from counters.intake.set_aside import SetAsideBatches, lanes_with_set_aside
from counters.operators import journal_entries, queues
from runtime.commands import BadUsage, ShowCommand
from runtime.showing import WELL, WRONG
from sharding.lanes import FRESH, SPILL, Queue


class Command(ShowCommand[list[dict[str, Any]]]):
    help = (
        "Depth and age of each shard's journal and spill queues, the oldest entries, and batches that were set aside. Exit "
        "status 1: a batch was set aside, or has waited for long."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--entries", type=int, default=5, metavar="N", help="show the N oldest entries of each shard"
        )
        parser.add_argument("--retry", metavar="ID", help="put a batch that was set aside back into the journal")
        parser.add_argument("--discard", metavar="ID", help="forget a batch that was set aside, for ever")

    def change(self) -> str | None:
        if not (self.options["retry"] or self.options["discard"]):
            return None
        try:
            batch = UUID(hex=self.options["retry"] or self.options["discard"])
        except ValueError as error:
            raise BadUsage("an id has 32 hexadecimal digits: see `manage.py journal`") from error
        found: list[str] = []  # one flush may have a batch in several lanes
        for shard in range(settings.TALLY.shard_count):
            for lane in lanes_with_set_aside(shard):
                batches = SetAsideBatches(lane)
                if self.options["discard"] and batches.discard(batch):
                    found.append(f"forgotten: {batch.hex}")
                elif self.options["retry"] and batches.retry(batch) is not None:
                    dispatch.send(lane)
                    found.append(f"back in the journal of lane {lane}: {batch.hex}")
        if not found:
            raise CommandError(f"no batch {batch.hex} was set aside: see `manage.py journal`")
        if self.options["retry"]:
            found.append("It is set aside again if it still cannot be applied: see `manage.py journal`.")
        return "\n".join(found)

    def look(self) -> list[dict[str, Any]]:
        return [_shard(shard, self.options["entries"]) for shard in range(settings.TALLY.shard_count)]

    def exit_status(self, found: list[dict[str, Any]]) -> int:
        late = queues.late_seconds()
        return WRONG if any(one["set_aside"] or one["age_seconds"] >= late for one in found) else WELL

    def page(self, found: list[dict[str, Any]]) -> Group:
        table = Table("shard", "entries", "oldest", "bytes", "excess", "stale", "set aside", title="journal")
        lines: list[str] = []
        for one in found:
            table.add_row(
                str(one["shard"]),
                f"{one['depth']:,}",
                f"{one['age_seconds']:.3f} s" if one["depth"] else "-",
                f"{one['bytes']:,}",
                *(_increments(one[queue]) for queue in SPILL),
                str(len(one["set_aside"])),
            )
            lines += [
                f"lane {entry['lane']}  {entry['id']}  position {entry['position']}  {entry['age_seconds']:.3f} s"
                for entry in one["entries"]
            ]
            lines += [f"lane {kept['lane']}  {kept['id']}  set aside: {kept['reason']}" for kept in one["set_aside"]]
        return Group(table, *map(Text, lines))


def _spilled(shard: int, queue: Queue) -> dict[str, float]:
    """What is in a spill queue of a shard. Raises `RedisError`."""
    held = journal_entries.spilled(shard, queue)
    return {"increments": held.increments, "depth": held.depth, "age_seconds": held.age.total_seconds()}


def _increments(spilled: dict[str, float]) -> str:
    return f"{spilled['increments']:,} ({spilled['age_seconds']:.0f} s)" if spilled["depth"] else "0"


def _shard(shard: int, entries: int) -> dict[str, Any]:
    """The contents of one shard's journals. Raises `RedisError`."""
    now, fresh, lanes = journal.now(), journal.occupied(shard, (FRESH,)), journal.occupied(shard)
    oldest = sorted(
        (
            {
                "lane": str(lane),
                "id": entry.id.hex,
                "position": entry.position,
                "age_seconds": max(0.0, (now - entry.position) / 1e6),
            }
            for lane in lanes
            for entry in Journal(lane).entries(limit=max(1, entries))
        ),
        key=itemgetter("position"),
    )
    return {
        "shard": shard,
        "depth": sum(Journal(lane).depth() for lane in fresh),
        "bytes": sum(Journal(lane).size() for lane in fresh),
        "age_seconds": max((0.0, *(Journal(lane).age() for lane in fresh))),
        **{queue: _spilled(shard, queue) for queue in SPILL},
        "entries": oldest[:entries],
        "set_aside": [
            {"lane": str(lane), "id": id.hex, "position": one.position, "reason": one.reason, "bytes": len(one.data)}
            for lane in lanes_with_set_aside(shard)
            for id, one in SetAsideBatches(lane).all().items()
        ],
    }
