"""`manage.py migrate_all`: migrate the control database and every shard, then put the topology in force."""

from typing import Any

import psycopg
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from counters.apply import fill
from sharding import databases, topology


class Command(BaseCommand):
    help = "Migrate the control database and every shard, and put the topology in force. Safe to run again."
    requires_system_checks = ()

    def handle(self, *_args: Any, **options: Any) -> None:
        for kind in (databases.BoundedConnection, databases.ControlConnection):
            kind.timeout = None  # migrations have no time-out
        shards = settings.TALLY.shard_count
        for alias in [databases.CONTROL, *map(databases.primary, range(shards))]:
            call_command("migrate", database=alias, interactive=False, verbosity=max(0, options["verbosity"] - 1))
        try:
            topology.put_in_force(shards, settings.TALLY.lanes)
            refilled = sum(map(fill.put_in_force, range(shards)))
            in_force = topology.reload()
        except (topology.WrongShard, ValueError) as error:
            raise CommandError(str(error)) from error
        except psycopg.Error as error:
            raise CommandError(
                f"the topology could not be put in force: {str(error).strip()}. Run it again."
            ) from error
        if refilled:
            percent = settings.TALLY.counter_fillfactor
            self.stdout.write(f"{refilled} partitions fill new pages to {percent} %; full pages stay as they are")
        self.stdout.write(
            f"migrated control and {shards} shards; topology version {in_force.version}, {in_force.lane_count} lanes a shard"
        )
