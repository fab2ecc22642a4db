"""`manage.py migrate_all`: migrations of the control database and of every shard, then the topology in force."""

from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from sharding import databases, topology


class Command(BaseCommand):
    help = "Migrate the control database and every shard, and put the topology in force. Safe to run again."
    requires_system_checks = ()

    def handle(self, *_args: Any, **options: Any) -> None:
        databases.BoundedConnection.timeout = None  # a migration takes as long as it takes
        shards = settings.TALLY.shard_count
        for alias in [databases.CONTROL, *map(databases.primary, range(shards))]:
            call_command("migrate", database=alias, interactive=False, verbosity=max(0, options["verbosity"] - 1))
        try:
            in_force = topology.put_in_force(shards)
        except (topology.WrongShard, ValueError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"migrated control and {shards} shards; topology version {in_force.version}")
