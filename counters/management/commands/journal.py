"""`manage.py journal`: what is in the journal, and what was set aside."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table

from counters.intake import dispatch, journal


class Command(BaseCommand):
    help = "Depth and age of each shard's journal, its oldest entries, and batches that were set aside."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="for programs")
        parser.add_argument("--entries", type=int, default=5, metavar="N", help="show the N oldest entries of each shard")
        parser.add_argument("--retry", metavar="ID", help="put a batch that was set aside back into the journal")
        parser.add_argument("--discard", metavar="ID", help="forget a batch that was set aside, for ever")

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            if options["retry"] or options["discard"]:
                self._act(options)
            elif options["json"]:
                self.stdout.write(json.dumps([_shard(shard, options["entries"]) for shard in range(settings.TALLY.shard_count)]))
            else:
                self._show(options["entries"])
        except RedisError as error:
            raise CommandError(f"the journal does not answer ({error}): is its Redis up? See TALLY_JOURNAL_URL.") from error

    def _act(self, options: dict[str, Any]) -> None:
        try:
            batch = UUID(hex=options["retry"] or options["discard"])
        except ValueError as error:
            raise CommandError("an id has 32 hexadecimal digits: see manage.py journal") from error
        for shard in range(settings.TALLY.shard_count):
            if batch not in journal.poison(shard):
                continue
            if options["discard"]:
                journal.discard(shard, batch)
                self.stdout.write(f"forgotten: {batch.hex}")
            elif position := journal.retry(shard, batch):
                dispatch.send(shard, batch, position, again=True)
                self.stdout.write(f"back in the journal of shard {shard}: {batch.hex}")
            return
        raise CommandError(f"no batch {batch.hex} was set aside: see manage.py journal")

    def _show(self, entries: int) -> None:
        console = Console()
        table = Table("shard", "entries", "oldest", "bytes", "set aside", title="journal")
        for shard in range(settings.TALLY.shard_count):
            found = _shard(shard, entries)
            oldest = f"{found['age_seconds']:.3f} s" if found["depth"] else "-"
            table.add_row(str(shard), f"{found['depth']:,}", oldest, f"{found['bytes']:,}", str(len(found["set_aside"])))
        console.print(table)
        for shard in range(settings.TALLY.shard_count):
            found = _shard(shard, entries)
            for entry in found["entries"]:
                console.print(f"shard {shard}  {entry['id']}  position {entry['position']}  {entry['age_seconds']:.3f} s")
            for one in found["set_aside"]:
                console.print(f"shard {shard}  {one['id']}  set aside: {one['reason']}")


def _shard(shard: int, entries: int) -> dict[str, Any]:
    """What the journal of one shard holds. Raises `RedisError`."""
    now = journal.now()
    oldest = [
        {"id": entry.id.hex, "position": entry.position, "age_seconds": max(0.0, (now - entry.position) / 1e6)}
        for entry in journal.entries(shard, limit=max(1, entries))
    ]
    return {
        "shard": shard,
        "depth": journal.depth(shard),
        "bytes": journal.size(shard),
        "age_seconds": oldest[0]["age_seconds"] if oldest else 0.0,
        "entries": oldest[:entries],
        "set_aside": [
            {"id": id.hex, "position": one.position, "reason": one.reason, "bytes": len(one.data)}
            for id, one in journal.poison(shard).items()
        ],
    }
