"""`manage.py journal`: show the journal and set-aside batches, retry or discard the latter."""

from __future__ import annotations

import json
from operator import itemgetter
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table

from counters.intake import dispatch, journal
from counters.intake.journal import Journal
from counters.intake.set_aside import SetAsideBatches, lanes_with_set_aside
from counters.operators import journal_entries
from sharding.lanes import FRESH, SPILL, Queue


class Command(BaseCommand):
    help = (
        "Depth and age of each shard's journal and spill queues, the oldest entries, and batches that were set aside."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="for programs")
        parser.add_argument(
            "--entries", type=int, default=5, metavar="N", help="show the N oldest entries of each shard"
        )
        parser.add_argument("--retry", metavar="ID", help="put a batch that was set aside back into the journal")
        parser.add_argument("--discard", metavar="ID", help="forget a batch that was set aside, for ever")

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            if options["retry"] or options["discard"]:
                self._act(options)
            elif options["json"]:
                self.stdout.write(
                    json.dumps([_shard(shard, options["entries"]) for shard in range(settings.TALLY.shard_count)])
                )
            else:
                self._show(options["entries"])
        except RedisError as error:
            raise CommandError(
                f"the journal does not answer ({error}): is its Redis up? See TALLY_JOURNAL_URL."
            ) from error

    def _act(self, options: dict[str, Any]) -> None:
        try:
            batch = UUID(hex=options["retry"] or options["discard"])
        except ValueError as error:
            raise CommandError("an id has 32 hexadecimal digits: see manage.py journal") from error
        found: list[str] = []  # one flush may have a batch in several lanes
        for shard in range(settings.TALLY.shard_count):
            for lane in lanes_with_set_aside(shard):
                batches = SetAsideBatches(lane)
                if options["discard"] and batches.discard(batch):
                    found.append(f"forgotten: {batch.hex}")
                elif options["retry"] and batches.retry(batch) is not None:
                    dispatch.send(lane)
                    found.append(f"back in the journal of lane {lane}: {batch.hex}")
        if not found:
            raise CommandError(f"no batch {batch.hex} was set aside: see manage.py journal")
        self.stdout.write("\n".join(found))

    def _show(self, entries: int) -> None:
        console = Console()
        table = Table("shard", "entries", "oldest", "bytes", "excess", "stale", "set aside", title="journal")
        for shard in range(settings.TALLY.shard_count):
            found = _shard(shard, entries)
            oldest = f"{found['age_seconds']:.3f} s" if found["depth"] else "-"
            table.add_row(
                str(shard),
                f"{found['depth']:,}",
                oldest,
                f"{found['bytes']:,}",
                *(_increments(found[queue]) for queue in SPILL),
                str(len(found["set_aside"])),
            )
        console.print(table)
        for shard in range(settings.TALLY.shard_count):
            found = _shard(shard, entries)
            for entry in found["entries"]:
                console.print(
                    f"lane {entry['lane']}  {entry['id']}  position {entry['position']}  {entry['age_seconds']:.3f} s"
                )
            for one in found["set_aside"]:
                console.print(f"lane {one['lane']}  {one['id']}  set aside: {one['reason']}")


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
