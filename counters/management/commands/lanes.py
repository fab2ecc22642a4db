"""`manage.py lanes`: show the lanes and who applies them, wake some, or change their number."""

from __future__ import annotations

from typing import Any

import psycopg
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table

from counters.apply import lane_count
from counters.intake.journal import TooFewCopies
from counters.operators import lanes as operators
from sharding import lanes, topology
from sharding.topology import NoTopology


class Command(BaseCommand):
    help = (
        "Show the lanes, wake some, or give each shard another number of them. For the latter writes get 503 while the "
        "journals are drained, for seconds."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
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

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            if options["wake"]:
                if options["count"] is not None:
                    raise CommandError("either --wake or another number of lanes")
                self._wake(options["wake"])
            elif options["count"] is None:
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

    def _wake(self, names: list[str]) -> None:
        troubles = {name: trouble for name in names if (trouble := operators.wake(name))}
        for name in names:
            if name not in troubles:
                self.stdout.write(f"woken: {name}")
        if troubles:
            raise CommandError("\n".join(troubles.values()))

    def _show(self) -> None:
        topology.reload()
        table = Table("lane", "batches", "increments", "oldest", "applied by", title="lanes")
        for row in operators.overview(range(settings.TALLY.shard_count), lanes.QUEUES):
            age = f"{row.age.total_seconds():.0f} s" if row.batches else "-"
            table.add_row(row.pk, f"{row.batches:,}", f"{row.increments:,}", age, row.applied_by or "-")
        Console().print(table)
