"""`manage.py lanes`: show the lanes and who applies them, or change their number."""

from __future__ import annotations

from typing import Any

import psycopg
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table

from counters.apply import lane_count
from counters.intake import journal
from counters.intake.journal import Journal, TooFewCopies
from counters.intake.lease import Lease
from sharding import lanes, topology
from sharding.topology import NoTopology


class Command(BaseCommand):
    help = "Show the lanes, or give each shard another number of them. Writes get 503 while the journals are drained, for seconds."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("count", nargs="?", type=int, choices=lanes.COUNTS, help="lanes of each shard from now on")
        parser.add_argument(
            "--seconds", type=float, default=60.0, help="how long the journals may take to be empty (default: 60)"
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            if options["count"] is None:
                self._show()
            else:
                self._change(options["count"], options["seconds"])
        except TooFewCopies as error:
            raise CommandError(f"{error}: bring the replica back, then run it again. See docs/journal.md.") from error
        except RedisError as error:
            raise CommandError(
                f"the journal does not answer ({error}): is its Redis up? See TALLY_JOURNAL_URL."
            ) from error
        except (NoTopology, psycopg.Error) as error:
            raise CommandError(f"{str(error).strip()}: are all primaries up? See manage.py replicas.") from error

    def _change(self, count: int, seconds: float) -> None:
        with Console(stderr=True).status("draining the journals") as status:
            try:
                changed = lane_count.change(
                    count,
                    seconds=seconds,
                    tell=lambda left: status.update(f"draining the journals: {left:,} batches left"),
                )
            except lane_count.NotDrained as error:
                raise CommandError(
                    f"{error}: nothing was changed. See manage.py replicas and the workers' logs, then run it again."
                ) from error
        self.stdout.write(f"each shard has {changed.lane_count} lanes; topology version {changed.version}")

    def _show(self) -> None:
        table = Table("lane", "batches", "oldest", "applied by", title="lanes")
        for shard in range(settings.TALLY.shard_count):
            for lane in sorted({*topology.reload().lanes_of(shard), *journal.occupied(shard)}):
                table.add_row(str(lane), f"{Journal(lane).depth():,}", f"{Journal(lane).age():.3f} s", _holder(lane))
        Console().print(table)


def _holder(lane: lanes.Lane) -> str:
    holder = Lease(lane).holder()
    return "-" if holder is None else holder.partition("#")[0] or "(a task was sent)"
